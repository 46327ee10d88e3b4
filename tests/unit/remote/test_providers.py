"""Each preset against its vendor's documented request, to the byte, and the documented reply, over HTTP."""

import base64
import io
import json
import math
from inspect import isabstract, signature
from pathlib import Path

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from PIL import Image
from servers import answering

from kdlightning.remote import RemoteTeacherError, providers
from kdlightning.remote.http import HTTPTeacher
from kdlightning.remote.providers.arguments import choices, question
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher

LABELS = ["cat", "dog", "bird"]
PROMPT = "Which of these does the image show: cat, dog or bird? Answer with one of them and nothing else."
PIXELS = np.arange(75, dtype=np.uint8).reshape(5, 5, 3) * 3
IMAGE = (torch.from_numpy(PIXELS).movedim(2, 0) / 255)[None]
PNG = "<the image as PNG in base64>"


def token(text, p, *others):
    top = [{"token": word, "logprob": math.log(one), "bytes": list(word.encode())} for word, one in others]
    own = {"token": text, "logprob": math.log(p), "bytes": list(text.encode())}
    return {**own, "top_logprobs": [own, *top]}


def completion(content, usage=(290, 1), **choice):
    message = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1764000000, "model": "m",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1], "total_tokens": sum(usage)},
    }  # fmt: skip


def asked(limit="max_tokens", **more):
    shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    content = [{"type": "text", "text": PROMPT}, shown]
    return {"model": "m", "messages": [{"role": "user", "content": content}], limit: 16, **more}


SCHEMA = {
    "type": "object", "properties": {"label": {"type": "string", "enum": LABELS}}, "required": ["label"],
    "additionalProperties": False,
}  # fmt: skip
CLAUDE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_sequence": None,
    "content": [{"type": "text", "text": "dog"}], "stop_reason": "end_turn",
    "usage": {"input_tokens": 290, "output_tokens": 4, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0},
}  # fmt: skip
GEMINI = {
    "candidates": [{"content": {"parts": [{"text": "bird"}], "role": "model"}, "finishReason": "STOP", "index": 0}],
    "usageMetadata": {"promptTokenCount": 264, "candidatesTokenCount": 1, "totalTokenCount": 265},
    "modelVersion": "m", "responseId": "r",
}  # fmt: skip
PREDICTIONS = [("bird", 0.75), ("cat", 0.2), ("dog", 0.05)]
SHARES = [0.2, 0.05, 0.75]
AZURE = {
    "id": "8622c779", "project": "p", "iteration": "i", "created": "2026-11-01T18:35:27Z",
    "predictions": [{"tagId": "t", "tagName": name, "probability": p} for name, p in PREDICTIONS],
}  # fmt: skip
ROBOFLOW = {
    "time": 0.19, "image": {"width": 5, "height": 5}, "top": "bird", "confidence": 0.75,
    "predictions": [{"class": name, "confidence": p} for name, p in PREDICTIONS],
    "image_path": "/images-1.jpg", "prediction_type": "ClassificationModel",
}  # fmt: skip
CONFIDENCES = {"CustomLabels": [{"Name": name, "Confidence": 100 * p} for name, p in PREDICTIONS]}
CONCEPTS = {
    "status": {"code": 10000, "description": "Ok", "req_id": "r"},
    "outputs": [{
        "id": "o", "status": {"code": 10000, "description": "Ok"}, "input": {"id": "i"},
        "data": {"concepts": [{"id": name, "name": name, "value": p, "app_id": "a"} for name, p in PREDICTIONS]},
    }],
}  # fmt: skip
VERTEX = {
    "predictions": [
        {"ids": ["1", "2", "3"], "displayNames": ["bird", "cat", "dog"], "confidences": [0.75, 0.2, 0.05]}
    ],
    "deployedModelId": "7", "model": "projects/1/locations/l/models/2", "modelVersionId": "1",
}  # fmt: skip
VISION = {"responses": [{"labelAnnotations": [
    {"mid": "/m/1", "description": "Whiskers", "score": 0.97, "topicality": 0.97},
    {"mid": "/m/2", "description": "Dog", "score": 0.9, "topicality": 0.9},
    {"mid": "/m/3", "description": "Cat", "score": 0.6, "topicality": 0.6},
]}]}  # fmt: skip
BEARER = {"Authorization": "Bearer s3cret"}

