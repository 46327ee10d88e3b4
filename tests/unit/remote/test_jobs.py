"""Batch jobs against a mock of the two vendors: what expires, fails, is lost, is turned away or never ends."""

import base64
import io
import json
import logging
import math
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import Linear, ToyDataModule, trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException
from PIL import Image
from vendors import (
    ANSWERED,
    EXPIRED,
    FAILED,
    HASTY,
    LOST,
    QUICK,
    REFUSED,
    TARIFF,
    VENDORS,
    OpenAI,
    batch_teacher,
    replies,
)

from kdlightning.__main__ import main
from kdlightning.accounting import Budget, QueryBudgetExceededError
from kdlightning.accounting.accounts import Cost
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.callbacks import progress
from kdlightning.commands.costs import foresee
from kdlightning.data import ImageFolderDataModule, NoiseDataModule, TransferSet
from kdlightning.methods import KD, DB3KDLabels, KnockoffSelection, TeacherAnswers
from kdlightning.remote import Jobs, RemoteTeacherError, networked
from kdlightning.remote.providers import OpenAIBatchTeacher, OpenAIChatTeacher

NUMBER = 12
pytestmark = pytest.mark.filterwarnings("ignore:predict returned None")


@pytest.fixture(params=VENDORS)
def vendor(request):
    return request.param


def images(number=NUMBER, seed=0):
    return torch.randint(256, (number, 1, 8, 8), generator=torch.Generator().manual_seed(seed)) / 255


def label(tmp_path, teacher, number=NUMBER, output="set", **options):
    data = NoiseDataModule(ToyDataModule(eval_batch_size=5), number)
    trainer(tmp_path).predict(TeacherAnswers(teacher, output, **options), datamodule=data, return_predictions=False)
    return TransferSet(output)


def jobs(**options):
    return Jobs(**{**vars(QUICK), "images": 5, **options})


def nano(price):
    return Cost(0, 0, price).units()[2]


def totals():
    with QueryLedger("ledger.sqlite") as ledger:
        assert (ledger.verify(), ledger.in_flight()) == ([], [])
        return ledger.totals()


def billed(server):
    return sum(nano(TARIFF.price(1, usage, batch=True)) for _, usage in server.billed)


def by_turns(*fates):
    """Every third image has these fates, one after the other; the others are answered."""
    numbers = {}

    def fate(image, before):
        number = numbers.setdefault(image, len(numbers))
        return fates[min(before, len(fates) - 1)] if number % 3 == 0 else ANSWERED

    return fate


@pytest.mark.parametrize("fate", [EXPIRED, FAILED])
def test_what_expires_or_fails_is_not_paid_and_goes_into_another_job(tmp_path, vendor, fate):
    server = VENDORS[vendor][0](fate=by_turns(fate, ANSWERED))
    with server.serving() as url:
        made = label(tmp_path, batch_teacher(vendor, url, jobs=jobs()))
    assert Counter(server.came.values()) == {1: 8, 2: 4}
    assert (len(made), made.manifest["queries_paid"], len(server.billed)) == (NUMBER, NUMBER, NUMBER)
    assert totals()[:5] == (NUMBER, NUMBER, 0, 0, 0)
    assert nano(totals().price) == nano(made.manifest["price"]) == billed(server)


def test_a_request_that_is_refused_is_an_image_without_answer(tmp_path, vendor):
    server = VENDORS[vendor][0](fate=by_turns(REFUSED))
    with server.serving() as url:
        made = label(tmp_path, batch_teacher(vendor, url, jobs=jobs(), max_unanswered=0.5))
    assert set(server.came.values()) == {1}
    assert (len(made), made.manifest["outcomes"]) == (8, {"answered": 8, "refused": 4, "unreadable": 0})
    assert nano(totals().price) == billed(server)
    assert len(server.billed) == 8


