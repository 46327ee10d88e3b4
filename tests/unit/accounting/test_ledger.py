import csv
import json
import multiprocessing
import os
import pickle
import signal
import sqlite3
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from kdlightning.__main__ import main, usage
from kdlightning.accounting import QueryBudgetExceededError, store
from kdlightning.accounting.ledger import Cost, LedgerError, Limits, QueryLedger, Totals
from kdlightning.commands.ledger import export

TEACHER = {"url": "http://localhost", "version": "3", "access": "soft"}
OTHER = {**TEACHER, "version": "4"}
FORK = multiprocessing.get_context("fork")


def images(first, number):
    return [b"image %d" % index for index in range(first, first + number)]


def answers(first, number):
    return np.arange(3 * first, 3 * (first + number), dtype=np.float32).reshape(number, 3)


def pay(ledger, first, number, teacher=TEACHER, cost=Cost(100, 50, 0.1)):  # noqa: B008 - immutable
    request = ledger.reserve(teacher, images(first, number), cost)
    ledger.record(request, answers(first, number))
    return request


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


@pytest.fixture
def ledger(path):
    with QueryLedger(path) as ledger:
        yield ledger


def run(function, *arguments):
    """In a forked process; its exit code."""
    process = FORK.Process(target=function, args=arguments)
    process.start()
    process.join(60)
    return process.exitcode


def edit(path, statement, *values):
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, values)
    connection.close()


@pytest.mark.parametrize(
    "answer",
    [
        np.array([0.1, np.nan, -np.inf], np.float32),
        np.array(7, np.int64),
        np.array([[True], [False]]),
        np.array([1.5], ">f8"),
        np.array([1.5, 2], np.float16),
        np.zeros((0, 3), np.uint8),
    ],
    ids=str,
)
def test_an_answer_comes_back_as_it_was_recorded(path, answer):
    with QueryLedger(path) as ledger:
        ledger.record(ledger.reserve(TEACHER, [b"image"], Cost(5)), [answer])
    with QueryLedger(path) as ledger:
        (found,) = ledger.lookup(TEACHER, [b"image"])
    assert found.dtype == answer.dtype.newbyteorder("<")
    np.testing.assert_array_equal(found, answer)
    assert found.shape == answer.shape


def test_answers_belong_to_a_teacher_and_an_image(ledger):
    pay(ledger, 0, 4)
    found = ledger.lookup(TEACHER, [b"image 2", b"image 9", b"image 0"])
    assert [None if answer is None else answer.tolist() for answer in found] == [[6, 7, 8], None, [0, 1, 2]]
    assert ledger.lookup(OTHER, [b"image 2"]) == [None]
    assert ledger.lookup(dict(reversed(TEACHER.items())), [b"image 3"])[0].tolist() == [9, 10, 11]
    assert ledger.teachers() == [TEACHER]


def test_what_repeats_is_counted_and_not_charged(ledger):
    pay(ledger, 0, 4)
    paid = Totals(unique=4, bytes_up=100, bytes_down=50, price=0.1)
    assert ledger.totals() == paid
    ledger.lookup(TEACHER, images(0, 4))
    ledger.lookup(TEACHER, images(3, 2))
    assert ledger.totals() == paid._replace(repeated=5)
    ledger.lookup(OTHER, [b"new", b"new", b"new"])  # to be asked once: two are free
    assert ledger.totals(OTHER) == Totals(repeated=2)
    assert ledger.totals().paid == 4


def test_a_request_counts_from_the_start_and_is_settled_once(ledger):
    request = ledger.reserve(TEACHER, images(0, 4), Cost(100, 50, 1.0))
    assert ledger.totals() == Totals(in_flight=4, bytes_up=100, bytes_down=50, price=1.0)
    assert ledger.totals().paid == 4
    ledger.record(request, list(answers(0, 4)), Cost(110, 40, 0.75))
    assert ledger.totals() == Totals(unique=4, bytes_up=110, bytes_down=40, price=0.75)
    for settle in (lambda: ledger.record(request, answers(0, 4)), lambda: ledger.release(request)):
        with pytest.raises(LedgerError, match="request 1 is not in flight; settle each request once"):
            settle()
    ledger.release(ledger.reserve(TEACHER, images(4, 2), Cost(100, 50, 1.0)))
    assert ledger.totals() == Totals(unique=4, bytes_up=110, bytes_down=40, price=0.75)
    ledger.release(ledger.reserve(TEACHER, images(4, 2), Cost(100, 50, 1.0)), Cost(30))
    ledger.write_off(ledger.reserve(TEACHER, images(4, 2), Cost(100, 50, 1.0)))
    ledger.write_off(ledger.reserve(TEACHER, images(4, 1), Cost(100, 50, 1.0)), Cost(20, 0, 0.25))
    assert ledger.totals() == Totals(unique=4, lost=3, bytes_up=260, bytes_down=90, price=2.0)
    assert ledger.totals().paid == 7
    assert ledger.verify() == []
    assert ledger.in_flight() == []


