"""Top-k answers of APIs: what is read of them, what the rest is, and that nothing is paid twice for it."""

import json
import math
import re
from pathlib import Path

import pytest
import torch
import yaml
from helpers import TinyNet, ToyDataModule, shaped, trainer
from jsonargparse import ArgumentParser
from servers import answering

from kdlightning.accounting.accounts import Limits
from kdlightning.commands.teacher import _meaning
from kdlightning.data import TransferSetDataModule
from kdlightning.functional.topk import TopK
from kdlightning.methods import KD, AnsweredKD, TeacherAnswers
from kdlightning.remote import HTTPSoftLabelTeacher, HTTPTopKTeacher, Patience, RemoteTopKTeacher, Tensors
from kdlightning.remote.partial import partial_row
from kdlightning.teachers import AnswerError, TopKTeacher
from kdlightning.teachers.outcomes import Reading
from kdlightning.types import Batch

ONCE = Patience(attempts=1)
LABELS = ["cat", "dog", "bird", "fox"]
PAGE = (Path(__file__).parents[3] / "docs/teachers.md").read_text()


def image(number=1):
    return torch.arange(number * 64).reshape(number, 1, 8, 8) / (number * 64)


def row(scores, outputs="probabilities", k=2, classes=4, rest=None):
    """Scores by class index, or a list of all."""
    if isinstance(scores, dict):
        reading = Reading.summed(list(scores.items()), rest)
    else:
        reading = Reading(scores=tuple(scores), rest=0.0)
    return partial_row(reading, outputs, classes, k).tolist()


@pytest.mark.parametrize(
    ("scores", "outputs", "expected"),
    [
        ({2: 0.5, 0: 0.25}, "probabilities", [0.5, 0.25, 2, 0, 0.25]),
        ({2: 0.75}, "probabilities", [0.75, 0, 2, -1, 0.25]),  # k may be less
        ({2: 0.5, 0: 0.25, 3: 0.125}, "probabilities", [0.5, 0.25, 2, 0, 0.25]),  # of more the best are kept
        ({3: 0.25, 1: 0.25, 0: 0.25}, "probabilities", [0.25, 0.25, 0, 1, 0.5]),  # of equals the lower index
        ({2: 62.5, 0: 25.0}, "probabilities", [0.625, 0.25, 2, 0, 0.125]),  # percentages
        ({2: 0.7, 0: 0.301}, "probabilities", [0.7 / 1.001, 0.301 / 1.001, 2, 0, 0]),  # above 1 by rounding
        ({2: 3.0, 0: 3.0 - math.log(3)}, "logits", [0.75, 0.25, 2, 0, -1]),
        ({2: 3.0, 0: 3.0, 1: 3.0}, "logits", [0.5, 0.5, 0, 1, -1]),
        ({2: 0.9, 0: 0.3}, "sigmoids", [0.75, 0.25, 2, 0, -1]),
        ({2: 0.5, 0: 0.25}, "tokens", [0.5, 0.25, 2, 0, 0.25]),
        ([0.125, 0.5, 0.125, 0.25], "probabilities", [0.5, 0.25, 1, 3, 0.25]),  # all are there
        ([0.0, 0.0, math.log(2), 0.0], "logits", [0.4, 0.2, 2, 0, 0.4]),
        ([0.3, 0.3, 0.3, 0.3], "sigmoids", [0.25, 0.25, 0, 1, 0.5]),
    ],
)  # fmt: skip
def test_what_is_read_becomes_labels_scores_and_rest(scores, outputs, expected):
    rest = 0.25 if outputs == "tokens" else None
    assert row(scores, outputs, rest=rest) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "outputs", "why"),
    [
        ({2: 0.9, 0: 0.9}, "probabilities", r"sum at most 1, got a least value of 0.9 and a sum of 1.8; .*percent"),
        ({2: 40.0}, "probabilities", "reader.percent=true"),
        ({2: -0.1}, "probabilities", "a least value of -0.1"),
        ({2: math.nan}, "probabilities", "expected scores of some classes"),
        ({7: 0.5}, "probabilities", r"expected class indices 0 to 4 - 1, got \[7\]"),
        ({2: 0.0}, "sigmoids", "one above it"),
        ([0.5, 0.25], "probabilities", r"of shape \[1, 4\]"),
    ],
)  # fmt: skip
def test_what_is_no_such_answer_is_refused(scores, outputs, why):
    with pytest.raises(AnswerError, match=why):
        row(scores, outputs)


def served(reply, url, outputs="probabilities", k=2, **options):
    return HTTPTopKTeacher(url, {"x": "{image}"}, outputs, k, patience=ONCE, **{"ledger": None, **options})


def test_an_api_names_its_best_classes():
    reply = {"displayNames": ["dog", "fox"], "confidences": [0.75, 0.125]}
    with answering(lambda handler, body: handler.reply(200, reply)) as url:
        options = shaped(label="displayNames", score="confidences")
        who = served(reply, url, k=3, labels=LABELS, **options)
        answer = who.query(image(2))
    assert answer.tolist() == [[0.75, 0.125, 0, 1, 3, -1, 0.125]] * 2
    assert (who.access, who.identity["k"], who.num_classes) == ("topk", "3", 4)
    expected = "the best classes: class 1 (dog) 0.75, class 3 (fox) 0.125; all others: 0.125"
    assert _meaning(answer[:1], who.labels, topk=True) == expected


