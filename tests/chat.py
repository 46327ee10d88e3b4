"""A chat server for tests that bills by tokens and keeps its books; what else it does is a list of troubles."""

import re
import threading
from collections import Counter

from servers import answering

from kdlightning.accounting.tariff import Usage
from kdlightning.remote import HTTPHardLabelTeacher, Patience, Reader

LABELS = ["cat", "dog", "eel"]
HASTY = Patience(connect_timeout=30, read_timeout=60, attempts=50, backoff=0.01, longest_backoff=0.05, jitter=0.01)
REQUEST = {
    "model": "toy",
    "max_tokens": 9,
    "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:x;base64,{image}"}}]}],
}


class Chat:
    """Answers each image with a label, as OpenAI's chat completions do, and writes down what it bills.

    Args:
        say: the text for an image (as it stands in the request, base64); by default one of the labels, by its bytes.
        tokens: what an image's answer is billed; by default 85 to 104 in, by its bytes, and 1 out.
        troubles: functions ``(chat, handler, image)`` that are asked in turn before an image is answered; one that has
            replied itself returns True.
        headers: function of the chat: the headers of its next reply.

    Attributes:
        asked: how often each image came.
        billed: image and tokens of every answer, whether or not its client has lived to read it.
    """

    def __init__(self, say=None, tokens=None, troubles=(), headers=lambda chat: {}):
        self.say = say or (lambda image: LABELS[_digest(image) % len(LABELS)])
        self.tokens = tokens or (lambda image: Usage(85 + _digest(image) % 20, 1))
        self.troubles, self.headers = troubles, headers
        self.asked, self.billed, self.lock = Counter(), [], threading.Lock()

    def __call__(self, handler, body):
        image = re.search(rb"base64,([^\"]+)", body)[1].decode()
        with self.lock:
            self.asked[image] += 1
            if any(trouble(self, handler, image) for trouble in self.troubles):
                return
            usage = self.tokens(image)
            self.billed.append((image, usage))
        handler.reply(200, self.reply(image, usage), self.headers(self))

    def reply(self, image, usage):
        told = {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens}
        return {"choices": [{"message": {"content": self.say(image)}}], "usage": told}

    def serving(self):
        """The server, while it runs; yields its url."""
        return answering(self)

    @property
    def total(self):
        """Input and output tokens that were billed."""
        return Usage(*(sum(usage[side] for _, usage in self.billed) for side in (0, 1)))


def fails(statuses):
    """A trouble: reply the next of these statuses, if it is one, and bill nothing."""
    left = iter(statuses)

    def trouble(chat, handler, image):
        status = next(left, None)
        if status:
            handler.reply(status, {"error": "try again"})
        return bool(status)

    return trouble


def chat_teacher(url, **options):
    """A teacher that asks such a server."""
    options = {
        "reader": Reader(answer="choices.0.message.content"),
        "labels": LABELS,
        "patience": HASTY,
        "known_as": "chat",
        **options,
    }
    return HTTPHardLabelTeacher(url, REQUEST, "text", **options)


def _digest(image):
    return sum(image.encode())
