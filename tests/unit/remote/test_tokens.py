import math

import pytest

from kdlightning.remote.protocol import ProtocolError
from kdlightning.remote.tokens import label_mass
from kdlightning.remote.words import Words
from kdlightning.teachers.outcomes import Outcome


def token(text, probability, **more):
    return {"token": text, "logprob": math.log(probability), "bytes": list(text.encode()), **more}


def content(*places):
    """Each place: what is written, and the probabilities of all."""
    return [
        token(written, among[written], top_logprobs=[token(*one) for one in among.items()]) for written, among in places
    ]


def mass(words, *places):
    reading = label_mass(content(*places), Words(words))
    return {index: pytest.approx(score) for index, score in zip(reading.classes, reading.scores, strict=True)}, reading


def test_labels_of_one_token_and_foreign_ones():
    found, reading = mass({"cat": 0, "dog": 1}, ("cat", {"cat": 0.6, "dog": 0.2, "Cat": 0.1, "The": 0.05}))
    assert found == {0: 0.7, 1: 0.2}
    assert reading.rest == pytest.approx(0.1)  # what other tokens have, and what nobody tells


def test_labels_of_several_tokens_are_followed_where_they_are_written():
    labels = {"airplane": 0, "airship": 1, "bird": 2}
    places = [("air", {"air": 0.8, "b": 0.15, "I": 0.05}), ("plane", {"plane": 0.75, "ship": 0.2, " bag": 0.05})]
    found, reading = mass(labels, *places, ("", {"": 1.0}))
    assert found == {0: 0.6, 1: 0.16, 2: 0.15}
    assert reading.rest == pytest.approx(0.09)


def test_a_token_that_begins_several_labels_and_was_not_written_is_of_the_rest():
    found, reading = mass({"airplane": 0, "airship": 1, "bird": 2}, ("bird", {"bird": 0.7, "air": 0.3}))
    assert found == {2: 0.7}
    assert reading.rest == pytest.approx(0.3)


def test_a_label_may_begin_another_and_a_word_may_begin_like_one():
    labels = {"cat": 0, "cat fish": 1}
    found, reading = mass(labels, ("cat", {"cat": 1.0}), (".", {".": 0.5, " fish": 0.3, "alogue": 0.2}))
    assert found == {0: 0.5, 1: 0.3}
    assert reading.rest == pytest.approx(0.2)


def test_the_place_is_where_a_label_is_written():
    places = [("{", {"{": 1.0}), ('"label', {'"label': 0.9, "cat": 0.1}), ('": "', {'": "': 1.0})]
    found, _ = mass({"cat": 0, "dog": 1}, *places, ("dog", {"dog": 0.75, "cat": 0.25}), ('"}', {'"}': 1.0}))
    assert found == {1: 0.75, 0: 0.25}
    found, _ = mass({"cat": 0, "dog": 1}, ("bird", {"bird": 0.5, "cat": 0.3, "dog": 0.1}))  # none is written
    assert found == {0: 0.3, 1: 0.1}


def test_synonyms_add_up_and_no_label_is_unreadable():
    found, _ = mass(
        {"cat": 0, "kitten": 0, "dog": 1}, ("kit", {"kit": 0.3, "cat": 0.5, "dog": 0.2}), ("ten", {"ten": 1.0})
    )
    assert found == {0: 0.8, 1: 0.2}
    reading = label_mass(content(("bird", {"bird": 1.0})), Words({"cat": 0}))
    assert (reading.outcome, reading.said) == (Outcome.UNREADABLE, "'bird'")


def test_geminis_lists_side_by_side():
    value = {
        "chosenCandidates": [{"token": "dog", "logProbability": math.log(0.75)}],
        "topCandidates": [{"candidates": [{"token": "dog", "logProbability": math.log(0.75)},
                                          {"token": "cat", "logProbability": math.log(0.2)}]}],
    }  # fmt: skip
    reading = label_mass(value, Words({"cat": 0, "dog": 1}))
    assert dict(zip(reading.classes, reading.scores, strict=True)) == {1: pytest.approx(0.75), 0: pytest.approx(0.2)}


@pytest.mark.parametrize("value", [None, [], "text", [{"token": "cat"}], [5]])
def test_what_is_no_list_of_tokens_is_told(value):
    with pytest.raises(ProtocolError, match="expected log-probabilities of tokens, got"):
        label_mass(value, Words({"cat": 0}))
