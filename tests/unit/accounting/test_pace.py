"""Time here is a clock of the test's own: who sleeps puts it forward."""

import errno
import json
import os
import threading
from multiprocessing import get_context

import pytest

from kdlightning.accounting.pace import Pace, Pacer, Room
from kdlightning.accounting.tariff import Usage

NOON = 1_800_000_000.0
FORK = get_context("fork")


class Clock:
    def __init__(self, now=NOON):
        self.now, self.slept = now, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def times(pacer, clock, number, usage=Usage(0, 0)):  # noqa: B008 - immutable
    """When so many requests pass, in seconds since noon."""
    passed = []
    for _ in range(number):
        pacer.wait(usage, clock.sleep, 600)
        passed.append(round(clock.now - NOON, 6))
    return passed


@pytest.fixture(params=["alone", "shared"])
def file(request, tmp_path):
    return tmp_path / "pace" if request.param == "shared" else None


def test_no_limit_is_kept_and_written_nowhere(tmp_path):
    clock = Clock()
    assert times(Pacer(Pace(), tmp_path / "pace", clock), clock, 5) == [0] * 5
    assert list(tmp_path.iterdir()) == []


def test_never_more_requests_in_sixty_seconds(file):
    clock = Clock()
    pacer = Pacer(Pace(requests_per_minute=3), file, clock)
    assert times(pacer, clock, 3) == [0, 0, 0]
    clock.now += 10.5
    assert times(pacer, clock, 4) == [60, 60, 60, 120]
    assert max(clock.slept) <= 5  # and then it looks again


def test_requests_that_are_apart_leave_the_window_apart(file):
    clock = Clock()
    pacer, passed = Pacer(Pace(requests_per_minute=3), file, clock), []
    for _ in range(7):
        passed += times(pacer, clock, 1)
        clock.now += 7
    assert passed == [0, 7, 14, 60, 67, 74, 120]


def test_never_more_tokens_in_sixty_seconds(file):
    clock = Clock()
    pacer = Pacer(Pace(tokens_per_minute=1000), file, clock)
    assert times(pacer, clock, 3, Usage(390, 10)) == [0, 0, 60]
    assert times(pacer, clock, 1, Usage(5000, 0)) == [120]  # more than there ever will be: alone
    assert times(pacer, clock, 1, Usage(1, 0)) == [180]


def test_what_a_request_took_less_is_room_for_others(file):
    clock = Clock()
    pacer = Pacer(Pace(tokens_per_minute=1000), file, clock)
    ticket = pacer.wait(Usage(700, 200), clock.sleep, 600)
    pacer.settle(ticket, Usage(95, 5))
    assert times(pacer, clock, 2, Usage(450, 0)) == [0, 0]
    assert times(pacer, clock, 1, Usage(1, 0)) == [60]


def test_the_room_that_a_server_tells_is_kept(file):
    clock = Clock()
    pacer = Pacer(Pace(), file, clock)
    pacer.hear({"requests": Room(2, NOON + 12), "tokens": Room(5000, NOON + 60)})
    assert times(pacer, clock, 3, Usage(10, 0)) == [0, 0, 12]
    pacer.hear({"tokens": Room(100, NOON + 40)})
    assert times(pacer, clock, 2, Usage(60, 0)) == [12, 40]
    pacer.hear({"output_tokens": Room(9, NOON + 50), "input_tokens": Room(10_000, NOON + 90)})
    assert times(pacer, clock, 1, Usage(0, 10)) == [50]


def test_a_pause_is_kept_by_all(tmp_path):
    clock = Clock()
    one, other = (Pacer(Pace(), tmp_path / "pace", clock) for _ in range(2))
    one.pause(30)
    assert one.waiting == 30
    assert times(other, clock, 2) == [30, 30]
    assert one.waiting == 0


def test_two_processes_share_the_limits(tmp_path):
    clock = Clock()
    one, other = (Pacer(Pace(requests_per_minute=4), tmp_path / "pace", clock) for _ in range(2))
    assert times(one, clock, 3) == [0, 0, 0]
    assert times(other, clock, 2) == [0, 60]


def _enter(path, ready, passed):
    pacer, stop = Pacer(Pace(requests_per_minute=50), path, lambda: NOON), []
    ready.wait()
    while pacer.wait(Usage(1, 0), lambda seconds: True, 600) is not None:
        stop.append(1)
    passed.put(len(stop))


def test_processes_and_threads_pass_exactly_as_many_as_may(tmp_path):
    ready, passed = FORK.Barrier(3), FORK.Queue()
    made = [FORK.Process(target=_enter, args=(tmp_path / "pace", ready, passed)) for _ in range(2)]
    made += [threading.Thread(target=_enter, args=(tmp_path / "pace", ready, passed))]
    for one in made:
        one.start()
    assert sum(passed.get(timeout=60) for _ in made) == 50
    for one in made:
        one.join(60)


def test_who_waits_is_told_how_long_and_may_be_stopped(file):
    clock = Clock()
    pacer = Pacer(Pace(requests_per_minute=1), file, clock)
    assert times(pacer, clock, 1) == [0]
    clock.now += 48
    told = []
    assert pacer.wait(Usage(0, 0), lambda _: told.append(pacer.waiting) or True, 600) is None
    assert told == [12]
    assert pacer.waiting == 0


def test_a_wait_beyond_all_patience_is_refused(file):
    clock = Clock()
    pacer = Pacer(Pace(), file, clock)
    pacer.hear({"requests": Room(0, NOON + 50_400)})
    with pytest.raises(TimeoutError) as refused:
        pacer.wait(Usage(0, 0), clock.sleep, 600)
    assert refused.value.args == (50_400,)
    assert clock.slept == []


def test_without_room_for_its_file_a_process_keeps_the_pace_alone(tmp_path, monkeypatch):
    clock = Clock()
    pacer = Pacer(Pace(requests_per_minute=2), tmp_path / "missing" / "pace", clock)
    assert times(pacer, clock, 3) == [0, 0, 60]
    pacer = Pacer(Pace(requests_per_minute=2), tmp_path / "pace", clock)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "pwrite", lambda *_: (_ for _ in ()).throw(full))
    pacer.hear({"requests": Room(0, NOON + 99)})
    pacer.pause(5)
    assert (tmp_path / "pace").read_bytes() == b""


@pytest.mark.parametrize("content", [b"", b"{", b'{"sent": [[1]], "rooms": {}, "until": 0}', b"\0" * 40, b"[]"])
def test_a_spoilt_file_begins_anew(tmp_path, content):
    (tmp_path / "pace").write_bytes(content)
    clock = Clock()
    assert times(Pacer(Pace(requests_per_minute=1), tmp_path / "pace", clock), clock, 2) == [0, 60]
    assert json.loads((tmp_path / "pace").read_bytes())["sent"] == [[NOON + 60, 1, 0]]


@pytest.mark.parametrize("options", [{"requests_per_minute": 0}, {"tokens_per_minute": -5}])
def test_a_pace_that_is_none_is_refused(options):
    with pytest.raises(ValueError, match="above 0, or None for no limit"):
        Pace(**options)
