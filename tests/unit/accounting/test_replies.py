"""Replies that are kept, read again by a teacher who reads them otherwise; ledgers from before they were."""

import hashlib
import json
import sqlite3

import numpy as np
import pytest

from kdlightning.__main__ import main
from kdlightning.accounting import rows
from kdlightning.accounting.accounts import READING
from kdlightning.accounting.ledger import Cost, LedgerError, QueryLedger, Totals

ENDPOINT = {"network": "http://localhost", "request": "0123"}
FIRST, SECOND, THIRD = ({**ENDPOINT, "access": "hard", "labels": str(number)} for number in range(3))
IMAGES = [b"image %d" % number for number in range(4)]
REPLY = json.dumps([2, 0, 1, 2]).encode()


def read(reply, number):
    answers = json.loads(reply)
    assert len(answers) == number
    return np.array(answers)


def strict(reply, number):
    raise ValueError("expected labels among ['cat'], got ['dog']")


@pytest.fixture
def ledger(tmp_path):
    with QueryLedger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


def found(ledger, teacher, images=IMAGES, how=read):
    return [None if answer is None else int(answer) for answer in ledger.lookup(teacher, images, how)]


def test_an_unread_reply_is_kept_and_read_by_a_mended_teacher(ledger):
    ledger.write_off(ledger.reserve(FIRST, IMAGES, Cost(10, 0, 1.0)), reply=REPLY)
    assert ledger.totals() == Totals(lost=4, bytes_up=10, price=1.0)
    assert found(ledger, FIRST) == [None] * 4  # who could not read it asks again
    assert ledger.claim(FIRST, IMAGES) == IMAGES
    assert (ledger.known(FIRST), ledger.known(SECOND), ledger.known({**SECOND, "request": "4"})) == (0, 4, 0)
    assert ledger.claim(SECOND, IMAGES) == []
    assert found(ledger, SECOND, IMAGES[1:]) == [0, 1, 2]
    assert found(ledger, SECOND, how=strict) == [2, 0, 1, 2]  # as it was read
    assert ledger.totals(SECOND) == Totals(repeated=7)
    assert ledger.totals().paid == 4
    assert ledger.verify() == []
    assert [entry.answer.tolist() for entry in ledger.answers(SECOND)] == [2, 0, 1, 2]
    assert list(ledger.answers(FIRST)) == []


def test_answers_are_read_again_for_other_labels(ledger):
    ledger.record(ledger.reserve(FIRST, IMAGES, Cost(10)), np.array([0, 0, 0, 0]), reply=REPLY)
    assert found(ledger, FIRST) == [0, 0, 0, 0]
    assert found(ledger, SECOND) == [2, 0, 1, 2]
    with QueryLedger(ledger.path, readonly=True) as offline:
        assert found(offline, THIRD) == [2, 0, 1, 2]
    assert ledger.teachers() == [FIRST, SECOND]
    assert ledger.totals() == Totals(unique=4, repeated=8, bytes_up=10)
    assert ledger.verify() == []


def test_who_cannot_read_a_reply_hears_it_once_and_may_ask_then(ledger):
    ledger.record(ledger.reserve(FIRST, IMAGES, Cost(10)), np.zeros(4), reply=REPLY)
    with pytest.raises(ValueError, match="expected labels among"):
        ledger.lookup(SECOND, IMAGES, strict)
    assert found(ledger, SECOND, how=strict) == [None] * 4
    assert ledger.claim(SECOND, IMAGES) == IMAGES
    ledger.record(ledger.reserve(SECOND, IMAGES, Cost(10)), np.array([1, 1, 1, 1]), reply=b"[1, 1, 1, 1]")
    assert found(ledger, SECOND, how=strict) == [1, 1, 1, 1]
    assert found(ledger, THIRD) == [2, 0, 1, 2]  # the first that was read stays
    assert ledger.totals().unique == 8
    assert ledger.verify() == []