def test_requests_are_checked_before_they_count(ledger):
    for batch in ([], [b"same", b"same"]):
        with pytest.raises(ValueError, match="at least one image and each once"):
            ledger.reserve(TEACHER, batch, Cost(1))
    for cost in (Cost(-1), Cost(1, price=float("nan"))):
        with pytest.raises(ValueError, match="finite costs >= 0"):
            ledger.reserve(TEACHER, [b"image"], cost)
    assert ledger.totals() == Totals()
    request = ledger.reserve(TEACHER, images(0, 2), Cost(1))
    with pytest.raises(ValueError, match="expected 2 answers, one per image, got 1"):
        ledger.record(request, answers(0, 1))
    with pytest.raises(ValueError, match="bool, integers or floats"):
        ledger.record(request, ["cat", "dog"])
    assert ledger.totals().in_flight == 2
    assert ledger.lookup(TEACHER, images(0, 2)) == [None, None]


def test_the_first_answer_stays(ledger):
    first, second = (ledger.reserve(TEACHER, images(0, 2), Cost(10, 5, 1.0)) for _ in range(2))
    ledger.record(first, answers(0, 2))
    ledger.record(second, answers(50, 2))
    assert ledger.lookup(TEACHER, [b"image 1"])[0].tolist() == [3, 4, 5]
    assert ledger.totals() == Totals(unique=2, repeated=1, twice=2, bytes_up=20, bytes_down=10, price=2.0)
    assert ledger.totals().paid == 4
    assert ledger.verify() == []


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        (
            Limits(queries=7),
            r"6 queries have been spent and 2 more were asked for, but the budget is 7\. What was paid",
        ),
        (Limits(bytes=450), "450 bytes have been spent and 150 more were asked for, but the budget is 450"),
        (Limits(price=0.3), "0.3 units of price have been spent and 0.1 more were asked for, but the budget is 0.3"),
        (Limits(1000, 1000, 0.39), "0.3 units of price have been spent and 0.1 more"),
    ],
    ids=str,
)
def test_the_first_limit_stops(path, limits, message):
    with QueryLedger(path, limits) as ledger:
        for first in (0, 2, 4):  # 3 x 0.1 is exactly 0.3
            pay(ledger, first, 2)
        before = ledger.totals()
        with pytest.raises(QueryBudgetExceededError, match=message):
            ledger.reserve(TEACHER, images(6, 2), Cost(100, 50, 0.1))
        assert ledger.totals() == before == Totals(unique=6, bytes_up=300, bytes_down=150, price=0.3)
        assert ledger.lookup(TEACHER, [b"image 5"])[0].tolist() == [15, 16, 17]  # answers go on


def test_what_may_have_been_answered_counts_against_the_limit(path):
    with QueryLedger(path, Limits(queries=4)) as ledger:
        ledger.write_off(ledger.reserve(TEACHER, images(0, 1), Cost(1)))
        ledger.reserve(TEACHER, images(1, 2), Cost(1))
        with pytest.raises(
            QueryBudgetExceededError, match=r"3 queries have been spent \(with 3 images in flight or lost\)"
        ):
            ledger.reserve(TEACHER, images(0, 2), Cost(1))
        ledger.release(ledger.reserve(TEACHER, images(0, 1), Cost(1)))
        pay(ledger, 0, 1)


