"""Images without an answer on their way: transfer set, manifest, selections, training. One in ten gets none."""

import json
import multiprocessing
import os
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers import TinyNet, ToyDataModule, shaped, trainer
from servers import answering

from kdlightning.accounting.ledger import QueryLedger
from kdlightning.data import TransferSet, TransferSetDataModule
from kdlightning.methods import DFND, KD, AnsweredKD, DB3KDLabels, KnockoffSelection, MEKDGenerator, TeacherAnswers
from kdlightning.networks import DCGANGenerator, InfoGANCritic
from kdlightning.remote import HTTPHardLabelTeacher, HTTPSoftLabelTeacher, Patience, RemoteTeacherError
from kdlightning.report import Report, read_runs

FORK = multiprocessing.get_context("fork")
HASTY = Patience(backoff=0.01, longest_backoff=0.05, jitter=0.01)


@contextmanager
def server(asked, delay=0.0):
    """A model of three classes that declines about images whose first pixel, of 256, ends in 3; yields its url."""

    def answer(handler, body):
        image = json.loads(body)["image"]
        first = round(255 * image[0])
        asked.append(tuple(image))
        time.sleep(delay)
        scores = {name: 0.8 if first % 3 == k else 0.1 for k, name in enumerate("abc")}
        said = {"label": "abc"[first % 3], "scores": scores}
        handler.reply(200, {"refusal": "policy"} if first % 10 == 3 else said)

    with answering(answer) as url:
        yield url


def teacher(url, kind=HTTPHardLabelTeacher, **options):
    outputs, answer = ("text", "label") if kind is HTTPHardLabelTeacher else ("probabilities", "scores")
    shape = shaped(image="list", layout="flat", answer=answer, refused={"refusal": []}, **options)
    options = {"labels": ["a", "b", "c"], "patience": HASTY, "max_unanswered": 0.5, "concurrency": 2, **shape}
    return kind(url, {"image": "{image}"}, outputs, **options)


def pool(number=120):
    data = ToyDataModule(number, num_val=0, unlabelled=True)
    data.setup("fit")
    return data, (data.train_set.images[:, 0, 0, 0] % 10 == 3).nonzero()[:, 0].tolist()


def test_rows_without_an_answer_are_paid_kept_counted_and_not_learnt_from(tmp_path):
    asked, (data, silent) = [], pool()
    with server(asked) as url:
        module = TeacherAnswers(teacher(url), "set")
        trainer(tmp_path).predict(module, datamodule=data)
        assert 5 < len(silent) < 30
        assert (len(asked), len(set(asked)), module.rows_unanswered) == (120, 120, len(silent))
        again = TeacherAnswers(teacher(url), "again")
        trainer(tmp_path).predict(again, datamodule=data)
        assert (len(asked), again.paid.queries) == (120, 0)  # the ledger knows that they got none
    rows = TransferSet("set")
    assert rows.unanswered["index"].tolist() == silent
    assert set(rows.unanswered["answer"].tolist()) == {-1}
    assert sorted([*rows.column("index").tolist(), *silent]) == list(range(120))
    assert rows.column("answer").tolist() == (data.train_set.images[rows.column("index"), 0, 0, 0] % 3).tolist()
    told = rows.manifest
    assert (told["rows"], told["queries"], told["queries_paid"], told["unanswered"]) == (120, 120, 120, len(silent))
    assert told["outcomes"] == {"answered": 120 - len(silent), "refused": len(silent), "unreadable": 0}
    assert sum(told["class_histogram"]) == 120 - len(silent)
    with QueryLedger("ledger.sqlite") as ledger:
        assert [ledger.unanswered(who) for who in ledger.teachers()] == [len(silent)]

    seen = []
    student = AnsweredKD(TinyNet())
    student.on_train_batch_end = lambda outputs, batch, number: seen.extend(batch.index.tolist())
    trainer(tmp_path).fit(student, datamodule=TransferSetDataModule(ToyDataModule(120, num_val=0), "set"))
    assert sorted(seen) == rows.column("index").tolist()


def test_the_report_says_how_many(tmp_path):
    with server([]) as url:
        trainer(tmp_path).predict(
            TeacherAnswers(teacher(url, HTTPSoftLabelTeacher), tmp_path / "set"), datamodule=pool()[0]
        )
    rows = TransferSet(tmp_path / "set")
    assert torch.equal(rows.unanswered["answer"], -torch.ones(len(pool()[1]), 3))
    torch.testing.assert_close(rows.column("answer").sum(1), torch.ones(len(rows)))
    notes = Report([tmp_path], read_runs([tmp_path])).notes
    assert f"set: {len(pool()[1])} of 120 images got no answer; no student has learnt from them." in notes