def test_words_without_a_label_are_unreadable_and_paid(tmp_path, vendor):
    said = {}

    def say(image):
        return ("cat", "I'm sorry, but I can't help with that.", "a fish", "cat")[said.setdefault(image, len(said)) % 4]

    server = VENDORS[vendor][0](say=say)
    with server.serving() as url:
        made = label(tmp_path, batch_teacher(vendor, url, jobs=jobs(), max_unanswered=0.6))
    assert made.manifest["outcomes"] == {"answered": 6, "refused": 3, "unreadable": 3}
    assert nano(totals().price) == billed(server)
    assert len(server.billed) == NUMBER


def test_a_result_that_is_missing_counts_as_paid_and_is_asked_again(tmp_path, vendor, caplog):
    server = VENDORS[vendor][0](fate=by_turns(LOST, ANSWERED))
    with server.serving() as url:
        made = label(tmp_path, batch_teacher(vendor, url, jobs=jobs(images=NUMBER)))
    assert len(made) == NUMBER
    assert (totals().unique, totals().lost) == (NUMBER, 4)
    assert len(server.billed) == NUMBER + 4
    assert nano(totals().price) >= billed(server)  # of what is lost the worst case
    assert "without a result for 4 of its 12 images; they count as paid" in caplog.text


def test_an_image_of_which_nothing_comes_is_given_up_after_some_jobs(tmp_path, vendor):
    server = VENDORS[vendor][0](fate=by_turns(FAILED))
    with server.serving() as url:
        teacher = batch_teacher(vendor, url, jobs=jobs(attempts=2))
        with pytest.raises(RemoteTeacherError, match=r"nothing has come of 2 images, in any of their jobs \(batch job"):
            label(tmp_path, teacher)
        assert Counter(server.came.values()) == {1: 8, 2: 4}
        server.fate = lambda image, before: ANSWERED
        assert len(label(tmp_path, batch_teacher(vendor, url, jobs=jobs()))) == NUMBER
    assert totals()[:1] + totals()[2:5] == (NUMBER, 0, 0, 0)
    assert Counter(server.came.values()) == {1: 8, 3: 4}
    assert nano(totals().price) == billed(server)


def test_a_job_without_one_answer_stops_the_run_and_costs_nothing(tmp_path, vendor):
    server = VENDORS[vendor][0](fate=lambda *_: REFUSED)
    with (
        server.serving() as url,
        pytest.raises(RemoteTeacherError, match=r"nothing was answered: .*\. Nothing of it is"),
    ):
        label(tmp_path, batch_teacher(vendor, url, jobs=jobs(at_once=1)))
    assert len(server.came) == 5
    assert (totals().paid, totals().price) == (0, 0)


def test_many_unanswered_images_stop_the_run_before_the_next_job(tmp_path, vendor):
    server = VENDORS[vendor][0](say=lambda image: "a fish")
    with server.serving() as url, pytest.raises(RemoteTeacherError, match="5 of 5 images got no answer"):
        label(tmp_path, batch_teacher(vendor, url, jobs=jobs(at_once=1)))
    assert (len(server.came), totals().unique) == (5, 5)


LIMIT = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached for gpt-4o-mini. Limit: 90,000."}


def test_a_job_that_is_turned_away_waits_for_another_to_end(tmp_path, caplog):
    server = OpenAI(fails=lambda number: LIMIT if number == 2 else None, looks=2)
    with server.serving() as url:
        made = label(tmp_path, batch_teacher("openai", url, jobs=jobs()))
    assert len(made) == len(server.billed) == NUMBER
    assert set(server.came.values()) == {1}
    assert "is submitted again when another has ended: 'Enqueued token limit reached" in caplog.text
    assert nano(totals().price) == billed(server)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            LIMIT,
            r"failed: 'Enqueued token limit .*lower jobs.images, or wait until other jobs have ended; the same comm",
        ),
        ({"code": "invalid_json_line", "message": "Line 1 is no JSON."}, "failed: 'Line 1 is no JSON.'. Nothing of it"),
    ],
)
def test_a_job_that_fails_stops_the_run_and_costs_nothing(tmp_path, error, told):
    server = OpenAI(fails=lambda number: error)
    with server.serving() as url, pytest.raises(RemoteTeacherError, match=told):
        label(tmp_path, batch_teacher("openai", url))
    assert (totals().paid, totals().price) == (0, 0)


