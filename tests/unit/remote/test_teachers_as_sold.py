"""Each configuration of docs/teachers.md, against the reply that the vendor documents, over HTTP.

Requests and replies of the presets, to the byte: `test_providers`.
"""

import base64
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from PIL import Image
from servers import answering

from kdlightning.remote import HTTPSoftLabelTeacher, Patience, RemoteTeacherError
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher

PAGE = (Path(__file__).parents[3] / "docs/teachers.md").read_text()
BLOCKS = dict(re.findall(r"```\n(?=teacher:  # (\w+)\n)(.*?)```", PAGE, re.DOTALL))


JOBS = {"openaijobs", "anthropicjobs"}


def top(written, *pairs):
    entry = [{"token": token, "logprob": math.log(p), "bytes": list(token.encode())} for token, p in (written, *pairs)]
    return {**entry[0], "top_logprobs": entry}


def chat(text, **more):
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None, **more}
    return {"id": "c", "object": "chat.completion", "choices": [choice], "usage": {"prompt_tokens": 9}}


REPLIES = {
    "openai": (chat(" Dog.\n"), 1),
    "vllm": (chat("bird"), 2),
    "logprobs": (
        chat("dog", logprobs={"content": [top(("dog", 0.6), (" Cat", 0.2), ("The", 0.2)), top(("", 0.9))]}),
        [0.25, 0.75, 0.0],
    ),
    "gemini": ({"candidates": [{"content": {"parts": [{"text": "cat"}], "role": "model"}, "finishReason": "STOP"}]}, 0),
    "anthropic": (
        {"type": "message", "content": [{"type": "text", "text": "It is a **dog**."}], "stop_reason": "end_turn"},
        1,
    ),
    "huggingface": (
        [{"label": "dog", "score": 0.5}, {"label": "cat", "score": 0.375}, {"label": "bird", "score": 0.125}],
        [0.375, 0.5, 0.125],
    ),
    "azure": (
        {"id": "i", "project": "p", "iteration": "t", "created": "2026-11-01", "predictions": [
            {"tagId": "1", "tagName": "bird", "probability": 0.75},
            {"tagId": "2", "tagName": "cat", "probability": 0.2},
            {"tagId": "3", "tagName": "dog", "probability": 0.05}]},
        [0.2, 0.05, 0.75],
    ),
    "roboflow": (
        {"time": 0.19, "image": {"width": 8, "height": 8}, "predictions": [
            {"class": "cat", "confidence": 0.7149}, {"class": "dog", "confidence": 0.2850},
            {"class": "bird", "confidence": 0.0002}], "top": "cat", "confidence": 0.7149},
        [0.7148, 0.28497, 0.0002],
    ),
    "rekognition": (
        {"CustomLabels": [{"Name": "cat", "Confidence": 90.0}, {"Name": "dog", "Confidence": 30.0},
                          {"Name": "bird", "Confidence": 0.0}]},
        [0.75, 0.25, 0.0],
    ),
    "vertex": (
        {"predictions": [
            {"ids": ["2", "1", "3"], "displayNames": ["dog", "cat", "bird"], "confidences": [0.5, 0.3, 0.2]}],
         "deployedModelId": "7"},
        [0.3, 0.5, 0.2],
    ),
    "vision": (
        {"responses": [{"labelAnnotations": [
            {"mid": "/m/1", "description": "Whiskers", "score": 0.97, "topicality": 0.9},
            {"mid": "/m/2", "description": "Kitten", "score": 0.6, "topicality": 0.6},
            {"mid": "/m/3", "description": "Cat", "score": 0.5, "topicality": 0.5},
            {"mid": "/m/4", "description": "Dog", "score": 0.7, "topicality": 0.4}]}]},
        0,
    ),
    "clarifai": (
        {"status": {"code": 10000}, "outputs": [{"id": "o", "data": {"concepts": [
            {"id": "1", "name": "dog", "value": 0.8, "app_id": "a"}, {"id": "2", "name": "cat", "value": 0.1},
            {"id": "3", "name": "bird", "value": 0.1}]}}]},
        [0.1, 0.8, 0.1],
    ),
    "triton": (
        {"model_name": "animals", "model_version": "1", "outputs": [
            {"name": "y", "datatype": "BYTES", "shape": [1, 3], "data": ["0.5:2:bird", "0.375:0:cat", "0.125:1:dog"]}]},
        [0.375, 0.125, 0.5],
    ),
    "predict": ({"predictions": [[0.25, 0.5, 0.25]]}, [0.25, 0.5, 0.25]),
    "classify": ({"results": [[["dog", 0.5], ["cat", 0.25], ["bird", 0.25]]]}, [0.25, 0.5, 0.25]),
    "chat": (chat(" Dog.\n"), 1),
    "scores": (
        {"outputs": [{"concepts": [{"name": "dog", "value": 0.5}, {"name": "cat", "value": 0.25},
                                   {"name": "bird", "value": 0.25}]}]},
        [0.25, 0.5, 0.25],
    ),
    "upload": ({"class_id": 2}, 2),
}  # fmt: skip