def test_accounts_share_answers_and_not_limits(path):
    with QueryLedger(path, Limits(queries=2), "a") as a, QueryLedger(path, Limits(queries=2), "b") as b:
        pay(a, 0, 1)
        pay(a, 1, 1, OTHER)
        with pytest.raises(QueryBudgetExceededError):
            pay(a, 2, 1)
        assert b.lookup(TEACHER, [b"image 0"])[0].tolist() == [0, 1, 2]
        pay(b, 2, 2)
        assert a.spent == Totals(unique=2, bytes_up=200, bytes_down=100, price=0.2)
        assert b.spent == Totals(unique=2, repeated=1, bytes_up=100, bytes_down=50, price=0.1)
        assert a.totals(TEACHER) == Totals(unique=3, repeated=1, bytes_up=200, bytes_down=100, price=0.2)
        assert a.totals().paid == 4


def test_an_account_moves_with_its_directory(path, tmp_path):
    def spent(run, **options):
        with QueryLedger(path, Limits(queries=5), **options) as ledger:
            ledger.pay_for(tmp_path / run / "queries.meter")
            return ledger

    first = spent("a")
    pay(first, 0, 3)
    (tmp_path / "a/queries.meter").touch()
    (tmp_path / "a").rename(tmp_path / "b")
    moved = spent("b")
    assert moved.account == first.account
    assert moved.spent.paid == 3
    with pytest.raises(QueryBudgetExceededError, match="3 queries have been spent"):
        pay(moved, 3, 3)
    new = spent("a")  # another run in the old one's place
    assert new.spent.paid == 0
    pay(new, 3, 3)
    assert spent("c", readonly=True).spent.paid == 0
    assert not (tmp_path / "c").exists()
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["queries.account"]
    (tmp_path / "a/queries.account").unlink()
    (tmp_path / "a/queries.meter").touch()
    assert spent("a").spent.paid == 3  # found by its place


def test_an_account_of_an_older_run_is_its_place(path, tmp_path):
    count = tmp_path / "old/queries.meter"
    count.parent.mkdir()
    count.touch()
    with QueryLedger(path, account=str(count)) as ledger:
        pay(ledger, 0, 3)
        ledger.pay_for(count)
        assert ledger.account == str(count)
    count.parent.rename(tmp_path / "new")
    with QueryLedger(path) as ledger:
        ledger.pay_for(tmp_path / "new/queries.meter")
        assert ledger.spent.paid == 3


def _spend(path, barrier, limits, queue):
    barrier.wait()  # all create the file at once
    with QueryLedger(path, limits, durable=False) as ledger:
        spent = 0
        try:
            while True:
                pay(ledger, 1000 * os.getpid() + 3 * spent, 3, cost=Cost(10, 5, 0.001))
                spent += 1
        except QueryBudgetExceededError:
            queue.put(spent)


