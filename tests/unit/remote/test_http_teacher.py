import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import Linear, shaped
from jsonargparse import ArgumentParser
from PIL import Image
from servers import answering

from kdlightning.accounting.ledger import QueryLedger
from kdlightning.remote import HTTPHardLabelTeacher, HTTPSoftLabelTeacher, Patience, RemoteTeacherError
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher

HASTY = Patience(connect_timeout=30, read_timeout=60, attempts=3, backoff=0.01, longest_backoff=0.05, jitter=0.01)
LABELS = ["cat", "dog", "eel"]


def network():
    return Linear(torch.randn(3, 48, generator=torch.Generator().manual_seed(0)))


def images(number, seed=0):
    """Of 8 bits per channel, which a PNG keeps."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (number, 3, 4, 4), generator=generator) / 255


def pixels(text):
    array = np.array(Image.open(io.BytesIO(base64.b64decode(text))))
    return torch.from_numpy(array).permute(2, 0, 1) / 255


def api(respond, seen=None):
    """A JSON API: ``respond(message)``."""

    def answer(handler, body):
        message = json.loads(body)
        if seen is not None:
            seen.append((handler.command, handler.path, dict(handler.headers), message))
        handler.reply(200, respond(message))

    return answering(answer)


def soft(url, request, **options):
    given = {"outputs": "probabilities", "ledger": None, "patience": HASTY, **options}
    return HTTPSoftLabelTeacher(url, request, **shaped(**given))


def hard(url, request, **options):
    return HTTPHardLabelTeacher(
        url, request, **shaped(**{"outputs": "text", "ledger": None, "patience": HASTY, **options})
    )


def test_a_batch_of_images_in_and_of_scores_out():
    seen = []

    def respond(message):
        x = torch.stack([pixels(entry["b64"]) for entry in message["instances"]])
        return {"meta": 1, "predictions": [{"scores": row} for row in network()(x).softmax(1).tolist()]}

    with api(respond, seen) as url:
        remote = soft(
            f"{url}/v1/classify/", {"model": "a", "instances": [{"b64": "{image}", "format": "png"}]},
            results="predictions", answer="scores", max_batch=4, headers={"X-Client": "kd"}, method="PUT",
        )  # fmt: skip
        x = images(10)
        torch.testing.assert_close(remote.query(x), SoftLabelTeacher(network()).query(x), atol=1e-6, rtol=0)
    assert sorted(len(message["instances"]) for *_, message in seen) == [2, 4, 4]
    command, path, headers, message = seen[0]
    assert (command, path, headers["X-Client"], message["model"]) == ("PUT", "/v1/classify/", "kd", "a")
    assert message["instances"][0].keys() == {"b64", "format"}
    assert remote.paid.queries == 10
    assert remote.paid.bytes_up > 0 < remote.paid.bytes_down


def test_one_image_and_a_label_text_in_a_longer_text():
    def respond(message):
        assert message["input"].startswith("data:image/png;base64,")
        k = int(network()(pixels(message["input"].partition(",")[2])[None]).argmax())
        return [{"result": {"label": LABELS[k]}}]

    with api(respond) as url:
        remote = hard(url, {"input": "data:image/png;base64,{image}"}, answer="0.result.label", labels=LABELS)
        x = images(7)
        assert torch.equal(remote.query(x), HardLabelTeacher(network()).query(x))
        assert remote.num_classes == 3


@pytest.mark.parametrize(("layout", "scale"), [("HWC", 1.0), ("CHW", 255.0), ("flat", 2.0)])
def test_images_as_lists(layout, scale):
    seen, x = [], torch.rand(3, 1, 2, 5)
    with api(lambda message: {"class": [1] * len(message["x"])}, seen) as url:
        remote = hard(
            url, {"x": ["{image}"]}, outputs="index", results="class", image="list", layout=layout, scale=scale,
            max_batch=8, num_classes=2,
        )  # fmt: skip
        assert remote.query(x).tolist() == [1, 1, 1]
    expected = {"HWC": x.permute(0, 2, 3, 1), "CHW": x, "flat": x.flatten(1)}[layout] * scale
    np.testing.assert_allclose(np.array(seen[0][3]["x"]), expected.numpy(), rtol=1e-6)


def test_grey_png_and_jpeg():
    seen, x = [], torch.linspace(0, 1, 256).view(1, 1, 16, 16)
    for form, tolerance in (("png", 0.5), ("jpeg", 4)):
        with api(lambda message: [1.0, 0.0], seen) as url:
            soft(url, {"image": "{image}"}, image=form).query(x)
        file = Image.open(io.BytesIO(base64.b64decode(seen[-1][3]["image"])))
        assert file.format.lower() == form
        assert abs(np.array(file, dtype=float) - x[0, 0].numpy() * 255).max() <= tolerance


@pytest.mark.parametrize(
    "entry",
    [
        [0.2, 0.5, 0.3],
        {"dog": 0.5, "eel": 0.3, "cat": 0.2},
        [{"label": "dog", "score": 0.5}, {"label": "eel", "score": 0.3}, {"label": "cat", "score": 0.2}],
    ],
)
def test_scores_come_as_a_list_by_label_or_as_objects(entry):
    with api(lambda message: entry) as url:
        answer = soft(url, {"image": "{image}"}, labels=LABELS).query(images(2))
    torch.testing.assert_close(answer, torch.tensor([[0.2, 0.5, 0.3]] * 2))


@pytest.mark.parametrize(
    ("respond", "options", "text"),
    [
        (
            lambda m: {"out": []},
            {"answer": "out.0.scores"},
            r"expected '0' of the path 'out\.0\.scores' in 'out' of the",
        ),
        (lambda m: {"label": "cow"}, {"answer": "scores"}, "expected 'scores' of the path"),
        (lambda m: [0.5, 0.6], {}, "each row's sum 1"),
        (lambda m: [0.5, "half"], {}, "expected a list of scores"),
        (lambda m: {"cat": 1.0}, {}, "give `labels`"),
        (lambda m: {"cat": 0.9}, {"labels": LABELS}, r"expected a score of every class, got none of \[1, 2\]"),
        (lambda m: {"cow": 1.0}, {"labels": LABELS}, r"expected labels among .* got \['cow'\]"),
        (lambda m: [float("nan"), 1.0], {}, "not finite"),
        (lambda m: {"all": [[1.0, 0.0]] * 3}, {"results": "all", "max_batch": 2}, "expected a list of 2 answers"),
        (lambda m: {"all": [[1.0], [0.5, 0.5]]}, {"results": "all", "max_batch": 2}, r"of shape \[1, 1\], got"),
    ],
)
def test_answers_that_were_not_agreed(respond, options, text):
    with api(respond) as url, pytest.raises(RemoteTeacherError, match=text):
        soft(url, {"images": ["{image}"]}, **options).query(images(2))


def test_html_is_told():
    with (
        answering(lambda handler, body: handler.reply(200, b"<html>Please sign in</html>")) as url,
        pytest.raises(RemoteTeacherError, match="expected JSON, got '<html>Please sign in"),
    ):
        hard(url, {"image": "{image}"}, labels=LABELS).query(images(1))


@pytest.mark.parametrize(
    ("request_", "options", "text"),
    [
        ({"image": "{images}"}, {}, "expected {image} once in the request, found it 0 times"),
        (["{image}", "{image}"], {}, "found it 2 times"),
        ({"image": "{image}"}, {"max_batch": 2, "results": "a"}, "need a list around {image}"),
        (["{image}"], {"max_batch": 2}, "need reader.results"),
        ({"image": "x{image}"}, {"image": "list"}, "has no room in the text 'x{image}'"),
        ({"image": "{image}"}, {"outputs": "text"}, "expected outputs logits or probabilities"),
        ({"image": "{image}"}, {"labels": ["a", "a"]}, "each text once"),
        ({"image": "{image}"}, {"labels": {"a": 0, "b": 2}}, "for the classes 0 to K - 1"),
        ({"image": "{image}"}, {"labels": LABELS, "num_classes": 2}, "expected one number of classes"),
        ({"image": "{image}"}, {"headers": {"Authorization": "Bearer abc"}}, "looks like a secret"),
        ({"image": "{image}"}, {"headers": {"X-API-Key": "abc"}}, "looks like a secret"),
        ({"image": "{image}"}, {"headers": {"X-API-Key": "env:KDL_NONE"}}, "KDL_NONE, which is not set"),
    ],
)
def test_configurations_that_cannot_work_are_refused(request_, options, text):
    with pytest.raises(ValueError, match=text.replace("{", r"\{")) as error:
        soft("http://127.0.0.1:9", request_, **options)
    assert "abc" not in str(error.value)


def test_secrets_stay_out_of_addresses():
    with pytest.raises(ValueError, match="the parameter api_key looks like a secret") as error:
        soft("https://example.org/classify?api_key=abc", {"image": "{image}"})
    assert "abc" not in str(error.value)


def test_headers_take_their_secrets_from_elsewhere(monkeypatch, tmp_path, caplog):
    caplog.set_level("DEBUG")
    monkeypatch.setenv("KDL_KEY", "s3cret")
    (tmp_path / "token").write_text("t0ken\n")
    seen = []
    headers = {"Authorization": "Bearer env:KDL_KEY", "X-Token": f"file:{tmp_path}/token"}
    with api(lambda message: {"you sent": "s3cret and t0ken"}, seen) as url:
        remote = soft(url, {"image": "{image}"}, headers=headers, ledger="l.sqlite")
        with pytest.raises(RemoteTeacherError, match=r"you sent.*\*\*\* and \*\*\*") as error:
            remote.query(images(1))
    assert seen[0][2]["Authorization"] == "Bearer s3cret"
    assert seen[0][2]["X-Token"] == "t0ken"
    shown = [repr(remote), str(vars(remote)), str(remote.identity), str(error.value), caplog.text]
    assert not any(secret in text for secret in ("s3cret", "t0ken") for text in shown)
    assert b"s3cret" not in remote._ledger.path.read_bytes()


def test_the_ledger_knows_the_version_the_labels_and_the_request():
    asked = []

    def respond(message):
        asked.append(message)
        return {"label": "dog", "model": {"version": version[0]}}

    version = ["7"]
    with api(respond) as url:

        def ask(**changes):
            options = {"answer": "label", "labels": LABELS, "ledger": "l.sqlite", "version_path": "model.version"}
            request = changes.pop("request", {"image": "{image}"})
            return hard(url, request, **{**options, **changes}).query(images(2))

        assert ask().tolist() == [1, 1]
        assert ask().tolist() == [1, 1]
        assert len(asked) == 2
        assert ask(labels=["dog", "cat", "eel"]).tolist() == [0, 0]  # the same replies, read otherwise
        assert len(asked) == 2
        ask(request={"image": "{image}", "prompt": "which animal?"})
        assert len(asked) == 4
        ask(version="7")
        assert len(asked) == 6
        version[0] = "8"
        with pytest.raises(RemoteTeacherError, match="expected answers of version 7, got one of version 8"):
            ask(version="7", price=1.0, known_as="other")
        assert ask(offline=True, version="7").tolist() == [1, 1]
    totals = QueryLedger("l.sqlite").totals()
    assert totals.unique == 6
    assert totals.lost >= 1


def test_a_mended_decoder_reads_what_was_paid_for():
    asked = []

    def respond(message):
        asked.append(message["image"])
        number = list(dict.fromkeys(asked)).index(message["image"]) % 3
        return {"choices": [{"text": ["cat", "a dog", "eel"][number], "index": number}]}

    with api(respond) as url:

        def ask(**changes):
            options = {"answer": "choices.0.text", "labels": LABELS, "ledger": "l.sqlite", "concurrency": 1, **changes}
            return hard(url, {"image": "{image}"}, **options)

        with pytest.raises(RemoteTeacherError, match=r"2 of 5 images got no answer .*unreadable: 'a dog'"):
            ask().query(images(5))
        assert len(set(asked)) == len(asked) == 5
        again = ask(labels=["cat", "a dog", "eel"])
        assert again.query(images(5)).tolist() == [0, 1, 2, 0, 1]
        assert again.paid.queries == 0  # all five replies are read again
        assert ask(answer="choices.0.index", outputs="index", labels=None).query(images(5)).tolist() == [0, 1, 2, 0, 1]
        assert ask(labels=["eel", "a dog", "cat"], offline=True).query(images(5)).tolist() == [2, 1, 0, 2, 1]
        for _ in range(2):  # never asked again by itself
            with pytest.raises(RemoteTeacherError, match=r"5 of 5 images got no answer .*, not one\. 1\. unread"):
                ask(labels=["x", "y", "z"]).query(images(5))
        assert len(asked) == 5
        mended = Patience(ask_again=True)
        with pytest.raises(RemoteTeacherError, match="5 of 5 images got no answer"):
            ask(labels=["x", "y", "z"], patience=mended).query(images(5))
        assert len(asked) == 10
    with QueryLedger("l.sqlite") as ledger:
        assert (ledger.totals().paid, ledger.totals().twice, ledger.verify()) == (10, 5, [])


def test_it_is_configured_by_class_path():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--teacher", type=SoftLabelTeacher | HardLabelTeacher)
    with api(lambda message: {"label": "eel"}) as url:
        settings = {
            "url": url, "request": {"instances": [{"b64": "{image}"}], "top": 1}, "outputs": "text", "labels": LABELS,
            "reader": {"answer": "label"}, "headers": {"X-Client": "a"}, "patience": {"read_timeout": 5},
        }  # fmt: skip
        made = parser.parse_object(
            {"teacher": {"class_path": "kdlightning.remote.HTTPHardLabelTeacher", "init_args": settings}}
        )
        assert parser.instantiate(made).teacher.query(images(2)).tolist() == [2, 2]


BLOCKS = re.findall(r"```\n(teacher:\n.*?)```", (Path(__file__).parents[3] / "docs/remote.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("block", [block for block in BLOCKS if "HTTP" in block])
def test_the_documents_configurations_are_complete(block, monkeypatch):
    monkeypatch.setenv("EXAMPLE_KEY", "s3cret")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--teacher", type=SoftLabelTeacher | HardLabelTeacher)
    teacher = parser.instantiate(parser.parse_object(yaml.safe_load(block))).teacher
    request = teacher._request(teacher._encode(images(1)), (3, 4, 4))
    assert b"{image}" not in request.body
    assert json.loads(request.body)
    teacher.close()
    assert len(BLOCKS) == 6