def test_a_later_reply_stands_in_for_one_that_nobody_read(ledger):
    ledger.write_off(ledger.reserve(FIRST, IMAGES[:1], Cost(1)), reply=b'{"error": "overloaded"}')
    ledger.record(ledger.reserve(FIRST, IMAGES, Cost(10)), np.zeros(4), reply=REPLY)
    assert found(ledger, FIRST) == [0, 0, 0, 0]
    assert found(ledger, SECOND) == [2, 0, 1, 2]
    assert ledger.totals(FIRST)[:5] == (4, 4, 0, 0, 1)
    assert ledger.verify() == []


def test_replies_are_compressed_and_bounded(ledger, monkeypatch):
    monkeypatch.setattr(rows, "_REPLY", 100)
    ledger.record(ledger.reserve(FIRST, IMAGES, Cost(1)), np.zeros(4), reply=REPLY + b" " * 20_000)
    ledger.write_off(ledger.reserve(FIRST, [b"long"], Cost(1)), reply=np.random.default_rng(0).bytes(101))
    with sqlite3.connect(ledger.path) as connection:
        assert connection.execute("SELECT request, length(reply) < 400 FROM replies").fetchall() == [(1, 1)]
    connection.close()
    assert found(ledger, SECOND, [*IMAGES, b"long"]) == [2, 0, 1, 2, None]


def test_a_reply_that_was_changed_is_not_read(ledger):
    ledger.record(ledger.reserve(FIRST, IMAGES, Cost(1)), np.zeros(4), reply=REPLY)
    with sqlite3.connect(ledger.path) as connection:
        connection.execute("UPDATE replies SET images = CAST(images || images AS BLOB)")
    connection.close()
    with pytest.raises(LedgerError, match="the reply to request 1 is not what was recorded"):
        found(ledger, SECOND)
    assert ledger.verify() == ["reply to request 1: is not what was recorded"]


def test_a_reply_that_is_gone_is_told(ledger):
    ledger.record(ledger.reserve(FIRST, IMAGES, Cost(1)), np.zeros(4), reply=REPLY)
    with sqlite3.connect(ledger.path) as connection:
        connection.execute("DELETE FROM replies")
    connection.close()
    assert found(ledger, FIRST) == [0, 0, 0, 0]
    with pytest.raises(LedgerError, match="the reply to request 1 is not what was recorded"):
        found(ledger, SECOND)


# what schema 2 added
SCHEMA_2 = """
ALTER TABLE teachers ADD COLUMN asked INTEGER NOT NULL DEFAULT 0;
CREATE TABLE endpoints (id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE);
CREATE TABLE replies (
    request INTEGER PRIMARY KEY, checksum INTEGER NOT NULL, images BLOB NOT NULL, reply BLOB NOT NULL
);
CREATE TABLE kept (
    endpoint INTEGER NOT NULL, image BLOB NOT NULL, request INTEGER NOT NULL, PRIMARY KEY (endpoint, image)
) WITHOUT ROWID;
CREATE TABLE claims (
    endpoint INTEGER NOT NULL, image BLOB NOT NULL, owner TEXT NOT NULL, PRIMARY KEY (endpoint, image)
) WITHOUT ROWID;
UPDATE teachers SET identity = '{}', asked = 1;
INSERT INTO endpoints VALUES (1, '{}');
PRAGMA user_version = 2;
"""
# and schema 3
SCHEMA_3 = """
ALTER TABLE requests ADD COLUMN input_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE requests ADD COLUMN output_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tallies ADD COLUMN input_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE tallies ADD COLUMN output_tokens INTEGER NOT NULL DEFAULT 0;
PRAGMA user_version = 3;
"""
SCHEMA_1 = """
CREATE TABLE teachers (id INTEGER PRIMARY KEY, identity TEXT NOT NULL UNIQUE);
CREATE TABLE requests (
    id INTEGER PRIMARY KEY, teacher INTEGER NOT NULL REFERENCES teachers, account TEXT NOT NULL, owner TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('in flight', 'answered', 'lost', 'released')), queries INTEGER NOT NULL,
    bytes_up INTEGER NOT NULL, bytes_down INTEGER NOT NULL, price INTEGER NOT NULL, sent REAL NOT NULL, settled REAL
);
CREATE INDEX unsettled ON requests (id) WHERE state = 'in flight';
CREATE TABLE answers (
    id INTEGER PRIMARY KEY, teacher INTEGER NOT NULL REFERENCES teachers, image BLOB NOT NULL,
    request INTEGER NOT NULL REFERENCES requests, checksum INTEGER NOT NULL, answer BLOB NOT NULL,
    UNIQUE (teacher, image)
);
CREATE TABLE tallies (
    teacher INTEGER NOT NULL REFERENCES teachers, account TEXT NOT NULL, "unique" INTEGER NOT NULL,
    repeated INTEGER NOT NULL, twice INTEGER NOT NULL, in_flight INTEGER NOT NULL, lost INTEGER NOT NULL,
    bytes_up INTEGER NOT NULL, bytes_down INTEGER NOT NULL, price INTEGER NOT NULL, PRIMARY KEY (teacher, account)
) WITHOUT ROWID;
PRAGMA application_id = 0x6B644C67;
PRAGMA user_version = 1;
"""


