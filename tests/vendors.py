"""Two vendors of batch jobs for tests, OpenAI's and Anthropic's, that keep books of what they bill."""

import json
import random
import re
import threading
import time
from collections import Counter
from datetime import UTC, datetime

from chat import LABELS, _digest
from servers import answering

from kdlightning.accounting.tariff import Tariff, Usage
from kdlightning.remote import Jobs, Patience
from kdlightning.remote.providers import AnthropicBatchTeacher, OpenAIBatchTeacher

TARIFF = Tariff(input=0.15, output=0.6, batch=0.5)
HASTY = Patience(connect_timeout=30, read_timeout=60, attempts=8, backoff=0.01, longest_backoff=0.05, jitter=0.01)
QUICK = Jobs(images=20, every=0.02, settling=0.1)
ANSWERED, EXPIRED, FAILED, REFUSED, LOST = "answered", "expired", "failed", "refused", "lost"


class Vendor:
    """Works on jobs as soon as they are created, and tells of it at the second look.

    Args:
        say: the text for an image, base64; by default one of the labels, by its bytes.
        fate: function of an image and of how often it came before: one of the five above; all are answered by default.
        looks: how often a job is looked at until it is over.
        troubles: functions ``(vendor, handler, what, job)``, asked before a request is served and, with ``what`` in
            capitals, before its reply is sent: upload, create, look, fetch, list. One that has replied returns True.
        pages: jobs in a page of the list.
        fails: function of a job's number: the error for which all of it fails; None for none (OpenAI).

    Attributes:
        came: how often each image was in a job.
        billed: image and tokens of each answer.
        asked: how often each of upload, create, look, fetch, list was asked.
    """

    def __init__(self, say=None, fate=None, looks=1, troubles=(), pages=2, seed=0, fails=lambda number: None):
        self.say = say or (lambda image: LABELS[_digest(image) % len(LABELS)])
        self.fate = fate or (lambda image, before: ANSWERED)
        self.looks, self.troubles, self.pages, self.random = looks, troubles, pages, random.Random(seed)
        self.fails = fails
        self.jobs, self.files, self.asked, self.came, self.billed = {}, {}, Counter(), Counter(), []
        self.lock, self.handed = threading.Lock(), []  # handed: the custom ids of all requests

    def serving(self):
        """The server, while it runs; yields its url."""
        return answering(self)

    def __call__(self, handler, body):
        with self.lock:
            what, job = self.route(handler)
            self.asked[what] += 1
            if any(trouble(self, handler, what, job) for trouble in self.troubles):
                return
            reply = getattr(self, what)(handler, body, job)
            if not any(trouble(self, handler, what.upper(), job) for trouble in self.troubles):
                handler.reply(*(reply if isinstance(reply, tuple) else (200, reply)))

    def work(self, requests, **more):
        """A job is created: what becomes of its requests is settled, and billed."""
        name = f"{self.prefix}_{len(self.jobs) + 1}"
        outcomes = []
        if error := self.fails(len(self.jobs) + 1):
            told = {"status": "failed", "errors": {"object": "list", "data": [error]}, "created": time.time()}
            self.jobs[name] = {"looks": 0, "outcomes": [], **told, **more}
            return name
        for mark, image in requests:
            self.handed.append(mark)
            outcomes.append((mark, image, self.fate(image, self.came[image])))
            self.came[image] += 1
            if outcomes[-1][2] in (ANSWERED, LOST):
                self.billed.append((image, self.tokens(image)))
        self.random.shuffle(outcomes)
        self.jobs[name] = {"looks": 0, "outcomes": outcomes, "created": time.time(), **more}
        return name

    def over(self, job):
        return self.jobs[job]["looks"] > self.looks

    def tokens(self, image):
        return Usage(85 + _digest(image) % 20, 1)

    def page(self, handler, key):
        """Newest first, from behind the one that is named."""
        names = list(self.jobs)[::-1]
        after = re.search(rf"[?&]{key}=(\w+)", handler.path)
        names = names[names.index(after[1]) + 1 :] if after else names
        for name in names[: self.pages]:
            self.jobs[name]["looks"] += 1
        data = [self.told(name) for name in names[: self.pages]]
        return {"object": "list", "data": data, "has_more": len(names) > self.pages}

    def look(self, handler, body, job):
        if job not in self.jobs:
            return 404, {"error": {"message": f"no such batch {job}"}}
        self.jobs[job]["looks"] += 1
        return self.told(job)

    def lines(self, job, fates):
        return "\n".join(
            json.dumps(self.result(*one)) for one in self.jobs[job]["outcomes"] if one[2] in fates
        ).encode()


