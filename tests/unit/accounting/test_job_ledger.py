"""Batch jobs in a ledger: whose an image is, what the limits allow, and what a settlement does."""

import numpy as np
import pytest

from kdlightning.accounting import Limits
from kdlightning.accounting.accounts import Cost, Totals
from kdlightning.accounting.jobs import JobLedger
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.accounting.rows import pack
from kdlightning.accounting.spool import Settlement

FIRST = {"network": "u", "access": "hard", "labels": "a"}
SECOND = {**FIRST, "labels": "b"}  # reads otherwise what is asked alike
IMAGES = [b"1", b"2", b"3", b"4", b"5"]


@pytest.fixture
def ledger():
    with JobLedger("ledger.sqlite") as opened:
        yield opened


def begun(ledger, images=IMAGES, cost=Cost(10, 0, 0.5, 100, 4), who=FIRST):  # noqa: B008 - immutable
    return ledger.begin(who, images, [cost] * len(images))


def answered(one, label, cost=Cost(10, 7, 0.25, 50, 1)):  # noqa: B008 - immutable
    return Settlement(one.request, "answered", (one.image,), cost.units(), (pack(np.array(label)),), None)


def test_a_job_holds_its_images_until_each_is_settled(ledger):
    job, refusal = begun(ledger)
    assert (refusal, job.images, len(job.queued), job.name) == (None, 5, 5, None)
    assert ledger.totals() == Totals(in_flight=5, bytes_up=50, price=2.5, input_tokens=500, output_tokens=20)
    assert ledger.missing(FIRST, [*IMAGES, b"6"]) == [b"6"]
    assert begun(ledger) == (None, None)
    with QueryLedger("ledger.sqlite") as other:
        assert other.claim(FIRST, [*IMAGES, b"6"]) == [b"6"]
        assert other.jobs(FIRST, IMAGES) == [job.tag]
    ledger.name(job, "batch_1")
    ((again,), names) = ledger.open(FIRST), ledger.names()
    assert (again, names) == (job._replace(name="batch_1"), {"batch_1"})
    assert ledger.settle(FIRST, [answered(one, 2) for one in job.queued[:2]]) == {1, 2}
    assert ledger.settle(FIRST, [answered(one, 0) for one in job.queued[:3]]) == {3}  # two were settled before
    released, lost = job.queued[3:]
    free = Settlement(released.request, "released", (released.image,), Cost(0).units())
    gone = Settlement(lost.request, "lost", (lost.image,), None)
    assert ledger.settle(FIRST, [free, gone]) == {4, 5}
    assert ledger.open(FIRST) == []
    assert ledger.totals() == Totals(3, 0, 0, 0, 1, 40, 21, 1.25, 250, 7)
    assert [None if one is None else int(one) for one in ledger.lookup(FIRST, IMAGES)] == [2, 2, 0, None, None]
    assert sorted(ledger.missing(FIRST, IMAGES)) == IMAGES[3:]
    assert (ledger.verify(), ledger.in_flight()) == ([], [])


@pytest.mark.parametrize(("price", "number"), [(2.5, 5), (2.49, 4), (1.0, 2), (0.49, 0)])
def test_a_job_has_as_many_images_as_the_limits_allow(price, number):
    with JobLedger("ledger.sqlite", Limits(price=price)) as ledger:
        job, refusal = begun(ledger)
        assert (0 if job is None else job.images) == number
        assert (refusal is None) == (number == 5)
        assert refusal is None or f"2.5 more were asked for, but the budget is {price:g}" in str(refusal)
        assert ledger.totals().in_flight == number


def test_who_reads_otherwise_settles_for_himself(ledger):
    job, _ = begun(ledger)
    with JobLedger("ledger.sqlite", account="other") as other:
        assert other.open(SECOND) == [job]
        other.settle(SECOND, [answered(one, 1) for one in job.queued])
        assert (other.spent, ledger.spent.unique) == (Totals(), 5)  # it was paid by the account that submitted it
    assert ledger.lookup(FIRST, IMAGES[:1]) == [None]
    assert ledger.lookup(SECOND, IMAGES[:1]) == [1]
    assert ledger.totals(FIRST) == Totals()
    assert ledger.totals(SECOND) == Totals(5, 1, 0, 0, 0, 50, 35, 1.25, 250, 5)
    assert ledger.verify() == []


def test_a_living_owner_names_his_job_himself(ledger):
    job, _ = begun(ledger)
    assert not ledger.submitting(job)  # its own
    with JobLedger("ledger.sqlite") as other:
        assert other.submitting(job)
        ledger.close()
        assert not other.submitting(job)