def test_a_job_that_never_ends_is_waited_for_again_by_the_same_command(tmp_path, vendor, caplog):
    server = VENDORS[vendor][0](looks=math.inf)
    with server.serving() as url:
        told = (
            r"batch job \w+_1 has not ended within 1e-05 hours .*in_progress, 0 of 12 done\).*the same command to wait"
        )
        with pytest.raises(RemoteTeacherError, match=told):
            label(tmp_path, batch_teacher(vendor, url, jobs=jobs(images=20, hours=1e-5)))
        assert "1 batch job goes on by itself at http://" in caplog.text
        with QueryLedger("ledger.sqlite") as ledger:
            assert ledger.totals().in_flight == NUMBER
            assert [line.partition(",")[0] for line in ledger.in_flight()] == [
                f"batch job {server.prefix}_1: images 12"
            ]
        server.looks = 1
        assert len(label(tmp_path, batch_teacher(vendor, url))) == NUMBER
    assert set(server.came.values()) == {1}
    assert totals()[2:5] == (0, 0, 0)


@pytest.mark.parametrize(
    "faults",
    [
        [("create", 429), ("create", 503)],
        [("CREATE", 500)],
        [("CREATE", None)],
        [("create", 502)],
        [("create", None)],
        [("look", 500), ("LOOK", 502), ("look", None), ("LOOK", None)],
        [("fetch", 429), ("fetch", 500), ("FETCH", None)],
        [("CREATE", None), ("list", 500), ("LIST", None)],
    ],
    ids=["limit", "failed-after", "lost-after", "failed-before", "lost-before", "look", "fetch", "list"],
)
def test_a_job_is_created_once_whatever_fails(tmp_path, vendor, faults):
    trouble = replies(*faults)
    server = VENDORS[vendor][0](troubles=[trouble])
    with server.serving() as url:
        made = label(tmp_path, batch_teacher(vendor, url))
    assert trouble.left == []
    assert len(made) == len(server.billed) == NUMBER
    assert set(server.came.values()) == {1}
    assert len(server.jobs) == 1
    assert nano(totals().price) == billed(server)
    assert totals()[2:5] == (0, 0, 0)


def test_a_file_of_results_that_is_cut_is_fetched_again(tmp_path, vendor):
    cut = [100]

    def trouble(server, handler, what, job):
        if what != "fetch" or not cut:
            return False
        handler.reply(200, server.fetch(handler, b"", job)[1][: cut.pop()])  # a whole reply, of half a line
        return True

    server = VENDORS[vendor][0](troubles=[trouble])
    with server.serving() as url:
        assert len(label(tmp_path, batch_teacher(vendor, url))) == NUMBER
    assert (server.asked["fetch"], totals().lost) == (2, 0)


def test_an_upload_that_is_cut_off_costs_nothing(tmp_path):
    trouble = replies(("upload", None), ("UPLOAD", None))
    server = OpenAI(troubles=[trouble])
    with server.serving() as url:
        assert len(label(tmp_path, batch_teacher("openai", url), output="first")) == NUMBER
        server.troubles = [replies(*[("upload", None)] * 20)]
        with pytest.raises(RemoteTeacherError, match="files: the connection broke"):
            label(tmp_path, batch_teacher("openai", url), NUMBER + 3)
        assert totals().paid == NUMBER
        server.troubles = []
        assert len(label(tmp_path, batch_teacher("openai", url), NUMBER + 3)) == NUMBER + 3
    assert set(server.came.values()) == {1}


def test_a_budget_of_images_is_kept_and_raised(tmp_path, vendor):
    server = VENDORS[vendor][0]()
    with server.serving() as url:
        with pytest.raises(QueryBudgetExceededError, match="7 of 12 images are answered"):
            label(tmp_path, batch_teacher(vendor, url, budget=7))
        assert (len(server.came), totals().paid) == (7, 7)
        assert len(label(tmp_path, batch_teacher(vendor, url, budget=NUMBER))) == NUMBER
    assert set(server.came.values()) == {1}