@pytest.fixture(params=[1, 2, 3])
def old(tmp_path, request):
    """A ledger as an older schema had it: a teacher with a fingerprint, a request answered, one in flight."""
    path = tmp_path / "old.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(SCHEMA_1)
    with connection:
        connection.execute("INSERT INTO teachers VALUES (1, ?)", (json.dumps({**FIRST, "fingerprint": "ab"}),))
        for number, state in ((1, "answered"), (2, "in flight")):
            values = number, state, 2 if number == 1 else 1
            connection.execute("INSERT INTO requests VALUES (?, 1, 'a', 'host:1', ?, ?, 10, 5, 0, 1.0, NULL)", values)
        for image, label in zip(IMAGES[:2], (1, 2), strict=True):
            key, data = hashlib.sha256(image).digest(), rows.pack(np.array(label))
            connection.execute(
                "INSERT INTO answers (teacher, image, request, checksum, answer) VALUES (1, ?, 1, ?, ?)",
                (key, rows.checksum_of(key, data), data),
            )
        connection.execute("INSERT INTO tallies VALUES (1, 'a', 2, 3, 0, 1, 0, 20, 10, 0)")
    if request.param > 1:
        asked = {key: value for key, value in FIRST.items() if key not in READING}
        told = [json.dumps(identity, sort_keys=True) for identity in (FIRST, asked)]
        connection.executescript(SCHEMA_2.replace("{}", "%s") % tuple(told))
    if request.param > 2:
        connection.executescript(SCHEMA_3)
    connection.close()
    return path


def test_an_old_ledger_is_read_as_it_is(old, capsys):
    before = old.read_bytes()
    with QueryLedger(old, readonly=True) as ledger:
        assert found(ledger, FIRST, IMAGES[:3]) == [1, 2, None]
        assert ledger.teachers() == [FIRST]
        assert (ledger.known(FIRST), ledger.totals()) == (2, Totals(2, 3, 0, 1, 0, 20, 10))
        assert ledger.verify() == []
    assert main(["ledger", "show", str(old)]) == 0
    assert "3 images paid for, 3 answered for free" in capsys.readouterr().out
    assert old.read_bytes() == before


def test_an_old_ledger_goes_on(old):
    with QueryLedger(old) as ledger:
        assert found(ledger, FIRST, IMAGES[:3]) == [1, 2, None]
        assert found(ledger, SECOND, IMAGES[:2]) == [None, None]  # no reply was kept
        ledger.record(ledger.reserve(FIRST, IMAGES[2:], Cost(1)), np.zeros(2), reply=b"[1, 2]")
        assert found(ledger, SECOND, IMAGES) == [None, None, 1, 2]
        assert ledger.totals(FIRST) == Totals(4, 5, 0, 1, 0, 21, 10)
        assert ledger.verify() == []
    connection = sqlite3.connect(old)
    assert connection.execute("PRAGMA user_version").fetchone() == (4,)
    connection.close()
