"""One image in ten gets no answer: what is asked, paid and known then, and when it is too many."""

import json
from contextlib import contextmanager

import pytest
import torch
from helpers import shaped
from servers import answering

from kdlightning.accounting.ledger import QueryLedger
from kdlightning.remote import HTTPHardLabelTeacher, HTTPSoftLabelTeacher, Patience, RemoteTeacherError
from kdlightning.teachers.outcomes import counted, outcomes

HASTY = Patience(attempts=3, backoff=0.01, longest_backoff=0.02, jitter=0.01)
LABELS = ["dark", "light"]


def images(number):
    """The first pixel is the image's number, in steps of 1/1000."""
    made = torch.zeros(number, 1, 1, 2)
    made[:, 0, 0, 0] = torch.arange(number) / 1000
    return made


def label(number):
    return LABELS[number % 2]


@contextmanager
def server(refused, how, asked):
    """Answers each image of a request by its number; those that it refuses, in one of these ways."""

    def entry(number):
        if number not in refused or how == "status":
            return {"label": label(number)}
        return {
            "words": {"label": "I'm sorry, I can't help with that."},
            "empty": {"label": ""},
            "error": {"error": {"code": "content_filter"}},
            "garbled": {"label": "Llama glama"},
            "both": {"label": "dark or light"},
        }[how]

    def answer(handler, body):
        batch = [round(1000 * image[0]) for image in json.loads(body)["images"]]
        asked.append(batch)
        if how == "status" and refused & set(batch):
            handler.reply(400, {"error": {"code": "content_policy_violation"}})
        elif how == "html" and refused & set(batch):
            handler.reply(200, b"<html>cut off")
        else:
            handler.reply(200, {"all": [entry(number) for number in batch]})

    with answering(answer) as url:
        yield url


def hard(url, **options):
    options = {"results": "all", "answer": "label", "image": "list", "layout": "flat", "patience": HASTY, **options}
    return HTTPHardLabelTeacher(url, {"images": ["{image}"]}, "text", labels=LABELS, **shaped(**options))


REFUSED, UNREADABLE = ("words", "empty", "error", "status"), ("garbled", "both", "html")
TENTH = {number for number in range(60) if number % 10 == 9}  # none in the first request, which has to be read
EXPECTED = [number % 2 for number in range(60)]