class OpenAI(Vendor):
    prefix = "batch"

    def route(self, handler):
        path = handler.path.partition("?")[0]
        if handler.command == "POST":
            return ("upload", None) if path == "/files" else ("create", None)
        kind, _, rest = path[1:].partition("/")
        return ("fetch" if kind == "files" else "look" if rest else "list"), rest.removesuffix("/content") or None

    def upload(self, handler, body, job):
        assert handler.headers["Content-Type"].startswith("multipart/form-data; boundary=")
        assert b'name="purpose"\r\n\r\nbatch\r\n' in body
        file = rb'name="file"; filename="(\w+)\.jsonl"\r\nContent-Type: application/jsonl\r\n\r\n(.*)\r\n--'
        found = re.search(file, body, re.DOTALL)
        self.files[f"file-in{len(self.files)}"] = found[2]
        return {"id": f"file-in{len(self.files) - 1}", "object": "file", "purpose": "batch"}

    def create(self, handler, body, job):
        asked = json.loads(body)
        assert (asked["endpoint"], asked["completion_window"]) == ("/v1/chat/completions", "24h")
        requests = [json.loads(line) for line in self.files[asked["input_file_id"]].splitlines()]
        assert all(one["url"] == "/v1/chat/completions" and one["method"] == "POST" for one in requests)
        pairs = [(one["custom_id"], _image(one["body"])) for one in requests]
        return self.told(self.work(pairs, metadata=asked["metadata"]))

    def told(self, name):
        job, over = self.jobs[name], self.over(name)
        counts = Counter(fate for *_, fate in job["outcomes"])
        status = job.get("status") or (("expired" if counts[EXPIRED] else "completed") if over else "in_progress")
        through = counts[ANSWERED] + counts[LOST] if over else 0
        failed = counts[FAILED] + counts[REFUSED] if over else 0
        total = {"total": len(job["outcomes"]), "completed": through, "failed": failed}
        return {
            "id": name, "object": "batch", "endpoint": "/v1/chat/completions", "status": status,
            "errors": job.get("errors"), "created_at": int(job["created"]), "metadata": job["metadata"],
            "request_counts": total, "output_file_id": f"file-out-{name}" if over and counts[ANSWERED] else None,
            "error_file_id": f"file-err-{name}" if over and len(job["outcomes"]) > through else None,
        }  # fmt: skip

    def fetch(self, handler, body, file):
        kind, _, job = file.removeprefix("file-").partition("-")
        return 200, self.lines(job, [ANSWERED] if kind == "out" else [EXPIRED, FAILED, REFUSED])

    def list(self, handler, body, job):
        return self.page(handler, "after")

    def result(self, mark, image, fate):
        line = {"id": f"batch_req_{mark}", "custom_id": mark, "error": None, "response": None}
        if fate == EXPIRED:
            text = "This request could not be executed before the completion window expired."
            return {**line, "error": {"code": "batch_expired", "message": text}}
        status = {ANSWERED: 200, FAILED: 500, REFUSED: 400}[fate]
        usage = self.tokens(image)
        told = {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens}
        message = {"role": "assistant", "content": self.say(image), "refusal": None}
        body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": told}
        error = {"error": {"message": "Invalid image." if status == 400 else "The server had an error."}}
        return {**line, "response": {"status_code": status, "body": body if status == 200 else error}}


class Anthropic(Vendor):
    prefix = "msgbatch"

    def route(self, handler):
        rest = handler.path.partition("?")[0].removeprefix("/v1/messages/batches").strip("/")
        if handler.command == "POST":
            return "create", None
        return ("fetch" if rest.endswith("/results") else "look" if rest else "list"), rest.partition("/")[0] or None

    def create(self, handler, body, job):
        assert handler.headers["anthropic-version"] == "2023-06-01"
        requests = json.loads(body)["requests"]
        return self.told(self.work([(one["custom_id"], _image(one["params"])) for one in requests]))

    def told(self, name):
        job, over = self.jobs[name], self.over(name)
        counts = Counter(
            {ANSWERED: "succeeded", EXPIRED: "expired"}.get(fate, "errored") for *_, fate in job["outcomes"]
        )
        number = {kind: counts[kind] if over else 0 for kind in ("succeeded", "errored", "canceled", "expired")}
        return {
            "id": name, "type": "message_batch", "processing_status": "ended" if over else "in_progress",
            "request_counts": {"processing": 0 if over else len(job["outcomes"]), **number},
            "created_at": datetime.fromtimestamp(job["created"], UTC).isoformat().replace("+00:00", "Z"),
            "results_url": f"https://api.anthropic.com/v1/messages/batches/{name}/results" if over else None,
        }  # fmt: skip

    def fetch(self, handler, body, job):
        return 200, self.lines(job, [ANSWERED, EXPIRED, FAILED, REFUSED])

    def list(self, handler, body, job):
        return self.page(handler, "after_id")

    def result(self, mark, image, fate):
        if fate in (FAILED, REFUSED):
            kind = {FAILED: "api_error", REFUSED: "invalid_request_error"}[fate]
            error = {"type": "error", "error": {"type": kind, "message": "Could not process image"}}
            return {"custom_id": mark, "result": {"type": "errored", "error": error}}
        if fate == EXPIRED:
            return {"custom_id": mark, "result": {"type": "expired"}}
        usage = self.tokens(image)
        message = {
            "id": "msg_1", "type": "message", "role": "assistant", "stop_reason": "end_turn",
            "content": [{"type": "text", "text": self.say(image)}],
            "usage": {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens},
        }  # fmt: skip
        return {"custom_id": mark, "result": {"type": "succeeded", "message": message}}


VENDORS = {"openai": (OpenAI, OpenAIBatchTeacher), "anthropic": (Anthropic, AnthropicBatchTeacher)}


def batch_teacher(vendor, url, **options):
    """A teacher that asks such a vendor."""
    kinds = {"openai": OpenAIBatchTeacher, "anthropic": AnthropicBatchTeacher}
    options = {"url": url, "jobs": QUICK, "patience": HASTY, "price": TARIFF, "known_as": "vendor", **options}
    return kinds[vendor]("m", LABELS, **options)


def replies(*faults):
    """A trouble: the next requests of each of these kinds are answered by a status; ``(what, status)``, in turn."""
    left = list(faults)

    def trouble(vendor, handler, what, job):
        if left and left[0][0] == what:
            status = left.pop(0)[1]
            if status is None:
                handler.hang_up()
            else:
                handler.reply(status, {"error": {"message": "try again"}})
            return True
        return False

    trouble.left = left
    return trouble


def _image(body):
    return re.search(r'base64,([^"]+)|"data": "([^"]+)"', json.dumps(body)).expand(r"\1\2")
