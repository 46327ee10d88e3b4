"""Vision-language models by OpenAI's batch API: half the price, within a day."""

import json
import math
from collections.abc import Collection, Sequence
from typing import Any

from kdlightning.remote.batch import BatchTeacher
from kdlightning.remote.connection import Reply, Request
from kdlightning.remote.jobs import Jobs, JobServer, Result, State, named, number_at, said
from kdlightning.remote.paths import at, found
from kdlightning.remote.protocol import parse_value
from kdlightning.remote.providers.arguments import Labels
from kdlightning.remote.providers.openaichat import OPENAI, OpenAIChat
from kdlightning.teachers.blackbox import HardLabelTeacher, SoftLabelTeacher

_OVER = ("failed", "completed", "expired", "cancelled")
_LATER = ("token_limit_exceeded", "rate_limit_exceeded")
_KEY = "kdlightning"  # of the metadata


class OpenAIJobs(JobServer):
    """OpenAI's batch API. A job is found by its metadata.

    https://developers.openai.com/api/reference/resources/batches::

        POST {url}/files    purpose=batch, and a file with a line for each request: {"custom_id": ..., "method": "POST",
                            "url": "/v1/chat/completions", "body": {...}} -> {"id": "file-1"}
        POST {url}/batches  {"input_file_id": "file-1", "endpoint": "/v1/chat/completions", "completion_window": "24h",
                            "metadata": {...}} -> {"id": "batch_1", "status": "validating"}
        GET {url}/batches/batch_1 -> {"status": "completed", "request_counts": {"total": 2, "completed": 1,
                            "failed": 1}, "output_file_id": "file-2", "error_file_id": "file-3", "errors": null}
        GET {url}/files/file-2/content -> lines {"custom_id": ..., "response": {"status_code": 200, "body": {...}}};
                            where it expired {"custom_id": ..., "response": null, "error": {"code": "batch_expired"}}
        GET {url}/batches?limit=100&after=batch_1 -> {"data": [...], "has_more": false}
    """

    most_images = 50_000
    most_bytes = 200_000_000

    def line(self, mark: str, body: bytes) -> bytes:
        """A line of the file."""
        head = json.dumps({"custom_id": mark, "method": "POST", "url": "/v1/chat/completions"})
        return f'{head[:-1]}, "body": '.encode() + body + b"}"

    def creation(self, tag: str, lines: Sequence[bytes]) -> Request:
        """The file is sent first; one that no job uses costs nothing."""
        edge = f"----{tag}"
        part = f'--{edge}\r\nContent-Disposition: form-data; name="'
        head = f'{part}purpose"\r\n\r\nbatch\r\n{part}file"; filename="{tag}.jsonl"\r\nContent-Type: application/jsonl'
        body = f"{head}\r\n\r\n".encode() + b"\n".join(lines) + f"\r\n--{edge}--\r\n".encode()
        upload = self._post("/files", body, {"Content-Type": f"multipart/form-data; boundary={edge}"})
        file = self._connection.send(upload, lambda exchange: named(at("id", parse_value(exchange().body))))
        job = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        return self._post("/batches", json.dumps({**job, "metadata": {_KEY: tag}}).encode())

    def look(self, name: str) -> State:
        """A job that failed was not worked on: its file is none, or too much waits already."""
        job = self._get(f"/batches/{name}")
        status = str(at("status", job))
        errors = found("errors.data", job) or []
        files = [found(key, job) for key in ("output_file_id", "error_file_id")]
        return State(
            status,
            status in _OVER,
            number_at("request_counts.completed", job) + number_at("request_counts.failed", job),
            fault=(said(errors[0]) if errors else "no reason is given") if status == "failed" else "",
            later=any(found("code", error) in _LATER for error in errors),
            files=tuple(named(file) for file in files if file),
        )

    def results(self, name: str, state: State) -> list[Result]:
        """Those of the file with answers, and of the one with errors."""
        return [_result(line, size) for file in state.files for line, size in self._lines(f"/files/{file}/content")]

    def find(self, tag: str, images: int, begun: float, known: Collection[str]) -> tuple[str | None, bool]:
        """By the metadata."""
        for job in self._listed("/batches", begun, after="after"):
            if found(f"metadata.{_KEY}", job) == tag:
                return named(at("id", job)), False
        return None, False

    def _created(self, entry: Any) -> float:  # noqa: ANN401 - any JSON value
        return number_at("created_at", entry) or math.inf


class OpenAIBatch(BatchTeacher, OpenAIChat):
    """A chat model that is asked in batch jobs, see :class:`~kdlightning.remote.batch.BatchTeacher`.

    Args:
        model: see :class:`~kdlightning.remote.providers.openaichat.OpenAIChat`; in a ledger its answers are the same.
        labels: see there.
        jobs: how large jobs are, and how long they are waited for.
        options: the others of that class.
    """

    def __init__(self, model: str, labels: Labels, *, jobs: Jobs | None = None, **options: Any) -> None:  # noqa: ANN401
        super().__init__(model, labels, **options)
        self._ask_in(OpenAIJobs, str(options.get("url") or OPENAI), jobs)


class OpenAIBatchTeacher(OpenAIBatch, HardLabelTeacher):
    """The label that a chat model writes, in batch jobs.

    Its arguments are those of :class:`~kdlightning.remote.providers.openaibatch.OpenAIBatch`.
    """


class OpenAIBatchSoftLabelTeacher(OpenAIBatch, SoftLabelTeacher):
    """Class probabilities of the log-probabilities of a chat model's tokens, in batch jobs.

    Its arguments are those of :class:`~kdlightning.remote.providers.openaibatch.OpenAIBatch`.
    """


def _result(line: Any, size: int) -> Result:  # noqa: ANN401 - any JSON value
    body, status = found("response.body", line), number_at("response.status_code", line)
    reply = Reply({}, json.dumps(body).encode(), size) if status == 200 else None
    return Result(str(found("custom_id", line)), reply, status or None, "" if reply else said(body or line))
