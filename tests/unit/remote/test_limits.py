import email.utils
import time

import pytest
import torch
from chat import Chat, chat_teacher, fails

from kdlightning.accounting.pace import Pace, Room
from kdlightning.accounting.tariff import Usage
from kdlightning.callbacks.progress import _State
from kdlightning.remote import Patience, RemoteTeacherError
from kdlightning.remote.limits import retry_after, rooms

NOON = 1_800_000_000.0  # 2027-01-15T08:00:00Z


def images(number, seed=0):
    return torch.randint(256, (number, 3, 4, 4), generator=torch.Generator().manual_seed(seed)) / 255


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (
            {
                "x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59",
                "x-ratelimit-reset-requests": "1s", "x-ratelimit-limit-tokens": "150000",
                "x-ratelimit-remaining-tokens": "149984", "x-ratelimit-reset-tokens": "6m0s",
            },
            {"requests": Room(59, NOON + 1), "tokens": Room(149_984, NOON + 360)},
        ),
        (
            {
                "anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-requests-remaining": "0",
                "anthropic-ratelimit-requests-reset": "2027-01-15T08:00:30Z",
                "anthropic-ratelimit-input-tokens-remaining": "20000",
                "anthropic-ratelimit-input-tokens-reset": "2027-01-15T08:01:00+00:00",
                "anthropic-ratelimit-output-tokens-remaining": "8000",
                "anthropic-ratelimit-output-tokens-reset": "2027-01-15T09:00:00+01:00",
            },
            {"requests": Room(0, NOON + 30), "input_tokens": Room(20_000, NOON + 60),
             "output_tokens": Room(8000, NOON)},
        ),
        ({"x-ratelimit-remaining-requests": "5"}, {}),
        ({"x-ratelimit-remaining-requests": "few", "x-ratelimit-reset-requests": "1s"}, {}),
        ({"content-type": "application/json"}, {}),
    ],
)  # fmt: skip
def test_limits_are_read_as_vendors_write_them(headers, found):
    assert rooms(headers, NOON) == {name: Room(left, pytest.approx(until)) for name, (left, until) in found.items()}


@pytest.mark.parametrize(
    ("left", "reset", "room"),
    [
        ("5", "120ms", Room(5, NOON + 0.12)),
        ("5", "1h2m3.5s", Room(5, NOON + 3723.5)),
        ("-1", "7.5", Room(-1, NOON + 7.5)),
        ("0", "1800000009", Room(0, NOON + 9)),
        ("5", "soon", None),
        ("5", "-3", None),
        ("5", "", None),
    ],
)
def test_a_reset_is_a_duration_or_a_moment(left, reset, room):
    found = rooms({"x-ratelimit-remaining-tokens": left, "x-ratelimit-reset-tokens": reset}, NOON)
    assert found == ({} if room is None else {"tokens": Room(room.left, pytest.approx(room.until))})


@pytest.mark.parametrize(("text", "seconds"), [("12", 12), ("0.5", 0.5), ("-1", None), ("soon", None), (None, None)])
def test_retry_after_is_seconds(text, seconds):
    assert retry_after(text) == seconds


def test_retry_after_may_be_a_date():
    assert retry_after(email.utils.formatdate(time.time() + 30, usegmt=True)) == pytest.approx(30, abs=5)


def test_a_teacher_keeps_its_pace_and_says_that_it_waits(monkeypatch):
    chat = Chat()
    with chat.serving() as url:
        teacher = chat_teacher(url, pace=Pace(requests_per_minute=4), concurrency=1)
        pacer, slept = teacher._gate._pacer, []
        state = _State.__new__(_State)
        state.metrics, state.terms, state._teacher, state._before, state._began = "", None, teacher, 0, time.monotonic()
        monkeypatch.setattr(pacer, "_clock", lambda: NOON + 48 + sum(slept[1:]))

        def sleep(seconds):
            slept.append(str(state) if not slept else seconds)

        monkeypatch.setattr(teacher._gate._stopped, "wait", sleep)
        monkeypatch.setattr(pacer, "_clock", lambda: NOON)
        teacher.query(images(4))
        assert str(state) == "4 queries"
        monkeypatch.setattr(pacer, "_clock", lambda: NOON + 48 + sum(slept[1:]))
        teacher.query(images(1, seed=1))
    assert slept == ["4 queries, waiting for the rate limit, 12 s", 5, 5, 2]
    assert sum(chat.asked.values()) == 5


