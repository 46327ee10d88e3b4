"""Claude by Anthropic's message batches: half the price, within a day."""

import json
import math
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from kdlightning.remote.batch import BatchTeacher
from kdlightning.remote.connection import Reply, Request
from kdlightning.remote.jobs import Jobs, JobServer, Result, State, named, number_at, said
from kdlightning.remote.paths import at, found
from kdlightning.remote.providers.anthropic import ANTHROPIC, AnthropicTeacher
from kdlightning.remote.providers.arguments import Labels

_PATH = "/v1/messages/batches"
_THROUGH = ("succeeded", "errored", "canceled", "expired")
_STATUS = {"invalid_request_error": 400, "request_too_large": 413}  # of errors that one request may have to itself


class AnthropicJobs(JobServer):
    """Anthropic's message batches. One whose name was lost is found by its requests' marks, when it has ended.

    https://docs.anthropic.com/en/docs/build-with-claude/batch-processing::

        POST {url}/v1/messages/batches {"requests": [{"custom_id": ..., "params": {...}}]}
            -> {"id": "msgbatch_1", "processing_status": "in_progress", "created_at": "2026-11-28T07:00:00Z",
                "request_counts": {"processing": 2, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}}
        GET {url}/v1/messages/batches/msgbatch_1 -> {"processing_status": "ended", ...}
        GET {url}/v1/messages/batches/msgbatch_1/results -> lines {"custom_id": ..., "result": {"type": "succeeded",
            "message": {...}}}, or {"type": "errored", "error": {"type": "error", "error": {"type":
            "invalid_request_error", "message": ...}}}, or {"type": "expired"}, or {"type": "canceled"}
        GET {url}/v1/messages/batches?limit=100&after_id=msgbatch_1 -> {"data": [...], "has_more": false}
    """

    most_images = 100_000
    most_bytes = 256_000_000

    def line(self, mark: str, body: bytes) -> bytes:
        """An element of the list."""
        return f'{{"custom_id": {json.dumps(mark)}, "params": '.encode() + body + b"}"

    def creation(self, tag: str, lines: Sequence[bytes]) -> Request:
        """All in one request."""
        return self._post(_PATH, b'{"requests": [' + b", ".join(lines) + b"]}")

    def look(self, name: str) -> State:
        """A batch has ended when every request has."""
        job = self._get(f"{_PATH}/{name}")
        status = str(at("processing_status", job))
        return State(status, status == "ended", sum(number_at(f"request_counts.{key}", job) for key in _THROUGH))

    def results(self, name: str, state: State) -> list[Result]:
        """One of each request."""
        return [_result(line, size) for line, size in self._lines(f"{_PATH}/{name}/results")]

    def find(self, tag: str, images: int, begun: float, known: Collection[str]) -> tuple[str | None, bool]:
        """Of as many requests; those that have not ended may be it."""
        maybe = False
        for job in self._listed(_PATH, begun, after="after_id"):
            name, counts = named(at("id", job)), found("request_counts", job) or {}
            if name in known or sum(number_at(key, counts) for key in counts) != images:
                continue
            if found("processing_status", job) != "ended":
                maybe = True
            elif any(_result(*line).mark.startswith(f"{tag}-") for line in self._lines(f"{_PATH}/{name}/results")):
                return name, False
        return None, maybe

    def _created(self, entry: Any) -> float:  # noqa: ANN401 - any JSON value
        with suppress(ValueError):
            return datetime.fromisoformat(str(found("created_at", entry))).timestamp()
        return math.inf


class AnthropicBatchTeacher(BatchTeacher, AnthropicTeacher):
    """The label that Claude writes about an image, in batch jobs, see :class:`~kdlightning.remote.batch.BatchTeacher`.

    Args:
        model: see :class:`~kdlightning.remote.providers.AnthropicTeacher`; in a ledger its answers are the same.
        labels: see there.
        jobs: how large jobs are, and how long they are waited for.
        options: the others of that class.
    """

    def __init__(self, model: str, labels: Labels, *, jobs: Jobs | None = None, **options: Any) -> None:  # noqa: ANN401
        super().__init__(model, labels, **options)
        self._ask_in(AnthropicJobs, str(options.get("url") or ANTHROPIC), jobs)


def _result(line: Any, size: int) -> Result:  # noqa: ANN401 - any JSON value
    mark, kind = str(found("custom_id", line)), found("result.type", line)
    if kind == "succeeded":
        return Result(mark, Reply({}, json.dumps(found("result.message", line)).encode(), size))
    error = found("result.error", line)
    status = _STATUS.get(str(found("error.type", error)), 500) if kind == "errored" else None
    return Result(mark, None, status, said(error) if error else str(kind))