# name: class, arguments, (path, headers, body), reply, answer
CASES = {
    "openai": (
        "OpenAIChatTeacher", {"model": "m"}, ("/chat/completions", BEARER, asked()), completion(" Dog.\n"), 1),
    "openai-schema": (
        "OpenAIChatTeacher", {"model": "m", "constrain": "schema"},
        ("/chat/completions", BEARER, asked(response_format={
            "type": "json_schema", "json_schema": {"name": "classification", "strict": True, "schema": SCHEMA}})),
        completion('{"label":"bird"}'), 2),
    "vllm": (
        "OpenAIChatTeacher", {"model": "m", "constrain": "choice", "more": {"temperature": 0}},
        ("/chat/completions", BEARER, asked(structured_outputs={"choice": LABELS}, temperature=0)),
        completion("cat"), 0),
    "openai-logprobs": (
        "OpenAIChatSoftLabelTeacher", {"model": "m"},
        ("/chat/completions", BEARER, asked(logprobs=True, top_logprobs=20)),
        completion("dog", logprobs={"content": [token("dog", 0.6, (" Cat", 0.2), ("The", 0.2))], "refusal": None}),
        [0.25, 0.75, 0.0]),
    "anthropic": (
        "AnthropicTeacher", {"model": "m"},
        ("/v1/messages", {"x-api-key": "s3cret", "anthropic-version": "2023-06-01"},
         {"model": "m", "max_tokens": 16, "messages": [{"role": "user", "content": [
             {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
             {"type": "text", "text": PROMPT}]}]}),
        CLAUDE, 1),
    "gemini": (
        "GeminiTeacher", {"model": "m", "generation": {"maxOutputTokens": 16}},
        ("/models/m:generateContent", {"x-goog-api-key": "s3cret"},
         {"contents": [{"parts": [{"text": PROMPT}, {"inline_data": {"mime_type": "image/png", "data": PNG}}]}],
          "generationConfig": {"responseMimeType": "text/x.enum", "maxOutputTokens": 16,
                               "responseSchema": {"type": "STRING", "enum": LABELS}}}),
        GEMINI, 2),
    "vision": (
        "GoogleVisionTeacher", {},
        ("/images:annotate", {"x-goog-api-key": "s3cret"},
         {"requests": [{"image": {"content": PNG}, "features": [{"type": "LABEL_DETECTION", "maxResults": 50}]}]}),
        VISION, 1),
    "huggingface": (
        "HuggingFaceSoftLabelTeacher", {"model": "google/vit"},
        ("/google/vit", BEARER, {"inputs": PNG, "parameters": {"function_to_apply": "softmax", "top_k": 3}}),
        [{"label": name, "score": p} for name, p in PREDICTIONS], SHARES),
    "huggingface-endpoint": (
        "HuggingFaceHardLabelTeacher", {"multilabel": True},
        ("/", BEARER, {"inputs": PNG, "parameters": {"function_to_apply": "sigmoid", "top_k": 3}}),
        [{"label": name, "score": p} for name, p in PREDICTIONS], 2),
    "azure": (
        "AzureSoftLabelTeacher", {"project": "p", "iteration": "i"},
        ("/customvision/v3.1/prediction/p/classify/iterations/i/image/nostore",
         {"Prediction-Key": "s3cret", "Content-Type": "application/octet-stream"}, "raw"),
        AZURE, SHARES),
    "azure-store": (
        "AzureHardLabelTeacher", {"project": "p", "iteration": "i", "store": True},
        ("/customvision/v3.1/prediction/p/classify/iterations/i/image", {"Prediction-Key": "s3cret"}, "raw"),
        AZURE, 2),
    "roboflow": (
        "RoboflowSoftLabelTeacher", {"model": "animals", "version": "1"},
        ("/animals/1", {**BEARER, "Content-Type": "application/x-www-form-urlencoded"}, "base64"), ROBOFLOW, SHARES),
    "roboflow-multilabel": (
        "RoboflowSoftLabelTeacher", {"model": "animals", "version": "1", "multilabel": True},
        ("/animals/1", BEARER, "base64"),
        {"predictions": {"cat": {"confidence": 0.9, "class_id": 0}, "dog": {"confidence": 0.3, "class_id": 1},
                         "bird": {"confidence": 0.0, "class_id": 2}}, "predicted_classes": ["cat"]},
        [0.75, 0.25, 0.0]),
    "vertex": (
        "VertexSoftLabelTeacher", {"project": "p", "location": "l", "endpoint": "7", "token_env": "KEY"},
        ("/projects/p/locations/l/endpoints/7:predict", BEARER,
         {"instances": [{"content": PNG}], "parameters": {"confidenceThreshold": 0.0, "maxPredictions": 3}}),
        VERTEX, SHARES),
    "clarifai": (
        "ClarifaiSoftLabelTeacher", {"user": "u", "app": "a", "model": "m", "model_version": "v"},
        ("/users/u/apps/a/models/m/versions/v/outputs", {"Authorization": "Key s3cret"},
         {"inputs": [{"data": {"image": {"base64": PNG}}}],
          "model": {"output_info": {"output_config": {"max_concepts": 3}}}}),
        CONCEPTS, SHARES),
    "predict": (
        "TFServingSoftLabelTeacher", {"model": "m", "labels": None},
        ("/models/m:predict", {}, {"instances": [{"b64": PNG}]}), {"predictions": [SHARES]}, SHARES),
    "predict-named": (
        "TFServingHardLabelTeacher",
        {"model": "m", "labels": None, "input": "x", "answer": "class", "signature": "s", "num_classes": 3},
        ("/models/m:predict", {}, {"signature_name": "s", "instances": [{"x": {"b64": PNG}}]}),
        {"predictions": [{"class": 2, "score": 0.75}]}, 2),
    "classify": (
        "TFServingSoftLabelTeacher", {"model": "m", "method": "classify"},
        ("/models/m:classify", {}, {"examples": [{"image": {"b64": PNG}}]}),
        {"results": [[list(pair) for pair in PREDICTIONS]]}, SHARES),
}  # fmt: skip


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("KEY", "s3cret")


def made(name, arguments):
    """The teacher as a command line makes it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--teacher", type=SoftLabelTeacher | HardLabelTeacher)
    given = {"labels": LABELS, "ledger": None, "patience": {"attempts": 1}} | arguments
    given = {key: value for key, value in given.items() if value is not None or key == "ledger"}
    return parser.instantiate(parser.parse_object({"teacher": {"class_path": name, "init_args": given}})).teacher


def at(url, name, arguments):
    """The same, with a server of one's own in the vendor's place, and a key that is named."""
    place = {"endpoint" if name.startswith("Azure") else "url": url}
    named = "api_key_env" in signature(getattr(providers, name)).parameters
    return made(name, arguments | place | ({"api_key_env": "KEY"} if named else {}))


@pytest.mark.parametrize("case", CASES)
def test_the_documented_request_is_sent_and_the_documented_reply_is_read(case):
    name, arguments, (path, headers, body), reply, expected = CASES[case]
    seen = []

    def answer(handler, sent):
        seen.append((handler.command, handler.path, handler.headers, sent))
        handler.reply(200, reply)

    with answering(answer) as url:
        found = at(url, name, arguments).query(IMAGE)[0]
    torch.testing.assert_close(found, torch.tensor(expected))
    ((method, to, got, sent),) = seen
    assert (method, to) == ("POST", path)
    assert {name: got[name] for name in headers} == headers
    assert same(sent, body)


def same(sent, body):
    """Whether a body is what is documented, with the image, pixel for pixel, where it belongs."""
    if body == "raw":
        return np.array_equal(np.array(Image.open(io.BytesIO(sent))), PIXELS)
    if body == "base64":
        return same(base64.b64decode(sent, validate=True), "raw")
    found = json.dumps(json.loads(sent), sort_keys=True)
    before, _, after = json.dumps(body, sort_keys=True).partition(PNG)
    assert found.startswith(before)
    assert found.endswith(after)
    return same(found[len(before) : len(found) - len(after)].encode(), "base64")


BLOCKED = [
    ("openai", completion(None, finish_reason="content_filter"), 1),
    ("openai", completion("no", message={"role": "assistant", "content": None, "refusal": "I'm sorry."}), 1),
    ("openai", completion("llama"), 2),
    ("openai-schema", completion('{"label":"ca', finish_reason="length"), 2),
    ("anthropic", {**CLAUDE, "content": [], "stop_reason": "refusal"}, 1),
    ("gemini", {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 264}}, 1),
    ("gemini", {"candidates": [{"finishReason": "PROHIBITED_CONTENT", "index": 0}]}, 1),
    ("gemini", {"candidates": [{"content": {"role": "model"}, "finishReason": "MAX_TOKENS", "index": 0}]}, 2),
    ("vision", {"responses": [{"labelAnnotations": [{"description": "Whiskers", "score": 0.9}]}]}, 2),
    ("vision", {"responses": [{"error": {"code": 3, "message": "Bad image data."}}]}, 1),
    ("vertex", {"predictions": [{"displayNames": ["dog"], "confidences": [0.5]}]}, 2),
]  # fmt: skip


@pytest.mark.parametrize(("case", "reply", "outcome"), BLOCKED)
def test_no_answer_as_documented(case, reply, outcome):
    name, arguments, *_ = CASES[case]
    with answering(lambda handler, body: handler.reply(200, reply)) as url:
        assert at(url, name, arguments).ask(IMAGE).flatten().unique().tolist() == [-outcome]


@pytest.mark.parametrize("case", ["openai", "anthropic", "gemini"])
def test_tokens_are_paid_by_what_the_reply_tells(case):
    name, arguments, _, reply, _ = CASES[case]
    with answering(lambda handler, body: handler.reply(200, reply)) as url:
        teacher = at(url, name, arguments | {"price": {"input": 2.0, "output": 10.0}})
        teacher.query(IMAGE)
    tokens = {"openai": (290, 1), "anthropic": (290, 4), "gemini": (264, 1)}[case]
    assert teacher.cost.price == pytest.approx((2 * tokens[0] + 10 * tokens[1]) / 1_000_000)
    assert teacher.cost[3:] == tokens


OWN = {
    "openai": ("https://api.openai.com/v1/chat/completions", "OPENAI_API_KEY"),
    "anthropic": ("https://api.anthropic.com/v1/messages", "ANTHROPIC_API_KEY"),
    "gemini": ("https://generativelanguage.googleapis.com/v1beta/models/m:generateContent", "GEMINI_API_KEY"),
    "vision": ("https://vision.googleapis.com/v1/images:annotate", "GOOGLE_API_KEY"),
    "huggingface": ("https://router.huggingface.co/hf-inference/models/google/vit", "HF_TOKEN"),
    "roboflow": ("https://classify.roboflow.com/animals/1", "ROBOFLOW_API_KEY"),
    "clarifai": ("https://api.clarifai.com/v2/users/u/apps/a/models/m/versions/v/outputs", "CLARIFAI_PAT"),
}


@pytest.mark.parametrize("case", OWN)
def test_the_usual_key_goes_to_the_vendor_and_to_nobody_else(case, monkeypatch):
    name, arguments, (_, headers, _), _, _ = CASES[case]
    url, variable = OWN[case]
    with pytest.raises(ValueError, match=f"expected a key in the environment variable {variable}"):
        made(name, arguments)
    monkeypatch.setenv(variable, "s3cret")
    teacher = made(name, arguments)
    assert teacher._address == url
    assert teacher._connection._headers.items() <= headers.items()
    assert "s3cret" in str(dict(teacher._connection._headers))
    elsewhere = made(name, arguments | {"url": "http://127.0.0.1:9/v1"})
    assert "s3cret" not in str(elsewhere._connection._headers)


def test_openais_own_address_has_the_limit_that_its_newer_models_take(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    teacher = made("OpenAIChatTeacher", {"model": "m", "detail": "low", "image": "jpeg"})
    content = teacher._template.fill([b'"/9j/"']).decode()
    assert json.loads(content) == {
        **asked("max_completion_tokens"), "messages": [{"role": "user", "content": [
            {"type": "text", "text": PROMPT},
            {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,/9j/", "detail": "low"}}]}],
    }  # fmt: skip
    assert teacher._bill.longest == 16


def test_one_text_of_each_class_is_offered():
    labels = {"/tabby/": 0, "cat": 0, "kitten": 0, "hot dog": 1}
    assert choices(labels) == ["cat", "hot dog"]
    assert question(labels, None).startswith("Which of these does the image show: cat or hot dog?")
    assert question(labels, "What is it?") == "What is it?"
    with pytest.raises(ValueError, match=r"expected a text that is no regular expression for each class.*\[1\]"):
        choices({"cat": 0, "/dog/": 1})


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [
        ("OpenAIChatSoftLabelTeacher", {"model": "m", "constrain": "schema"}, "expected words or choice, got schema"),
        ("HuggingFaceSoftLabelTeacher", {}, "expected the model's name, or the url"),
        ("RekognitionSoftLabelTeacher", {"model": "animals"}, "expected an ARN"),
    ],
)
def test_what_does_not_fit_together(name, arguments, text):
    with pytest.raises(ValueError, match=text):
        getattr(providers, name)(labels=LABELS, ledger=None, **arguments)


def test_a_model_without_log_probabilities_is_told_at_its_first_answer():
    name, arguments, *_ = CASES["openai-logprobs"]
    with (
        answering(lambda handler, body: handler.reply(200, completion("cat"))) as url,
        pytest.raises(RemoteTeacherError, match="gives no log-probabilities of tokens"),
    ):
        at(url, name, arguments).ask(IMAGE)


TEACHERS = [getattr(providers, name) for name in providers.__all__]


@pytest.mark.parametrize("teacher", TEACHERS, ids=lambda cls: cls.__name__)
def test_a_preset_hands_over_and_does_nothing_else(teacher):
    assert issubclass(teacher, HTTPTeacher)
    assert not isabstract(teacher)
    assert len([name for name in signature(teacher).parameters if name != "options"]) <= 12
    own = [cls for cls in teacher.__mro__ if cls.__module__.startswith(providers.__name__)]
    assert [name for cls in own for name in vars(cls) if not name.startswith("__")] == ["_abc_impl"] * len(own)


@pytest.mark.parametrize("file", sorted(Path(providers.__file__).parent.glob("*.py")), ids=lambda path: path.stem)
def test_a_vendor_is_a_page(file):
    assert len(file.read_text().splitlines()) <= 120


def test_every_preset_is_tested():
    jobs = {"OpenAIBatchTeacher", "AnthropicBatchTeacher"}  # in test_jobs
    tested = {name for name, *_ in CASES.values()} | {"RekognitionSoftLabelTeacher"} | jobs
    bases = {getattr(providers, name).__module__ for name in tested}
    assert {cls.__module__ for cls in TEACHERS} == bases