def teacher(name, url, **changes):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--teacher", type=SoftLabelTeacher | HardLabelTeacher)
    given = yaml.safe_load(BLOCKS[name])
    own = given["teacher"]["init_args"]
    where = "endpoint" if name == "azure" else "url"
    place = re.sub(r"^https?://[^/]+", url, own.get("url", url))
    given["teacher"]["init_args"] |= {where: place, "patience": {"attempts": 1}, **changes}
    return parser.instantiate(parser.parse_object(given)).teacher


def image():
    return torch.arange(75).reshape(1, 3, 5, 5) * 3 / 255


@pytest.fixture(autouse=True)
def key(monkeypatch):
    for name in ("EXAMPLE_KEY", "VISION_PREDICTION_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setattr("kdlightning.remote.providers.vertex.GoogleToken", lambda: None)


def test_every_configuration_has_a_reply():
    assert REPLIES.keys() | JOBS == BLOCKS.keys()


@pytest.mark.parametrize("name", REPLIES)
def test_the_documented_reply_is_read(name):
    reply, expected = REPLIES[name]
    seen = []

    def answer(handler, body):
        if handler.command == "GET":
            handler.reply(404, {"error": "no metadata"})
        else:
            seen.append((dict(handler.headers), body))
            handler.reply(200, reply)

    with answering(answer) as url:
        found = teacher(name, url).query(image())
    torch.testing.assert_close(found[0], torch.tensor(expected), atol=1e-4, rtol=0)
    if name != "triton":
        assert (image()[0] * 255).round().int().tolist() == sent(name, *seen[0])


@pytest.mark.parametrize("name", sorted(JOBS))
def test_the_documented_replies_of_batch_jobs_are_read(name):
    """As https://platform.openai.com/docs/guides/batch and Anthropic's guide to batch processing have them."""
    seen = []

    def answer(handler, body):
        seen.append((handler.command, handler.path.partition("?")[0]))
        found = re.search(rb'"custom_id": ?"([^"]+)"', body)
        mark[0] = found[1].decode() if found else mark[0]
        reply = documented[seen[-1]]
        handler.reply(200, json.dumps(reply).replace("MARK", mark[0]).encode())

    mark = [""]
    message = {"id": "msg_1", "type": "message", "role": "assistant", "stop_reason": "end_turn", "content": [
        {"type": "text", "text": "dog"}], "usage": {"input_tokens": 1000, "output_tokens": 100}}  # fmt: skip
    batch = {
        "id": "batch_abc123", "object": "batch", "endpoint": "/v1/chat/completions", "errors": None,
        "input_file_id": "file-abc123", "completion_window": "24h", "status": "validating", "output_file_id": None,
        "error_file_id": None, "created_at": 1711471533, "expires_at": 1711557933, "metadata": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
    }  # fmt: skip
    over = {"status": "completed", "output_file_id": "file-cvaTdG", "error_file_id": None,
            "request_counts": {"total": 1, "completed": 1, "failed": 0}}  # fmt: skip
    body = {**chat("dog"), "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}}
    line = {"id": "batch_req_1", "custom_id": "MARK", "error": None,
            "response": {"status_code": 200, "request_id": "r", "body": body}}  # fmt: skip
    claude = {
        "id": "msgbatch_01HkcTjaV5uDC8jWR4ZsDV8d", "type": "message_batch", "processing_status": "in_progress",
        "request_counts": {"processing": 1, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0},
        "ended_at": None, "created_at": "2024-09-24T18:37:24.100435Z", "results_url": None,
    }  # fmt: skip
    place = "/v1/messages/batches"
    documented = {
        "openaijobs": {
            ("POST", "/files"): {"id": "file-abc123", "object": "file", "bytes": 120000, "purpose": "batch"},
            ("POST", "/batches"): batch,
            ("GET", "/batches/batch_abc123"): {**batch, **over},
            ("GET", "/files/file-cvaTdG/content"): line,
        },
        "anthropicjobs": {
            ("POST", place): claude,
            ("GET", f"{place}/{claude['id']}"): {
                **claude, "processing_status": "ended", "results_url": f"https://api.anthropic.com{place}/x",
                "request_counts": {"processing": 0, "succeeded": 1, "errored": 0, "canceled": 0, "expired": 0}},
            ("GET", f"{place}/{claude['id']}/results"): {
                "custom_id": "MARK", "result": {"type": "succeeded", "message": message}},
        },
    }[name]  # fmt: skip
    with answering(answer) as url:
        asked = teacher(name, url)
        assert asked.query(image()).tolist() == [1]
    assert seen == list(documented)
    tokens = 0.15 * 1000 + 0.6 * 100 if name == "openaijobs" else 1 * 1000 + 5 * 100
    assert asked.cost.price == pytest.approx(tokens / 1e6 / 2)
    assert asked._keeper._jobs.images == 2000


def sent(name, headers, body):
    """The pixels in a request, wherever they are."""
    if name == "azure":
        assert headers["Content-Type"] == "application/octet-stream"
        file = body
    elif name == "roboflow":
        assert headers["Content-Type"] == "application/x-www-form-urlencoded"
        file = base64.b64decode(body, validate=True)
    elif name == "upload":
        boundary = headers["Content-Type"].partition("multipart/form-data; boundary=")[2].encode()
        parts = body.split(b"--" + boundary)
        assert (parts[0], parts[3]) == (b"", b"--\r\n")
        assert parts[2] == b'\r\nContent-Disposition: form-data; name="model"\r\n\r\nanimals\r\n'
        head, _, file = parts[1].removesuffix(b"\r\n").partition(b"\r\n\r\n")
        assert head.endswith(b'; filename="image.jpeg"\r\nContent-Type: image/jpeg')
        decoded = np.array(Image.open(io.BytesIO(file))).transpose(2, 0, 1)
        assert np.abs(decoded - np.arange(75).reshape(3, 5, 5) * 3).max() < 12  # lossy
        return (image()[0] * 255).round().int().tolist()
    else:
        file = base64.b64decode(re.search(r"iVBORw0KGgo[\w+/=]+", json.dumps(json.loads(body)))[0])
    return np.array(Image.open(io.BytesIO(file))).transpose(2, 0, 1).tolist()


BLOCKED = [
    ("openai", chat(None, finish_reason="content_filter"), 1),
    ("openai", {"choices": [{"message": {"content": None, "refusal": "I'm sorry."}, "finish_reason": "stop"}]}, 1),
    ("chat", chat("I can't assist with that."), 1),
    ("openai", chat("llama"), 2),
    ("openai", chat("cat or dog"), 2),
    ("gemini", {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 5}}, 1),
    ("gemini", {"candidates": [{"finishReason": "SAFETY", "safetyRatings": []}]}, 1),
    ("anthropic", {"type": "message", "content": [], "stop_reason": "refusal"}, 1),
    ("anthropic", {"content": [{"type": "text", "text": "a cat, a dog"}], "stop_reason": "end_turn"}, 2),
    ("vision", {"responses": [{"labelAnnotations": [{"description": "Whiskers", "score": 0.9}]}]}, 2),
    ("vision", {"responses": [{"error": {"code": 3, "message": "Bad image data."}}]}, 1),
    ("vertex", {"predictions": [{"displayNames": ["dog"], "confidences": [0.5]}]}, 2),
    ("logprobs", chat("bird", logprobs={"content": [top(("llama", 1.0))]}), 2),
]  # fmt: skip


@pytest.mark.parametrize(("name", "reply", "outcome"), BLOCKED)
def test_what_is_documented_for_no_answer_is_none(name, reply, outcome):
    with answering(lambda handler, body: handler.reply(200, reply)) as url:
        found = teacher(name, url).ask(image())
    assert found.flatten().unique().tolist() == [-outcome]


def test_a_model_without_log_probabilities_is_told_at_its_first_answer():
    asked = []

    def answer(handler, body):
        asked.append(body)
        handler.reply(200, chat("cat"))

    with answering(answer) as url, pytest.raises(RemoteTeacherError, match=r"gives no log-prob.*HTTPHardLabelTeacher"):
        teacher("logprobs", url).ask(torch.rand(9, 3, 4, 4))
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("scores", "outputs", "expected"),
    [
        ([0.33, 0.33, 0.33], "probabilities", [1 / 3] * 3),
        ([33, 33, 33], "probabilities", [1 / 3] * 3),
        (["30%", "30%", "40%"], "probabilities", [0.3, 0.3, 0.4]),
        ({"cat": "0.25", "dog": 0.25, "bird": 0.25, "kitten": 0.25}, "probabilities", [0.5, 0.25, 0.25]),
        ([0.9, 0.6, 0.0], "sigmoids", [0.6, 0.4, 0.0]),
        ({"cat": {"score": 0.5}, "dog": {"score": 0.25}, "bird": {"score": 0.25}}, "probabilities", [0.5, 0.25, 0.25]),
        (["0.25:0", "0.25:1", "0.5:2"], "probabilities", [0.25, 0.25, 0.5]),
        ([0.6, 0.2], "probabilities", None), ([["cat", 0.6], ["dog", 0.2]], "probabilities", None),
        ([0.0, 0.0, 0.0], "sigmoids", None), ([-0.5, 0.5, 1.0], "sigmoids", None), ([0.5, True, 0.5], "sigmoids", None),
    ],
)  # fmt: skip
def test_scores_of_every_kind(scores, outputs, expected):
    labels = None if isinstance(scores, list) and "0.25:0" in scores else {"cat": 0, "dog": 1, "bird": 2, "kitten": 0}
    with answering(lambda handler, body: handler.reply(200, scores)) as url:
        one = HTTPSoftLabelTeacher(
            url, {"x": "{image}"}, outputs, labels=labels, ledger=None, patience=Patience(attempts=1)
        )
        found = one.ask(image())[0]
    torch.testing.assert_close(found, torch.tensor(expected or [-2.0] * 3))


def test_sixty_classes_of_four_decimals_sum_to_what_their_digits_explain():
    true = torch.randn(60, generator=torch.Generator().manual_seed(0)).softmax(0)
    scores = [round(value - 0.00004, 4) for value in true.tolist()]
    assert abs(sum(scores) - 1) > 0.002
    with answering(lambda handler, body: handler.reply(200, scores)) as url:
        found = HTTPSoftLabelTeacher(url, {"x": "{image}"}, "probabilities", ledger=None).query(image())
    torch.testing.assert_close(found.sum(1), torch.ones(1))


def test_no_constructor_has_more_than_a_dozen_options_of_its_own():
    from inspect import signature

    from kdlightning.remote import Reader, Writer
    from kdlightning.remote.http import HTTPTeacher
    from kdlightning.remote.networked import NetworkedTeacher
    from kdlightning.remote.openinference import RemoteTeacher

    handed = ("options", "outputs", "max_batch")  # the last two are options of those who hand them to NetworkedTeacher
    for made in (HTTPTeacher, RemoteTeacher, Reader, Writer, Patience):
        assert len([name for name in signature(made).parameters if name != "options"]) <= 12
    assert len([name for name in signature(NetworkedTeacher).parameters if name not in handed]) <= 12
