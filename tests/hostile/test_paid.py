"""The query ledger among kills, other runs, locks, full disks, changed files: nothing lost, nothing paid twice."""

import contextlib
import errno
import functools
import json
import multiprocessing
import os
import random
import resource
import signal
import sqlite3
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Linear, shaped
from servers import FAULTS, Spoiler, answering, serving

from kdlightning.__main__ import main
from kdlightning.accounting import Budget, QueryBudgetExceededError
from kdlightning.accounting.ledger import Cost, LedgerError, QueryLedger
from kdlightning.commands.disk import told
from kdlightning.remote import HTTPHardLabelTeacher, Patience, RemoteSoftLabelTeacher, RemoteTeacherError
from kdlightning.serving import ServedModel

TEACHER = {"network": "http://localhost", "access": "soft"}
FORK = multiprocessing.get_context("fork")


def images(number, seed=0):
    return torch.rand(number, 1, 2, 2, generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def api(delay=0.0):
    """A server of labels, 0 where the first pixel is the darker; yields its url and all images asked."""
    asked = []

    def answer(handler, body):
        batch = json.loads(body)["images"]
        asked.extend(map(str, batch))
        time.sleep(delay)
        handler.reply(200, {"labels": [int(image[0] > image[1]) for image in batch]})

    with answering(answer) as url:
        yield url, asked


def hard(url, **options):
    options = {"max_batch": 10, "concurrency": 2, "image": "list", "layout": "flat", **options}
    return HTTPHardLabelTeacher(url, {"images": ["{image}"]}, "index", **shaped(results="labels", **options))


def label(url, ready, directory, **options):
    """Ask about all images, 50 a query, in a process of its own."""
    os.chdir(directory)
    teacher, found = hard(url, **options), []
    ready.wait()
    for part in images(600).split(50):
        found.append(teacher.query(part))
    teacher.close()
    Path(f"{os.getpid()}.done").write_text(str(torch.cat(found).tolist()))


def runs(url, number, **options):
    ready = FORK.Barrier(number)
    made = [FORK.Process(target=label, args=(url, ready, Path.cwd()), kwargs=options) for _ in range(number)]
    for process in made:
        process.start()
    return made


def expected():
    first = images(600).flatten(1)
    return str((first[:, 0] > first[:, 1]).long().tolist())


@pytest.mark.tried("two runs at once on one ledger", "every image is asked once, both have all answers")
def test_two_runs_at_once_ask_every_image_once():
    with api(delay=0.01) as (url, asked):
        made = runs(url, 2)
        for process in made:
            process.join(60)
    assert [process.exitcode for process in made] == [0, 0]
    assert [Path(f"{process.pid}.done").read_text() for process in made] == [expected()] * 2
    assert len(asked) == len(set(asked)) == 600
    with QueryLedger("ledger.sqlite") as ledger:
        totals = ledger.totals()
        assert (totals.unique, totals.twice, totals.paid, ledger.verify()) == (600, 0, 600, [])
    assert sorted(file.name for file in Path().glob("ledger*")) == ["ledger.sqlite"]  # no owner is left


@pytest.mark.tried(
    "two runs on one ledger, one killed in mid-request", "the other takes over; only what flew is repaid"
)
def test_who_waits_takes_over_from_the_dead():
    with api(delay=0.05) as (url, asked):
        one, other = runs(url, 2)
        while len(asked) < 100:
            time.sleep(0.005)
        one.kill()
        other.join(60)
    assert other.exitcode == 0
    assert Path(f"{other.pid}.done").read_text() == expected()
    assert len(set(asked)) == 600
    assert len(asked) <= 600 + 2 * 10
    with QueryLedger("ledger.sqlite") as ledger:
        totals = ledger.totals()
        assert (totals.unique, totals.paid) == (600, 600 + totals.in_flight)
        assert len(asked) <= totals.paid <= 600 + 2 * 10
        assert ledger.verify() == []


def run(function, *arguments):
    """In a forked process; its exit code."""
    process = FORK.Process(target=function, args=arguments)
    process.start()
    process.join(60)
    return process.exitcode


def batch(first, number):
    return [b"image %d" % index for index in range(first, first + number)]


def rows(first, number):
    return np.arange(first, first + number, dtype=np.float32)


def known(ledger, first, number):
    return [None if answer is None else float(answer) for answer in ledger.lookup(TEACHER, batch(first, number))]


@pytest.mark.tried("the ledger is locked for longer than its timeout", "the answer just paid is kept beside it")
def test_an_answer_that_finds_the_ledger_locked_is_kept_beside_it(caplog, capsys):
    ledger = QueryLedger("ledger.sqlite", timeout=0.05)
    ledger.record(ledger.reserve(TEACHER, batch(30, 2), Cost(0)), rows(1, 2))
    one, two, three, four = (ledger.reserve(TEACHER, batch(3 * at, 3), Cost(10, 0, 1.0)) for at in range(4))
    other = sqlite3.connect("ledger.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger.record(one, rows(0, 3), Cost(10, 5, 1.0), reply=b"[0, 1, 2]")
    ledger.write_off(two)
    ledger.release(three)
    ledger.record(four, rows(9, 3))
    assert "what was answered is kept in" in caplog.text
    assert len(list(Path("ledger.sqlite-spool").iterdir())) == 4
    with pytest.raises(LedgerError, match="locked"):
        ledger.reserve(TEACHER, batch(20, 1), Cost(1))
    with pytest.raises(LedgerError, match="locked"):  # nothing is asked that could not be known to be answered
        ledger.claim(TEACHER, batch(0, 3))
    assert known(ledger, 30, 2) == [1, 2]  # what is known is answered
    other.execute("ROLLBACK")
    other.close()
    assert main(["ledger", "show", "ledger.sqlite"]) == 0
    assert "4 requests wait in ledger.sqlite-spool; the next run reads them in" in capsys.readouterr().out
    assert ledger.claim(TEACHER, batch(0, 3)) == []
    assert known(ledger, 0, 3) == [0, 1, 2]
    assert not Path("ledger.sqlite-spool").exists()
    totals = ledger.totals()
    assert (totals.unique, totals.lost, totals.in_flight, totals.paid, totals.price) == (8, 3, 0, 11, 3.0)
    assert ledger.verify() == []


def _locked_and_killed():
    ledger = QueryLedger("ledger.sqlite", timeout=0.05)
    request = ledger.reserve(TEACHER, batch(0, 3), Cost(10))
    other = sqlite3.connect("ledger.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger.record(request, rows(0, 3))
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.tried("the ledger is locked, then its run is killed", "the next opening has the answer")
def test_the_next_opening_reads_the_spool_in():
    assert run(_locked_and_killed) == -signal.SIGKILL
    spool = Path("ledger.sqlite-spool")
    (file,) = spool.iterdir()
    kept = file.read_bytes()
    (spool / "7-torn").write_bytes(kept[: len(kept) // 2])
    (spool / "1-again").write_bytes(kept)  # read in twice, it counts once
    (spool / "9.tmp").write_bytes(b"half")
    with QueryLedger("ledger.sqlite") as ledger:
        assert known(ledger, 0, 3) == [0, 1, 2]
        assert ledger.totals().paid == ledger.totals().unique == 3
        assert ledger.verify() == ["spool: 7-torn is damaged; its request counts as paid"]


def _on_a_full_disk(directory):
    os.chdir(directory)
    with QueryLedger("ledger.sqlite", timeout=1) as ledger:
        requests = [ledger.reserve(TEACHER, batch(3 * at, 3), Cost(10)) for at in range(3)]
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limit[1]))  # as if the disk were full for all that is written
        threading.Timer(0.5, resource.setrlimit, (resource.RLIMIT_FSIZE, limit)).start()
        started = time.monotonic()
        for at, request in enumerate(requests):
            ledger.record(request, rows(3 * at, 3))
        assert time.monotonic() - started > 0.4
    os._exit(0)


@pytest.mark.tried("the disk is full when an answer comes", "it is tried until there is room; nothing is lost")
def test_an_answer_waits_for_room_on_the_disk(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("kdlightning.accounting.ledger._PAUSES", (0.1,))
    assert run(_on_a_full_disk, tmp_path) == 0
    with QueryLedger("ledger.sqlite") as ledger:
        assert known(ledger, 0, 9) == list(range(9))
        assert ledger.verify() == []
        assert ledger.totals().paid == 9


@pytest.mark.tried("no file can be made beside the ledger", "one sentence, nothing is asked")
def test_a_directory_without_room_for_an_owner_is_told(monkeypatch):
    with QueryLedger("ledger.sqlite") as ledger:
        Path("ledger.sqlite-owners").write_text("in the way")
        with pytest.raises(LedgerError, match=r"no file can be made beside it.*File exists"):
            ledger.claim(TEACHER, batch(0, 3))


def _fill(configuration):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))  # the checkpoint is longer
    with contextlib.suppress(SystemExit), Path("told").open("w") as sys.stderr:
        main(configuration)


@pytest.mark.slow
@pytest.mark.tried("the disk is full when a run writes its checkpoint", "one sentence")
def test_a_full_disk_is_one_sentence():
    options = ["--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    data = ["--data", "DigitsDataModule", "--data.num_samples", "32", "--data.image_size", "28"]
    assert run(_fill, ["fit", "--model", "Supervised", "--model.student", "LeNet5", *data, *options]) == 0
    lines = Path("told").read_text().splitlines()
    assert lines[-1].startswith("kdlightning: error: the disk is full")
    assert lines[-1].endswith("; free space and run the same command again: what was written whole is kept")
    assert not any("Traceback" in line for line in lines)


def test_a_disk_that_may_not_be_written_is_one_sentence():
    closed = PermissionError(errno.EACCES, "Permission denied", "/x/y")
    assert told(closed) == "Permission denied (/x/y); choose a place that this user may write to"
    assert told(RuntimeError("PytorchStreamWriter failed writing file data/0")).startswith("the disk is full; free")
    assert told(OSError(errno.EPIPE, "Broken pipe")) is told(RuntimeError("other")) is None
    assert told(LedgerError("No space left on device")) is None


def spend(url, ready, directory, **options):
    os.chdir(directory)
    teacher = hard(url, **options)
    teacher.share("run/queries.meter")
    ready.wait()
    with contextlib.suppress(QueryBudgetExceededError):
        for part in images(600, os.getpid()).split(20):
            teacher.query(part)
    os._exit(3)


@pytest.mark.tried("two processes of one run on one budget of money", "it is met exactly")
def test_one_budget_of_money_is_met_exactly():
    ready = FORK.Barrier(2)
    with api() as (url, asked):
        options = {"price": 0.01, "budget": Budget(price=1.5)}
        made = [FORK.Process(target=spend, args=(url, ready, Path.cwd()), kwargs=options) for _ in range(2)]
        for process in made:
            process.start()
        for process in made:
            process.join(60)
    assert len(asked) == 150
    with QueryLedger("ledger.sqlite") as ledger:
        assert (ledger.totals().paid, ledger.totals().price) == (150, 1.5)
    Path("run").rename("moved")
    with api() as (url, asked):
        teacher = hard(url, known_as="lab", **options)
        teacher.share("moved/queries.meter")
        with pytest.raises(QueryBudgetExceededError, match=r"1\.5 units of price have been spent"):
            teacher.query(images(1))
    assert asked == []


READING = {**TEACHER, "access": "hard"}  # the same replies, read otherwise


def read(times, reply, number):
    return times * np.array(json.loads(reply))


def spoilt(seed):
    """A ledger with replies, some of its bytes changed or its end cut."""
    draw, path = random.Random(seed), Path(f"{seed}.sqlite")
    with QueryLedger(path, durable=False) as ledger:
        for first in range(0, 60, 3):
            request = ledger.reserve(TEACHER, batch(first, 3), Cost(10))
            ledger.record(request, rows(first, 3), reply=json.dumps([first, first + 1, first + 2]).encode())
    data = bytearray(path.read_bytes())
    if draw.random() < 0.2:
        del data[draw.randrange(len(data)) :]
    for _ in range(draw.choice([1, 1, 3, 30])):
        if data:
            data[draw.randrange(len(data))] = draw.randrange(256)
    path.write_bytes(data)
    return path


def check_spoilt(seed):
    path = spoilt(seed)
    try:
        with QueryLedger(path, timeout=1) as ledger:
            for teacher, times in ((TEACHER, 1), (READING, 2)):
                for first in range(0, 60, 5):
                    with contextlib.suppress(LedgerError):
                        found = ledger.lookup(teacher, batch(first, 5), functools.partial(read, times))
                        wanted = [times * number for number in range(first, first + 5)]
                        assert all(one is None or one == want for one, want in zip(found, wanted, strict=True))
            ledger.verify()
            with contextlib.suppress(LedgerError):
                list(ledger.answers())
            with contextlib.suppress(LedgerError):
                mine = ledger.claim(TEACHER, batch(70, 2))
                ledger.record(ledger.reserve(TEACHER, mine, Cost(1)), rows(70, 2))
    except LedgerError:
        pass  # in words


@pytest.mark.tried("a ledger with changed bytes or a cut end", "no wrong answer, a sentence at most", times=20)
def test_a_spoilt_ledger_gives_no_wrong_answer():
    for seed in range(20):
        check_spoilt(seed)


@pytest.mark.slow
@pytest.mark.tried("a ledger with changed bytes or a cut end", "no wrong answer, a sentence at most", times=600)
def test_many_spoilt_ledgers_give_no_wrong_answer():
    for seed in range(100, 700):
        check_spoilt(seed)


SHAPE = (1, 4, 4)
WEIGHT = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


def client(url, directory, done):
    os.chdir(directory)
    patience = Patience(read_timeout=20, attempts=50, backoff=0.01, longest_backoff=0.05, jitter=0.01)
    found = []
    for part in torch.rand(120, *SHAPE, generator=torch.Generator().manual_seed(0)).split(24):
        while True:
            with contextlib.suppress(RemoteTeacherError):
                teacher = RemoteSoftLabelTeacher(
                    url, "linear", "probabilities", max_batch=4, concurrency=2, known_as="lab", patience=patience
                )
                found.append(teacher.query(part))
                break
    torch.save(torch.cat(found), done)
    os._exit(0)


def kills(seed, most):
    """Kill a client of a faulty proxy again and again until it is done; what was answered was asked once."""
    draw, model = random.Random(seed), ServedModel(Linear(WEIGHT), "linear", "soft", shape=SHAPE)
    faults = [fault for fault in FAULTS if fault != "time-out"]
    with serving(model) as upstream, QueryLedger("ledger.sqlite") as ledger:
        spoiler = Spoiler(upstream, seed, faults, clean=0.6)
        spoiler.known = lambda image: any(ledger.lookup(who, [image])[0] is not None for who in ledger.teachers())
        with answering(spoiler) as url:
            number, code = 0, None
            while code != 0:
                process = FORK.Process(target=client, args=(url, Path.cwd(), "done.pt"))
                process.start()
                process.join(draw.uniform(0.1, 0.8) if number < most else 60)
                process.kill()
                process.join()
                number, code = number + 1, process.exitcode
        totals = ledger.totals()
        assert ledger.verify() == []
    x = torch.rand(120, *SHAPE, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.load("done.pt"), (x.flatten(1) @ WEIGHT.T).softmax(1), atol=1e-5, rtol=0)
    assert spoiler.again == []
    assert (totals.unique, totals.twice) == (120, 0)
    assert totals.in_flight <= 2 * 4 * number
    assert totals.paid >= model.answered
    return number - 1


@pytest.mark.tried("kill -9, again and again, amid faults", "no answer is asked twice, all are right", times=3)
def test_kills_amid_faults_lose_nothing():
    assert kills(seed=0, most=3) > 0


@pytest.mark.slow
@pytest.mark.tried("kill -9, again and again, amid faults", "no answer is asked twice, all are right", times=10)
@pytest.mark.parametrize("seed", range(1, 25))
def test_many_kills_amid_faults_lose_nothing(seed):
    assert kills(seed, most=12) > 0