def test_a_budget_of_money_holds_for_the_worst_case_and_what_is_left_is_spent(tmp_path, vendor):
    server = VENDORS[vendor][0]()
    with server.serving() as url:
        budget = Budget(price=0.005)
        made = label(tmp_path, batch_teacher(vendor, url, budget=budget), 400, at_budget="finish")
    assert set(server.came.values()) == {1}
    first = len(next(iter(server.jobs.values()))["outcomes"])
    assert first == 3  # of 20,000 tokens each, as long as nobody knows
    assert len(made) == len(server.billed) == 400
    assert nano(totals().price) == billed(server) <= nano(0.005)


def test_what_is_in_a_job_a_chat_teacher_does_not_ask_and_has_afterwards(tmp_path, monkeypatch):
    server = OpenAI(looks=math.inf)
    options = {"known_as": "vendor", "price": TARIFF}
    with server.serving() as url:
        with pytest.raises(RemoteTeacherError, match="has not ended"):
            label(tmp_path, batch_teacher("openai", url, jobs=jobs(images=20, hours=1e-5)))
        chat = OpenAIChatTeacher("m", ["cat", "dog", "eel"], url=url, **options)
        with monkeypatch.context() as patch:
            patch.setattr(networked, "time", _Hasty())
            with pytest.raises(RemoteTeacherError, match=r"5 images are in the batch job batch_1, which is submitted"):
                label(tmp_path, chat, output="chat")
        server.looks = 1
        label(tmp_path, batch_teacher("openai", url))
        chat = OpenAIChatTeacher("m", ["cat", "dog", "eel"], url=url, **options)
        assert len(label(tmp_path, chat, output="chat")) == NUMBER
    assert (len(server.billed), totals().paid) == (NUMBER, NUMBER)