def test_replies_that_were_paid_for_are_read_anew_for_another_k(tmp_path):
    asked, reply = [], {"cat": 0.5, "dog": 0.25, "bird": 0.125, "fox": 0.125}

    def answer(handler, body):
        asked.append(body)
        handler.reply(200, reply)

    ledger = str(tmp_path / "ledger.sqlite")
    with answering(answer) as url:
        soft = HTTPSoftLabelTeacher(url, {"x": "{image}"}, "probabilities", labels=LABELS, ledger=ledger)
        assert soft.query(image()).tolist() == [[0.5, 0.25, 0.125, 0.125]]
        for k, expected in ((1, [0.5, 0, 0.5]), (2, [0.5, 0.25, 0, 1, 0.25]), (1, [0.5, 0, 0.5])):
            assert served(reply, url, k=k, labels=LABELS, ledger=ledger).query(image()).tolist() == [expected]
        soft.close()
    assert len(asked) == 1


def test_an_image_without_an_answer_is_a_row_that_nobody_learns_from(tmp_path):
    def answer(handler, body):
        number = answer.calls = answer.calls + 1
        handler.reply(200, {"llama": 1.0} if number % 10 == 5 else {"cat": 0.5, "dog": 0.25})

    answer.calls = 0
    with answering(answer) as url:
        who = served(None, url, labels=LABELS[:3], ledger=str(tmp_path / "ledger.sqlite"), concurrency=1)
        assert who.num_classes == 3
        trainer(tmp_path).predict(TeacherAnswers(who, str(tmp_path / "set")), datamodule=ToyDataModule())
        who.close()
    data = TransferSetDataModule(ToyDataModule(), str(tmp_path / "set"))
    module = AnsweredKD(TinyNet(), rest="prior")
    trainer(tmp_path).fit(module, datamodule=data)
    manifest, made = data.transfer_set.manifest, data.transfer_set
    assert manifest["outcomes"] == {"answered": 54, "refused": 0, "unreadable": 6}
    assert (manifest["access"], manifest["class_histogram"], len(made)) == ("topk", [54, 0, 0], 54)
    assert made.unanswered["answer"].unique().tolist() == [-2]
    assert made.column("classes").unique().tolist() == [0, 1]
    expected = torch.tensor([1 / 3 + 27, 1 / 3 + 13.5, 1 / 3 + 13.5])
    torch.testing.assert_close(module.spread.mass, expected, atol=1e-3, rtol=0)


def test_rows_without_an_answer_have_the_width_of_answers():
    with answering(lambda handler, body: handler.reply(200, {"llama": 1.0})) as url:
        who = served(None, url, labels=LABELS, max_unanswered=1.0)
        assert who.ask(image(2)).tolist() == [[-2.0] * 5] * 2
        terms = KD(who, TinyNet(4)).losses(Batch(image(2), torch.arange(2)))
    assert terms["kd"].item() == 0


@pytest.mark.parametrize("best", [2, None])
def test_a_server_of_the_open_inference_protocol_names_them_or_gives_all(best):
    def answer(handler, body):
        if handler.command == "GET":
            about = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]}
            return handler.reply(200, about | {"outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}]})
        wanted = json.loads(body)["outputs"][0].get("parameters", {}).get("classification")
        assert wanted == best
        data, kind = (["0.5:3:fox", "0.25:1:dog"], "BYTES") if wanted else ([0.125, 0.25, 0.125, 0.5], "FP32")
        output = {"name": "y", "datatype": kind, "shape": [1, len(data)], "data": data}
        return handler.reply(200, {"outputs": [output]})

    with answering(answer) as url:
        tensors = Tensors(output="y", classification=best)
        who = RemoteTopKTeacher(url, "m", "probabilities", 2, tensors=tensors, max_batch=1, ledger=None, patience=ONCE)
        assert who.query(image(2)).tolist() == [[0.5, 0.25, 3, 1, 0.25]] * 2


def test_the_documented_configuration_reads_a_documented_reply():
    (block,) = re.findall(r"```yaml\n(teacher:  # top-k.*?)```", PAGE, re.DOTALL)
    settings = yaml.safe_load(block)["teacher"]
    reply = {"predictions": [{"ids": ["7", "9"], "displayNames": ["dog", "bird"], "confidences": [0.75, 0.125]}]}
    with answering(lambda handler, body: handler.reply(200, reply)) as url:
        settings["init_args"] |= {"url": url, "headers": {}, "ledger": None}
        parser = ArgumentParser(exit_on_error=False)
        parser.add_argument("--teacher", type=TopKTeacher)
        who = parser.instantiate(parser.parse_object({"teacher": settings})).teacher
        assert TopK.of(who.query(image().expand(1, 3, 8, 8))).classes.tolist() == [[1, 2, -1, -1, -1]]


def test_the_terms_are_those_of_a_teacher_with_a_row_for_an_answer():
    terms = TopKTeacher(TinyNet(10), 3).terms((1, 8, 8), "nowhere")
    assert (terms.bytes_down, terms.limits) == (28.0, Limits(None))
