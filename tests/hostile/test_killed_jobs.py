"""Labelling by batch jobs that is killed anywhere: it finds its jobs again, and nothing is paid twice."""

import json
import multiprocessing
import os
import random
import signal

import pytest
from helpers import ToyDataModule, trainer
from vendors import QUICK, TARIFF, VENDORS, batch_teacher

from kdlightning.accounting import Budget
from kdlightning.accounting.accounts import Cost
from kdlightning.accounting.jobs import JobLedger
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.data import NoiseDataModule, TransferSet
from kdlightning.methods import TeacherAnswers
from kdlightning.remote import keeper

FORK = multiprocessing.get_context("fork")
NUMBER = 50
BUDGET = Budget(queries=NUMBER, price=1.0)


def label(vendor, url, directory, prepare=lambda: None, **options):
    """Label all images, in a process of its own."""
    os.chdir(directory)
    prepare()
    teacher = batch_teacher(vendor, url, **{"budget": BUDGET, **options})
    data = NoiseDataModule(ToyDataModule(eval_batch_size=16), NUMBER)
    trainer(directory).predict(TeacherAnswers(teacher, "set"), datamodule=data, return_predictions=False)
    os._exit(0)


class Killer:
    """A trouble: kills the process ``client`` (-9) at these requests, by kind and number of its kind."""

    def __init__(self, *moments):
        self.moments, self.client, self.seen = set(moments), None, dict.fromkeys(["any", "ANY"], 0)

    def __call__(self, vendor, handler, what, job):
        every = "ANY" if what.isupper() else "any"
        self.seen[what] = self.seen.get(what, 0) + 1
        self.seen[every] += 1
        if {(what, self.seen[what]), (every, self.seen[every])} & self.moments:
            os.kill(self.client, signal.SIGKILL)
            return True
        return False


def run_until_done(kind, server, killer, directory, **options):
    """How often it was killed."""
    kills = 0
    with server.serving() as url:
        while True:
            process = FORK.Process(target=label, args=(kind, url, directory), kwargs=options)
            process.start()
            killer.client = process.pid
            process.join(120)
            assert process.exitcode in (0, -9)
            if process.exitcode == 0:
                return kills
            kills += 1
            options.pop("prepare", None)


def nano(price):
    return Cost(0, 0, price).units()[2]


def is_whole_and_paid_once(server):
    assert set(server.came.values()) == {1}  # no image was in two jobs
    assert len(server.came) == len(server.billed) == NUMBER
    assert len(server.handed) == len(set(server.handed))
    made = TransferSet("set")
    assert len(made) == made.manifest["queries"] == made.manifest["queries_paid"] == NUMBER
    with QueryLedger("ledger.sqlite") as ledger:
        totals, entries = ledger.totals(), list(ledger.answers())
        assert (ledger.verify(), ledger.in_flight()) == ([], [])
    assert totals[0] == NUMBER
    assert totals[2:5] == (0, 0, 0)  # none twice, in flight or lost
    assert nano(totals.price) == sum(nano(TARIFF.price(1, usage, batch=True)) for _, usage in server.billed)
    assert totals.input_tokens == sum(usage.input_tokens for _, usage in server.billed)
    said = sorted(server.say(image) for image, _ in server.billed)
    assert said == sorted(["cat", "dog", "eel"][label] for label in made.column("answer").tolist())
    assert len(entries) == NUMBER


@pytest.mark.tried(
    "A labelling by batch jobs is killed (-9) before a job is sent, before its name is known, while it is waited for "
    "or while its results are fetched",
    "It finds its jobs, no image is in two of them, and cost is settled to the token",
)
@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(
    "moment",
    [
        *("CREATE-1", "LOOK-4", "FETCH-1"),
        *(pytest.param(moment, marks=pytest.mark.slow) for moment in ("create-1", "CREATE-3", "look-1", "fetch-1")),
    ],
)
def test_a_kill_at_one_moment_costs_nothing(tmp_path, vendor, moment):
    what, number = moment.split("-")
    killer = Killer((what, int(number)))
    server = VENDORS[vendor][0](troubles=[killer])
    assert run_until_done(vendor, server, killer, tmp_path) == 1
    is_whole_and_paid_once(server)


@pytest.mark.tried("A kill between two transactions in which a job's results are settled", "The rest is fetched again")
@pytest.mark.parametrize("vendor", VENDORS)
def test_a_kill_while_results_are_settled_costs_nothing(tmp_path, vendor):
    def prepare():
        settle, calls = JobLedger.settle, []

        def dying(self, *arguments):
            calls.append(settle(self, *arguments))
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return calls[-1]

        JobLedger.settle, keeper._CHUNK = dying, 7

    server, killer = VENDORS[vendor][0](), Killer()
    assert run_until_done(vendor, server, killer, tmp_path, prepare=prepare) == 1
    is_whole_and_paid_once(server)
    assert server.asked["fetch"] == 4  # one job's twice


@pytest.mark.tried(
    "A kill after the images of a job that was never submitted are given back", "An exact budget suffices for them"
)
def test_a_kill_after_images_are_given_back_does_not_cost_the_budget(tmp_path):
    def given_back():
        with (
            QueryLedger(tmp_path / "ledger.sqlite", readonly=True) as ledger,
            ledger._file.transaction(write=False) as file,
        ):
            return file.execute("SELECT count(*) FROM requests WHERE state = 'released'").fetchone()[0]

    def trouble(server, handler, what, job):
        if what != "look" or server.looks < 2 or not given_back():
            return False
        server.looks = 1
        os.kill(killer.client, signal.SIGKILL)
        return True

    killer = Killer(("create", 2))
    server = VENDORS["openai"][0](looks=1000, troubles=[killer, trouble])
    assert run_until_done("openai", server, killer, tmp_path) == 2
    is_whole_and_paid_once(server)


@pytest.mark.tried("Batch jobs are killed (-9) at random requests, three times a run", "Nothing is paid twice", times=3)
@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_kills_at_random_requests_cost_nothing(tmp_path, vendor, seed):
    draw = random.Random(seed)
    killer = Killer(*((draw.choice(["any", "ANY"]), number) for number in draw.sample(range(1, 12), 3)))
    server = VENDORS[vendor][0](troubles=[killer], seed=seed)
    assert run_until_done(vendor, server, killer, tmp_path) == 3
    is_whole_and_paid_once(server)


@pytest.mark.tried("Two runs with one ledger ask the same images in batch jobs", "Each image is in one job")
@pytest.mark.parametrize("vendor", VENDORS)
def test_two_processes_submit_no_image_twice(tmp_path, vendor):
    server = VENDORS[vendor][0](looks=3)
    with server.serving() as url:
        places = [tmp_path / name for name in "ab"]
        for place in places:
            place.mkdir()
        options = {"ledger": str(tmp_path / "ledger.sqlite"), "jobs": QUICK, "budget": None}
        both = [FORK.Process(target=label, args=(vendor, url, place), kwargs=options) for place in places]
        for process in both:
            process.start()
        for process in both:
            process.join(120)
        assert [process.exitcode for process in both] == [0, 0]
    assert set(server.came.values()) == {1}
    assert len(server.came) == NUMBER
    paid = [json.loads((place / "set/manifest.json").read_text())["queries_paid"] for place in places]
    with QueryLedger(options["ledger"]) as ledger:
        assert (ledger.totals().unique, ledger.totals().twice, ledger.verify()) == (NUMBER, 0, [])
    assert sum(paid) == NUMBER