class _Hasty:
    """A clock on which every look is ten seconds after the one before."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 10
        return self.now

    def sleep(self, seconds):
        pass


def test_a_job_that_the_server_does_not_know_stops_the_run_until_it_is_given_up(tmp_path, vendor):
    server = VENDORS[vendor][0](looks=math.inf)
    with server.serving() as url:
        with pytest.raises(RemoteTeacherError, match="has not ended"):
            label(tmp_path, batch_teacher(vendor, url, jobs=jobs(images=20, hours=1e-5)))
        server.looks, server.jobs = 1, {"other_7": {"looks": 9, "outcomes": [], "created": 1e9, "metadata": None}}
        with pytest.raises(
            RemoteTeacherError, match=r"_1, with 12 images, is not known there: .*jobs.forget=true asks"
        ):
            label(tmp_path, batch_teacher(vendor, url))
        assert len(label(tmp_path, batch_teacher(vendor, url, jobs=jobs(forget=True)))) == NUMBER
    assert (totals().unique, totals().lost) == (NUMBER, NUMBER)


@pytest.mark.parametrize("moment", ["create", "CREATE"])
def test_of_foreign_jobs_in_the_list_none_is_taken(tmp_path, vendor, moment):
    """Jobs of as many images, over and under way, stand before and after ours, on several pages of the list."""

    def foreign(server):
        for looks in range(3):
            name = server.work([(f"x-{n}", "AAAA") for n in range(NUMBER)], metadata={"kdlightning": "another"})
            server.jobs[name]["looks"] = looks

    def trouble(server, handler, what, job):
        if what != moment or server.asked["create"] > 1:
            return False
        foreign(server)
        handler.hang_up()
        return True

    server = VENDORS[vendor][0](pages=1, troubles=[trouble])
    foreign(server)
    with server.serving() as url:
        assert len(label(tmp_path, batch_teacher(vendor, url))) == NUMBER
    assert len(server.jobs) == 7
    assert server.came.pop("AAAA") == 6 * NUMBER
    assert set(server.came.values()) == {1}
    assert len(server.came) == NUMBER


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_jobs_running_and_the_same_command_fetches_them(tmp_path, vendor, number, caplog):
    def trouble(server, handler, what, job):
        if what == "LOOK" and server.asked["look"] == 2:
            os.kill(os.getpid(), number)
        return False

    server = VENDORS[vendor][0](looks=math.inf, troubles=[trouble])
    with server.serving() as url:
        with pytest.raises(SystemExit) as stop:
            label(tmp_path, batch_teacher(vendor, url, jobs=jobs(images=20, every=30)))
        assert isinstance(stop.value, SIGTERMException) or isinstance(stop.value.__context__, KeyboardInterrupt)
        assert "1 batch job goes on by itself" in caplog.text
        server.looks, server.troubles = 1, []
        assert len(label(tmp_path, batch_teacher(vendor, url))) == NUMBER
    assert set(server.came.values()) == {1}


def test_methods_that_ask_again_and_again_refuse_it():
    with OpenAI().serving() as url:
        teacher = batch_teacher("openai", url)
        told = r"expected one that answers when it is asked, got a OpenAIBatchTeacher, which answers in batch jobs"
        for method in (
            lambda: DB3KDLabels(teacher, "out", num_classes=3),
            lambda: KnockoffSelection(teacher, "out", 4, strategy="random"),
            lambda: KD(teacher, Linear(torch.zeros(3, 64))),
        ):
            with pytest.raises(TypeError, match=told):
                method()


def test_it_needs_a_ledger():
    with (
        OpenAI().serving() as url,
        pytest.raises(ValueError, match="expected a ledger, where its jobs are written down"),
    ):
        batch_teacher("openai", url, ledger=None)


@pytest.mark.parametrize("name", ["images", "hours", "every", "attempts"])
def test_options_that_are_none_are_refused(name):
    with pytest.raises(ValueError, match=f"jobs: expected a positive number, got {name} = 0"):
        Jobs(**{name: 0})


def test_a_line_tells_of_the_job_that_is_waited_for(tmp_path, vendor, caplog):
    server, lines = VENDORS[vendor][0](looks=2), []
    with server.serving() as url, caplog.at_level(logging.INFO):
        teacher = batch_teacher(vendor, url, jobs=jobs(every=0.05))
        assert teacher.status == ""
        teacher.ahead(lambda: iter([images()]), lambda: lines.append(teacher.status))
        assert teacher.status == ""
    assert lines[0] == "batch job 1 of 3: 0 of 5 done, asking again in 1 s"
    assert f"teacher: {lines[0]}" in caplog.text


def test_images_may_be_asked_from_python(vendor):
    server = VENDORS[vendor][0]()
    with server.serving() as url:
        teacher = batch_teacher(vendor, url)
        twice = images()[[0, 1, 2, 0]]
        answer = teacher.query(twice)
        assert torch.equal(answer[:1], answer[3:])
        assert torch.equal(teacher.query(twice), answer)
    assert (len(server.jobs), len(server.billed)) == (1, 3)


def test_an_unanswered_image_is_asked_once_more_where_that_is_wanted(tmp_path, vendor):
    fates = {}

    def fate(image, before):
        return REFUSED if fates.setdefault(image, len(fates)) == 0 and server.asked["create"] < 2 else ANSWERED

    server = VENDORS[vendor][0](fate=fate)
    with server.serving() as url:
        assert len(label(tmp_path, batch_teacher(vendor, url), output="first")) == NUMBER - 1
        again = replace(HASTY, ask_again=True)
        assert len(label(tmp_path, batch_teacher(vendor, url, patience=again), output="second")) == NUMBER
    assert Counter(server.came.values()) == {1: NUMBER - 1, 2: 1}


def test_an_estimate_is_at_the_price_of_jobs(tmp_path, vendor):
    server = VENDORS[vendor][0]()
    with server.serving() as url:
        label(tmp_path, batch_teacher(vendor, url), output="first")
        data = NoiseDataModule(ToyDataModule(eval_batch_size=5), 100)
        forecast = foresee(trainer(tmp_path), TeacherAnswers(batch_teacher(vendor, url), "set"), data)
    mean = sum(TARIFF.price(1, usage, batch=True) for _, usage in server.billed) / NUMBER
    assert forecast.terms.price.mean == pytest.approx(mean)
    assert dict(forecast.lines())["asked"] == "in batch jobs, at their price"


def test_replies_of_a_job_are_read_with_the_labels_of_who_fetches_it(tmp_path):
    """The question is the same, so the job is: nothing is asked again where the labels were mended meanwhile."""
    server = OpenAI(looks=math.inf, say=lambda image: "kitten")
    with server.serving() as url:
        with pytest.raises(RemoteTeacherError, match="has not ended"):
            label(tmp_path, batch_teacher("openai", url, prompt="What?", jobs=jobs(images=20, hours=1e-5)))
        server.looks = 1
        mended = OpenAIBatchTeacher(
            "m", {"dog": 0, "cat": 1, "eel": 2, "kitten": 1}, prompt="What?", url=url, jobs=QUICK, patience=HASTY,
            price=TARIFF, known_as="vendor",
        )  # fmt: skip
        made = label(tmp_path, mended)
    assert made.column("answer").tolist() == [1] * NUMBER
    assert set(server.came.values()) == {1}
    assert totals()[:5] == (NUMBER, NUMBER, 0, 0, 0)
    assert nano(totals().price) == billed(server)


def test_a_teacher_in_jobs_sees_images_at_their_own_sizes(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for number, name in enumerate(["a", "b"] * 6):
        size = 9 + number % 4, 12
        pixels = torch.randint(256, (*size, 3), generator=generator).byte().numpy()
        (tmp_path / f"photos/train/{name}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"photos/train/{name}/{number}.png")
    server = OpenAI()
    data = ImageFolderDataModule(str(tmp_path / "photos"), image_size=8, teacher_size="original", eval_batch_size=5,
                                 num_val=0, test=None)  # fmt: skip
    with server.serving() as url:
        teacher = OpenAIBatchTeacher(
            "m", {"cat": 0, "dog": 0, "eel": 1}, url=url, jobs={"images": 5, "every": 0.02}, patience=HASTY
        )
        trainer(tmp_path).predict(TeacherAnswers(teacher, "set"), datamodule=data, return_predictions=False)
    sizes = {Image.open(io.BytesIO(base64.b64decode(image))).size for image in server.came}
    assert sizes == {(12, 9), (12, 10), (12, 11), (12, 12)}
    assert set(server.came.values()) == {1}
    assert (len(server.came), len(TransferSet("set"))) == (NUMBER, NUMBER)


def test_a_command_shows_jobs_and_their_price(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    server = OpenAI(looks=2)
    with server.serving() as url:
        settings = {
            "model": "m",
            "labels": ["cat", "dog", "eel"],
            "url": url,
            "price": {**vars(TARIFF), "unbilled": [500]},
        }
        patience = {"backoff": 0.01, "longest_backoff": 0.05, "jitter": 0.01}
        own = {**settings, "patience": patience, "jobs": {"images": 5, "every": 0.05}}
        model = {"class_path": "TeacherAnswers", "init_args": {
            "teacher": {"class_path": "OpenAIBatchTeacher", "init_args": own}, "output": "set"}}  # fmt: skip
        data = {
            "class_path": "helpers.ToyDataModule",
            "init_args": {"number": NUMBER, "num_val": 3, "eval_batch_size": 4},
        }
        quiet = {"accelerator": "cpu", "logger": False}
        Path("labels.yaml").write_text(json.dumps({"model": model, "data": data, "trainer": quiet}))
        assert main(["estimate", "--config", "labels.yaml"]) == 0
        assert "in batch jobs, at their price" in capsys.readouterr().out
        assert main(["estimate", "--config", "labels.yaml", "--probe", "2"]) == 2
        assert "--probe asks at once, and a OpenAIBatchTeacher answers in batch jobs" in capsys.readouterr().err
        assert server.asked == {}
        assert main(["predict", "--config", "labels.yaml"]) == 0
    told = capsys.readouterr().out
    assert "batch job 1 of 3: 0 of 5 done, asking again in 1 s" in told
    assert "12 of 12 images, 12 queries" in told
    assert len(server.billed) == NUMBER