def test_tokens_a_minute_are_reserved_at_most_and_settled_to_the_truth():
    chat = Chat(tokens=lambda image: Usage(200, 4))
    with chat.serving() as url:
        teacher = chat_teacher(url, pace=Pace(tokens_per_minute=1_000_000), concurrency=1)
        teacher.query(images(3))
        with teacher._gate._pacer._state() as state:
            assert sum(entry[1] for entry in state["sent"]) == 3
            assert sum(entry[2] for entry in state["sent"]) == 3 * 204


def test_a_server_that_says_when_is_not_asked_before(monkeypatch):
    """Three requests each 20 s, as its headers say: its own limit never has to refuse one."""
    now, allowed = [NOON], {"left": 3, "since": NOON}

    def headers(chat):
        return {
            "x-ratelimit-remaining-requests": str(allowed["left"]),
            "x-ratelimit-reset-requests": f"{20 - (now[0] - allowed['since']):.3f}s",
        }

    def refuse(chat, handler, image):
        if now[0] - allowed["since"] >= 20:
            allowed.update(left=3, since=now[0])
        allowed["left"] -= 1
        if allowed["left"] < 0:
            handler.reply(429, {"error": "slow down"}, {"Retry-After": "1"})
        return allowed["left"] < 0

    monkeypatch.setattr("kdlightning.remote.gate.time.time", lambda: now[0])
    chat = Chat(troubles=[refuse], headers=headers)
    with chat.serving() as url:
        teacher = chat_teacher(url, concurrency=1)
        monkeypatch.setattr(teacher._gate._pacer, "_clock", lambda: now[0])
        monkeypatch.setattr(teacher._gate._stopped, "wait", lambda seconds: now.__setitem__(0, now[0] + seconds))
        teacher.query(images(10))
    assert sum(chat.asked.values()) == len(chat.billed) == 10  # no 429
    assert now[0] == pytest.approx(NOON + 60)


def test_what_one_is_told_another_keeps():
    """A 429 that one client got holds up another of the same ledger and server."""
    chat = Chat(troubles=[fails([0, 429])])
    with chat.serving() as url:
        one = chat_teacher(url, concurrency=1, patience=Patience(attempts=1))
        one.query(images(1))
        one._gate._hear(429, {"retry-after": "100"})
        assert chat_teacher(url).waiting == 0  # nobody waits there yet
        hurried = chat_teacher(url, patience=Patience(attempts=1, total=50))
        with pytest.raises(RemoteTeacherError, match=r"rate limit is used up.* asks to be left alone for (100|99) s"):
            hurried.query(images(1, seed=1))
        assert chat_teacher(f"{url}/other", ledger="other.sqlite").query(images(1)).shape == (1,)
    with pytest.raises(ValueError, match="expected requests_per_minute above 0"):
        chat_teacher("http://127.0.0.1:9", pace=Pace(requests_per_minute=0))


def test_a_limit_for_hours_ends_the_run_with_a_sentence():
    chat = Chat(headers=lambda chat: {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "14h0m0s"})
    with chat.serving() as url:
        teacher = chat_teacher(url, concurrency=1)
        with pytest.raises(RemoteTeacherError, match=r"asks to be left alone for 50\d\d\d s.* run the same command"):
            teacher.query(images(2))
        assert teacher.paid.queries == len(chat.billed) == 1
