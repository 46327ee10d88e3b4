"""The query ledger among kills, other runs, locks, full disks, changed files: nothing lost, nothing paid twice."""

import contextlib
import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from servers import answering

from kdlightning.accounting.ledger import QueryLedger
from kdlightning.remote import HTTPHardLabelTeacher

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
    return HTTPHardLabelTeacher(url, {"images": ["{image}"]}, "index", results="labels", **options)


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