@pytest.mark.parametrize("how", [*REFUSED, *UNREADABLE])
@pytest.mark.parametrize("batch", [1, 8])
def test_one_in_ten_without_an_answer_stops_nothing_and_is_asked_once(how, batch):
    code = 2 if how in UNREADABLE else 1
    asked, wanted = [], [-code if number in TENTH else number % 2 for number in range(60)]
    with server(TENTH, how, asked) as url:
        teacher = hard(url, max_batch=batch)
        found = teacher.ask(images(60))
        assert found.tolist() == wanted
        assert counted(found) == {"answered": 54, "refused": 6 * (code == 1), "unreadable": 6 * (code == 2)}
        requests, paid = len(asked), teacher.paid.queries
        if how not in ("status", "html"):
            assert (requests, paid) == (-(-60 // batch), 60)
        elif how == "status":  # what is refused is halved until the image is alone; nothing of it is paid but that
            assert paid == 60
        else:  # such answers are paid
            assert paid == sum(map(len, asked))
        assert hard(url, max_batch=batch).ask(images(60)).tolist() == wanted  # another run, on the same ledger
        assert len(asked) == requests
    with QueryLedger("ledger.sqlite") as ledger:
        totals = ledger.totals()
        assert (totals.unique, totals.paid, totals.in_flight, ledger.verify()) == (60, paid, 0, [])


@pytest.mark.parametrize("how", ["words", "status"])
@pytest.mark.parametrize("batch", [1, 8])
def test_the_first_image_may_be_the_one(how, batch):
    asked = []
    with server({0}, how, asked) as url:
        teacher = hard(url, max_batch=batch)
        assert teacher.ask(images(12)).tolist() == [-1, *EXPECTED[1:12]]
    assert sum(one == [0] for one in asked) == {"words": int(batch == 1), "status": 2}[how]
    assert teacher.paid.queries == 12


def test_a_request_that_is_refused_whatever_its_image_is_at_fault_itself():
    asked = []
    with server(set(range(60)), "status", asked) as url:
        teacher = hard(url)
        with pytest.raises(RemoteTeacherError, match=r"status 400, .*content_policy_violation"):
            teacher.ask(images(60))
    assert (asked, teacher.paid.queries) == ([[0], [1], [2]], 0)


def test_who_needs_every_answer_is_told_in_one_sentence_and_loses_none():
    asked = []
    with server({3}, "words", asked) as url:
        for _ in range(2):
            with pytest.raises(
                RemoteTeacherError, match=r"1 of 12 images got no answer \(1 refused, 0 unreadable\), and"
            ) as e:
                hard(url).query(images(12))
        assert "1. refused: \"I'm sorry, I can't help with that.\";" in str(e.value)
    assert len(asked) == 12


def test_too_many_stop_it_after_fifty_and_are_quoted():
    asked, third = [], {number for number in range(200) if number % 3 == 1}
    with server(third, "words", asked) as url:
        teacher = hard(url, concurrency=1)
        with pytest.raises(RemoteTeacherError, match=r"17 of 50 images got no answer \(17 refused") as error:
            teacher.ask(images(200))
        assert len(asked) == teacher.paid.queries == 50
        assert str(error.value).count("sorry") == 5
        assert "more than max_unanswered=0.2 allows" in str(error.value)
        again = hard(url, concurrency=1)
        with pytest.raises(RemoteTeacherError, match="17 of 50 images got no answer") as error:
            again.ask(images(200))
        assert (len(asked), again.paid.queries, str(error.value).count("sorry")) == (50, 0, 5)
        assert outcomes(hard(url, max_unanswered=0.5).ask(images(200))).sum() == len(third)
    assert len(asked) == 200


def test_not_one_of_the_first_five_is_enough_to_know():
    asked = []
    with server(set(range(60)), "garbled", asked) as url:
        with pytest.raises(
            RemoteTeacherError, match=r"5 of 5 images got no answer \(0 refused, 5 unreadable\), not one"
        ):
            hard(url).ask(images(60))
        assert sorted(asked) == [[0], [1], [2], [3], [4]]
        assert hard(url, max_unanswered=1.0).ask(images(60)).tolist() == [-2] * 60
    with pytest.raises(ValueError, match="max_unanswered: expected a share from 0 to 1, got 20"):
        hard(url, max_unanswered=20)


def test_an_option_asks_them_again_once_and_keeps_the_answer():
    asked, trouble = [], {3, 7}
    with server(trouble, "words", asked) as url:
        hard(url).ask(images(12))
        trouble.remove(7)  # the model has become braver
        again = hard(url, patience=Patience(ask_again=True))
        for _ in range(2):
            assert again.ask(images(12)).tolist() == [-1 if number == 3 else number % 2 for number in range(12)]
        assert (sorted(asked[12:]), again.paid.queries) == ([[3], [7]], 2)
        assert hard(url).ask(images(12))[7] == 1
        assert hard(url, offline=True).ask(images(12)).tolist()[3] == -1
    assert len(asked) == 14
    with QueryLedger("ledger.sqlite") as ledger:
        assert (ledger.totals().unique, ledger.totals().twice, ledger.verify()) == (12, 2, [])


def test_probabilities_without_an_answer_are_negative_throughout():
    def answer(handler, body):
        number = round(1000 * json.loads(body)["image"][0])
        handler.reply(200, {"error": "no"} if number == 1 else {"scores": {"dark": 0.25, "light": "75%"}})

    with answering(answer) as url:
        options = shaped(image="list", layout="flat", answer="scores", labels=LABELS, ledger=None)
        teacher = HTTPSoftLabelTeacher(url, {"image": "{image}"}, "probabilities", **options)
        assert teacher.ask(images(3)).tolist() == [[0.25, 0.75], [-1, -1], [0.25, 0.75]]


def test_class_ids_that_begin_at_1_stop_at_the_first_one_out_of_range():
    asked = []

    def answer(handler, body):
        asked.append(body)
        handler.reply(200, {"id": len(asked) % 10 + 1})

    with answering(answer) as url:
        teacher = HTTPHardLabelTeacher(
            url, {"image": "{image}"}, "index", num_classes=10, **shaped(answer="id", patience=HASTY)
        )
        with pytest.raises(
            RemoteTeacherError, match=r"class indices 0 to 10 - 1, got 10\.\.10; if the first class is 1"
        ):
            teacher.ask(torch.rand(40, 1, 4, 4))
    assert len(asked) <= 16  # those under way are finished