def label(url, directory):
    os.chdir(directory)
    trainer(directory).predict(TeacherAnswers(teacher(url), "set"), datamodule=pool()[0])
    os._exit(0)


def test_kill_9_loses_no_outcome(tmp_path):
    asked = []
    with server(asked, delay=0.02) as url:
        for least in (20, 70, None):
            process = FORK.Process(target=label, args=(url, Path.cwd()))
            process.start()
            while least is not None and len(asked) < least and process.is_alive():
                time.sleep(0.005)
            (process.join if least is None else process.kill)()
            process.join(60)
        assert process.exitcode == 0
    silent = pool()[1]
    assert len(set(asked)) == 120
    assert len(asked) <= 120 + 2 * 2  # what flew at a kill
    with QueryLedger("ledger.sqlite") as ledger:
        totals = ledger.totals()
        assert (totals.unique, totals.paid, ledger.verify()) == (120, 120 + totals.in_flight, [])
    assert TransferSet("set").unanswered["index"].tolist() == silent
    assert json.loads(Path("set/manifest.json").read_text())["outcomes"]["refused"] == len(silent)


@pytest.mark.parametrize("strategy", ["random", "adaptive"])
def test_a_selection_pays_for_them_and_learns_from_the_others(strategy, tmp_path):
    asked, (data, silent) = [], pool()
    with server(asked) as url:
        options = {"num_groups": 4, "round_size": 20} if strategy == "adaptive" else {}
        module = KnockoffSelection(teacher(url), "set", queries=80, student=TinyNet(), strategy=strategy, **options)
        trainer(tmp_path).predict(module, datamodule=data)
    rows = TransferSet("set")
    assert (len(asked), module.paid.queries, rows.manifest["rows"]) == (80, 80, 80)
    lacking = rows.unanswered["index"].tolist()
    assert lacking
    assert set(lacking) <= set(silent)
    assert len(rows) == 80 - len(lacking)
    assert not set(rows.column("index").tolist()) & set(silent)


def test_an_online_student_leaves_them_out_of_the_term(tmp_path):
    asked, (data, silent) = [], pool()
    with server(asked) as url:
        module = KD(teacher(url, HTTPSoftLabelTeacher), TinyNet(), query_once=True)
        trainer(tmp_path, max_epochs=2).fit(module, datamodule=data)
        assert (len(asked), len(set(asked))) == (120, 120)
        batch = data.train_set.__getitems__([*silent[:2], *range(4)])
        batch = batch._replace(image=batch.image.float() / 255)
        known = [place for place, index in enumerate(batch.index.tolist()) if index not in silent]
        rest = batch._replace(image=batch.image[known], index=batch.index[known])
        module.eval()
        torch.testing.assert_close(module.losses(batch)["kd"], module.losses(rest)["kd"])
        none = batch._replace(image=batch.image[:2], index=batch.index[:2])
        assert module.losses(none)["kd"].item() == 0


def test_dfnd_chooses_them_last_and_mekds_generator_learns_from_the_others(tmp_path):
    asked, (data, silent) = [], pool()
    with server(asked) as url:
        module = DFND(teacher(url, HTTPSoftLabelTeacher), TinyNet(), share=None, number=120 - len(silent))
        chosen = []
        module.on_train_batch_end = lambda outputs, batch, number: chosen.extend(batch.index.tolist())
        trainer(tmp_path, reload_dataloaders_every_n_epochs=1).fit(module, datamodule=data)
        assert sorted(chosen) == [number for number in range(120) if number not in silent]
        parts = DCGANGenerator(3, 1, 8, width=4), InfoGANCritic(3, 1, 8, width=2)
        generator = MEKDGenerator(*parts, teacher(url, HTTPSoftLabelTeacher, max_unanswered=1.0), queries=40)
        trainer(tmp_path).fit(generator, datamodule=ToyDataModule(number=60, batch_size=8))
        assert generator.paid.queries <= 40


def test_a_search_says_in_one_sentence_that_it_needs_every_answer(tmp_path):
    with server([]) as url:
        module = DB3KDLabels(teacher(url), "set", num_classes=3, robustness="bd", candidates=2)
        with pytest.raises(RemoteTeacherError, match=r"got no answer .*, and what is asked here needs every one\."):
            trainer(tmp_path).predict(module, datamodule=pool()[0])