@pytest.mark.parametrize("limits", [Limits(queries=200), Limits(bytes=1004), Limits(price=0.066)], ids=str)
def test_processes_share_one_budget_exactly(path, limits):
    queue, barrier = FORK.Queue(), FORK.Barrier(2)
    processes = [FORK.Process(target=_spend, args=(path, barrier, limits, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    spent = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sum(spent) == 66
    with QueryLedger(path) as ledger:
        assert ledger.totals() == Totals(unique=198, bytes_up=660, bytes_down=330, price=0.066)
        assert ledger.verify() == []


def test_threads_share_a_ledger(ledger):
    errors = []

    def work(thread):
        try:
            for turn in range(20):
                first = 1000 * thread + 4 * turn
                pay(ledger, first, 4)
                assert ledger.lookup(TEACHER, images(first, 4))[3].tolist() == answers(first + 3, 1)[0].tolist()
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert ledger.totals()[:5] == (240, 240, 0, 0, 0)
    assert ledger.verify() == []


def _die_in_mid_write(path):
    ledger = QueryLedger(path)
    pay(ledger, 0, 10)
    request = ledger.reserve(TEACHER, images(10, 5000), Cost(700, 300, 2.0))
    connection = ledger._file._connect()
    connection.execute("PRAGMA cache_size = 10")  # half-written pages are in the log when it dies
    connection.set_progress_handler(lambda: os.kill(os.getpid(), signal.SIGKILL), 50_000)
    ledger.record(request, answers(10, 5000))


def test_a_kill_in_mid_write_loses_nothing_and_the_request_counts_as_paid(path):
    assert run(_die_in_mid_write, path) == -signal.SIGKILL
    assert path.with_name("ledger.sqlite-wal").stat().st_size > 200_000
    for readonly in (True, False):  # a reader recovers the log too
        with QueryLedger(path, readonly=readonly) as ledger:
            assert ledger.verify() == []
    with QueryLedger(path) as ledger:
        assert len(list(ledger.answers())) == 10
        assert ledger.totals() == Totals(unique=10, in_flight=5000, bytes_up=800, bytes_down=350, price=2.1)
        (line,) = ledger.in_flight()
        assert line.startswith("request 2: images 5,000, sent by ")


def _pay_and_tell(path, writing):
    ledger = QueryLedger(path)
    for first in range(0, 1_000_000, 50):
        pay(ledger, first, 50, cost=Cost(50))
        os.write(writing, b".")


def test_killed_at_any_time_whatever_was_recorded_is_there(path):
    for turn in range(3):
        reading, writing = os.pipe()
        path = path.with_name(f"{turn}.sqlite")
        process = FORK.Process(target=_pay_and_tell, args=(path, writing))
        process.start()
        os.close(writing)
        told = len(os.read(reading, 1))
        for _ in range(7):
            told += len(os.read(reading, 1))
        process.kill()
        process.join()
        while more := len(os.read(reading, 1000)):
            told += more
        os.close(reading)
        with QueryLedger(path) as ledger:
            assert ledger.verify() == []
            totals = ledger.totals()
            assert totals.unique in (50 * told, 50 * told + 50)
            assert totals.in_flight in (0, 50)
            assert totals.bytes_up == totals.paid
            found = ledger.lookup(TEACHER, images(0, 50 * told))
            assert [answer.tolist() for answer in found] == answers(0, 50 * told).tolist()


def _use_inherited(ledger):
    assert ledger._file._connection is None  # closed before the fork
    assert ledger.lookup(TEACHER, [b"image 1"])[0].tolist() == [3, 4, 5]
    pay(ledger, 10, 2)


def test_a_fork_may_go_on_using_it(ledger):
    pay(ledger, 0, 2)
    for _ in range(2):
        assert run(_use_inherited, ledger) == 0
        pay(ledger, 20, 1)
    assert ledger.totals()[:3] == (5, 2, 3)
    assert ledger.verify() == []


def test_it_travels_by_path(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with QueryLedger("ledger.sqlite", Limits(queries=2), "run", durable=False) as ledger:
        pay(ledger, 0, 2)
        monkeypatch.chdir("/")
        copy = pickle.loads(pickle.dumps(ledger))
    assert copy.path == path
    assert copy.lookup(TEACHER, [b"image 1"])[0].tolist() == [3, 4, 5]
    with pytest.raises(QueryBudgetExceededError):
        pay(copy, 2, 1)
    copy.close()
    assert copy.spent.paid == 2  # opens again
    copy.close()


def test_an_image_is_claimed_by_one_who_lives(path):
    batch = images(0, 3)
    with QueryLedger(path) as one, QueryLedger(path) as other:
        assert one.claim(TEACHER, batch[:2]) == batch[:2]
        assert one.claim(TEACHER, batch[:2]) == []  # by a thread of its own
        assert other.claim({**TEACHER, "access": "hard"}, batch) == batch[2:]  # how it is read does not matter
        assert other.claim(OTHER, batch[:1]) == batch[:1]
        pay(one, 0, 1)
        one.unclaim(TEACHER, batch)  # its own: the third is another's
        assert other.claim(TEACHER, batch) == batch[1:2]
        other.close()
        assert one.claim(TEACHER, batch) == batch[1:]
        assert one.lookup(TEACHER, batch[:1])[0].tolist() == [0, 1, 2]
    assert [file.name for file in path.parent.iterdir()] == ["ledger.sqlite"]


def test_a_claim_that_could_not_be_given_up_is_void(path):
    with QueryLedger(path, timeout=0.05) as one, QueryLedger(path, timeout=0.05) as other:
        assert one.claim(TEACHER, images(0, 2)) == images(0, 2)
        lock = sqlite3.connect(path, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        one.unclaim(TEACHER, images(0, 2))
        lock.execute("ROLLBACK")
        lock.close()
        assert other.claim(TEACHER, images(0, 2)) == []
        assert one.claim(TEACHER, images(5, 1)) == images(5, 1)
        assert other.claim(TEACHER, images(0, 2)) == images(0, 2)


def _claim_and_die(path):
    ledger = QueryLedger(path)
    ledger.claim(TEACHER, images(0, 3))
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_claims_of_the_dead_are_void(path):
    assert run(_claim_and_die, path) == -signal.SIGKILL
    owners = path.with_name("ledger.sqlite-owners")
    assert len(list(owners.iterdir())) == 1
    with QueryLedger(path) as ledger:
        assert ledger.claim(TEACHER, images(0, 4)) == images(0, 4)
        assert len(list(owners.iterdir())) == 1


def test_entries_tell_their_share_of_the_cost(ledger):
    pay(ledger, 0, 4)
    pay(ledger, 0, 2500, OTHER, Cost(2500, 0, 5.0))
    entries = list(ledger.answers(TEACHER))
    assert [entry.answer.tolist() for entry in entries] == answers(0, 4).tolist()
    assert [entry[3:6] for entry in entries] == [(25, 12, 0.025), (25, 13, 0.025)] * 2
    assert {len(entry.image) for entry in entries} == {32}
    everything = list(ledger.answers())
    assert len(everything) == 2504
    assert everything[-1].teacher == OTHER
    assert everything[-1].price == 0.002


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE answers SET answer = X'3C66340000000000' WHERE id = 2", "answer 2: of image"),
        ("UPDATE answers SET answer = (SELECT answer FROM answers WHERE id = 1) WHERE id = 2", "answer 2: of image"),
        ("DELETE FROM answers WHERE id = 2", "totals: account '' of teacher 1 does not have the sums"),
        ("UPDATE requests SET price = 0", "totals: account '' of teacher 1 does not have the sums"),
        ("UPDATE requests SET state = 'released'", "totals: account '' of teacher 1 does not have the sums"),
    ],
)
def test_verify_finds_what_was_changed(path, statement, complaint):
    with QueryLedger(path) as ledger:
        pay(ledger, 0, 4)
    assert main(["ledger", "verify", str(path)]) == 0
    edit(path, statement)
    with QueryLedger(path) as ledger:
        (line,) = ledger.verify()
        assert line.startswith(complaint)
        if "UPDATE answers" in statement:
            with pytest.raises(LedgerError, match="is not what was recorded"):
                ledger.lookup(TEACHER, [b"image 1"])
    assert main(["ledger", "verify", str(path)]) == 1


def test_verify_finds_a_broken_file(path):
    with QueryLedger(path) as ledger:
        pay(ledger, 0, 2000)
    data = bytearray(path.read_bytes())
    for page in range(4, len(data) // 4096):
        data[4096 * page : 4096 * page + 100] = b"\xff" * 100
    path.write_bytes(data)
    with QueryLedger(path, readonly=True) as ledger:
        assert ledger.verify() != []


def test_errors_say_what_was_found(path, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        QueryLedger(tmp_path / "absent", readonly=True)
    (tmp_path / "text").write_text("a,b\n" * 1000)
    with pytest.raises(LedgerError, match="is not a query ledger, nor any SQLite file"):
        QueryLedger(tmp_path / "text")
    edit(tmp_path / "foreign", "CREATE TABLE songs (title)")
    with pytest.raises(LedgerError, match="an SQLite file, but not a query ledger"):
        QueryLedger(tmp_path / "foreign")
    QueryLedger(path).close()
    edit(path, "PRAGMA user_version = 7")
    with pytest.raises(LedgerError, match="has schema version 7, this version of kdlightning reads 1"):
        QueryLedger(path)
    with pytest.raises(LedgerError, match="cannot be made"):
        QueryLedger(tmp_path / "text" / "ledger")
    for wrong in ({"limits": Limits(queries=-1)}, {"timeout": 0}, {"journal_mode": "off"}):
        with pytest.raises(ValueError, match="expected"):
            QueryLedger(tmp_path / "new", **wrong)


def test_a_lock_that_is_held_for_long_is_an_error(path):
    with QueryLedger(path, timeout=0.05) as ledger:
        pay(ledger, 0, 1)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerError, match=r"locked by another process for more than 0\.05 s"):
            pay(ledger, 1, 1)
        other.execute("ROLLBACK")
        other.close()
        pay(ledger, 1, 1)
        assert ledger.totals().paid == 2


def _read_and_write_as_nobody(path):
    if os.geteuid() == 0:
        os.seteuid(65534)
    with QueryLedger(path, readonly=True) as ledger:
        assert ledger.lookup(TEACHER, [b"image 1"])[0].tolist() == [3, 4, 5]
        assert ledger.totals()[:2] == (2, 0)
        assert ledger.verify() == []
        with pytest.raises(LedgerError):
            pay(ledger, 2, 1)
    for name in ("ledger.sqlite", "new.sqlite"):
        with pytest.raises(LedgerError, match="directory that this user may write to"):
            QueryLedger(path.with_name(name))


def test_a_directory_that_may_not_be_written_can_be_read():
    with tempfile.TemporaryDirectory() as directory:  # not tmp_path, which only its owner may enter
        path = Path(directory) / "ledger.sqlite"
        with QueryLedger(path) as ledger:
            pay(ledger, 0, 2)
        path.chmod(0o444)
        path.parent.chmod(0o555)
        try:
            assert run(_read_and_write_as_nobody, path) == 0
        finally:
            path.parent.chmod(0o755)


def test_the_journal_mode_is_the_files(path):
    def mode():
        connection = sqlite3.connect(path)
        (name,) = connection.execute("PRAGMA journal_mode").fetchone()
        connection.close()
        return name

    with QueryLedger(path, journal_mode="delete") as ledger:
        pay(ledger, 0, 2)
        assert mode() == "delete"
    with QueryLedger(path) as ledger:
        pay(ledger, 2, 2)
        assert mode() == "delete"  # who says nothing changes nothing
        assert not path.with_name("ledger.sqlite-wal").exists()
    with QueryLedger(path, journal_mode="wal") as ledger:
        assert mode() == "wal"
        assert ledger.totals().unique == 4
        with pytest.raises(LedgerError, match="locked"):
            QueryLedger(path, journal_mode="delete", timeout=0.1)


def test_the_log_does_not_grow_for_ever(path, monkeypatch):
    monkeypatch.setattr(store, "_WAL_LIMIT", 100_000)
    log, sizes = path.with_name("ledger.sqlite-wal"), []
    with QueryLedger(path, durable=False) as ledger:
        for first in range(0, 8000, 200):
            pay(ledger, first, 200)
            sizes.append(log.stat().st_size)
    assert min(sizes[1:]) == 0
    assert max(sizes) < 300_000
    assert not log.exists()


def test_csv_gives_back_what_was_recorded(ledger, path, tmp_path):
    pay(ledger, 0, 3)
    ledger.record(ledger.reserve(OTHER, [b"label"], Cost(9)), np.array([2]))
    ledger.record(ledger.reserve(OTHER, [b"odd"], Cost(9)), np.array([[0.1, np.nan]], np.float32))
    assert main(["ledger", "export", str(path), "--output", "out/answers.csv"]) == 0
    with (tmp_path / "out/answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row, entry in zip(rows, ledger.answers(), strict=True):
        answer = np.array(json.loads(row["answer"]), row["dtype"]).reshape(json.loads(row["shape"]))
        np.testing.assert_array_equal(answer, entry.answer)
        assert json.loads(row["teacher"]) == entry.teacher
        assert bytes.fromhex(row["image"]) == entry.image
        assert (row["bytes_up"], float(row["price"])) == (str(entry.bytes_up), entry.price)
    assert sum(float(row["price"]) for row in rows) == pytest.approx(ledger.totals().price)
    with pytest.raises(FileExistsError, match="choose another output"):
        export(ledger, "out/answers.csv")
    with pytest.raises(ValueError, match=r"\.csv or \.parquet"):
        export(ledger, "answers.xlsx")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["answers.csv"]


def test_parquet_gives_back_what_was_recorded(ledger):
    parquet = pytest.importorskip("pyarrow.parquet")
    pay(ledger, 0, 3)
    ledger.record(ledger.reserve(OTHER, [b"label"], Cost(9)), np.array([2]))
    assert export(ledger, "answers.parquet") == 4
    rows = parquet.read_table("answers.parquet").to_pylist()
    for row, entry in zip(rows, ledger.answers(), strict=True):
        answer = np.array(row["answer"], row["dtype"]).reshape(row["shape"])
        np.testing.assert_array_equal(answer, entry.answer)
        assert (bytes.fromhex(row["image"]), row["price"]) == (entry.image, entry.price)
        assert repr(row["bytes_up"]) == repr(entry.bytes_up)  # a whole number
        assert row["time"].timestamp() == pytest.approx(entry.time, abs=1e-5)


def test_the_whole_bytes_of_answers_add_up_to_their_requests(ledger):
    ledger.record(ledger.reserve(OTHER, [b"a", b"b", b"c"], Cost(10)), np.arange(3), Cost(10, 5, 0.1))
    rows = [(entry.bytes_up, entry.bytes_down, entry.price) for entry in ledger.answers()]
    assert rows == [(3, 1, 0.033333333), (3, 2, 0.033333333), (4, 2, 0.033333334)]


def test_tokens_are_counted_kept_and_shown_with_their_answers(path, capsys, tmp_path):
    with QueryLedger(path) as ledger:
        first, second, third = (ledger.reserve(OTHER, images(n, 2), Cost(9, 0, 0.5, 300, 40)) for n in (0, 2, 4))
        assert ledger.totals() == Totals(in_flight=6, bytes_up=27, price=1.5, input_tokens=900, output_tokens=120)
        ledger.record(first, np.arange(2), Cost(9, 1, 0.123456789, 255, 7))
        ledger.release(second)
        ledger.write_off(third)
        paid = Totals(2, 0, 0, 0, 2, 18, 1, 0.623456789, 555, 47)
        assert ledger.totals() == paid
        assert [(entry.input_tokens, entry.output_tokens) for entry in ledger.answers()] == [(127, 3), (128, 4)]
        assert ledger.verify() == []
    assert main(["ledger", "show", str(path)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0][-4:] == ["Input", "tokens", "Output", "tokens"]
    assert ["all", "2", "0", "0", "0", "2", "18", "1", "0.623456789", "555", "47"] in lines
    assert main(["ledger", "export", str(path), "--output", "answers.csv"]) == 0
    with (tmp_path / "answers.csv").open(newline="") as file:
        assert [row["input_tokens"] for row in csv.DictReader(file)] == ["127", "128"]
    edit(path, "UPDATE tallies SET output_tokens = 48")
    with QueryLedger(path) as ledger:
        assert ledger.verify() == ["totals: account '' of teacher 1 does not have the sums of its rows"]


def test_parquet_without_pyarrow_names_the_extra(ledger, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    assert main(["ledger", "export", str(ledger.path), "--output", "answers.parquet"]) == 2
    assert "pip install pyarrow" in capsys.readouterr().err
    assert not list(tmp_path.glob("answers*"))


def test_show_prints_totals_by_teacher(path, capsys):
    with QueryLedger(path) as ledger:
        pay(ledger, 0, 1200)
        pay(ledger, 0, 7, OTHER)
        ledger.lookup(TEACHER, images(0, 30))
        ledger.reserve(OTHER, images(7, 2), Cost(10))
    assert main(["ledger", "show", str(path)]) == 0
    output = capsys.readouterr().out
    rows = [line.split() for line in output.splitlines()]
    assert ["1,200", "30", "0", "0", "0", "100", "50", "0.1"] in [row[-8:] for row in rows]
    assert ["7", "0", "0", "2", "0", "110", "50", "0.1"] in [row[-8:] for row in rows]
    assert ["all", "1,207", "30", "0", "2", "0", "210", "100", "0.2"] in rows
    assert output.splitlines()[-4:-1] == [
        "1: access soft, url http://localhost, version 3", "2: access soft, url http://localhost, version 4", ""
    ]  # fmt: skip
    assert "1,209 images paid for, 30 answered for free" in output
    assert main(["ledger", "verify", str(path)]) == 0
    output = capsys.readouterr().out
    assert "in flight: request 3: images 2, sent by" in output
    assert "1,207 answers as recorded, totals right" in output


def test_show_keeps_a_long_teacher_on_one_line(path, capsys):
    teacher = {"network": f"https://{'long' * 20}/v1", "request": "0123456789abcdef", "labels": 64 * "f"}
    with QueryLedger(path) as ledger:
        pay(ledger, 0, 3, teacher)
    path.with_name("ledger.sqlite-spool").mkdir()
    (path.with_name("ledger.sqlite-spool") / "1-a").touch()
    assert main(["ledger", "show", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line.split() for line in lines if " 3 " in line) == ["1", "3", *["0"] * 4, "100", "50", "0.1"]
    assert f"1: labels {teacher['labels']}, network {teacher['network']}, request {teacher['request']}" in lines
    assert len(lines) == 10
    assert lines[-1] == "1 requests wait in ledger.sqlite-spool; the next run reads them in"


def test_the_command_says_what_is_wrong(path, capsys):
    assert main(["ledger", "show", str(path)]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert not path.exists()
    assert "  ledger    the answers that were paid for" in usage()
