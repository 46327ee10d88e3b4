"""A chat server for tests that bills by tokens and keeps its books; what else it does is a list of troubles."""

import itertools
import os
import random
import re
import signal
import threading
import time
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


def fails_at_random(seed, share, statuses=(500, 502, 503)):
    """A trouble: a share of the requests fails, and is not billed."""
    draw = random.Random(seed)
    return fails(draw.choice(statuses) if draw.random() < share else None for _ in itertools.count())


class Limited:
    """A trouble: after so many requests the next is refused, and told to come back in a moment.

    It says in headers how many are left, as OpenAI does; one who reads them is never refused.
    """

    def __init__(self, number, moment=0.05):
        self.number, self.moment, self.left, self.refused = number, moment, number, 0
        self.until = 0.0

    def __call__(self, chat, handler, image):
        if time.time() >= self.until:
            self.left, self.until = self.number, time.time() + self.moment
        self.left -= 1
        if self.left < 0:
            self.refused += 1
            handler.reply(429, {"error": "rate limit"}, {"Retry-After": str(self.moment), **self.headers(chat)})
        return self.left < 0

    def headers(self, chat):
        left = f"{max(0.0, self.until - time.time()):.3f}s"
        return {"x-ratelimit-remaining-requests": str(max(0, self.left)), "x-ratelimit-reset-requests": left}


class Killer:
    """Kills the process ``client`` (-9) at these requests: before one is billed, before its reply is sent, and after.

    Args:
        moments: by the number of the request, ``billing``, ``reply`` or ``end``.
    """

    def __init__(self, moments):
        self.moments, self.number, self.client = moments, 0, None

    def __call__(self, chat, handler, image):
        self.number += 1
        moment = self.moments.get(self.number)
        if moment == "billing":
            self.kill()
        elif moment is not None:
            usage = chat.tokens(image)
            chat.billed.append((image, usage))
            if moment == "end":
                handler.reply(200, chat.reply(image, usage))
            self.kill()
        return moment is not None

    def kill(self):
        os.kill(self.client, signal.SIGKILL)


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
