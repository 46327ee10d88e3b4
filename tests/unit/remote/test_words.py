import pytest

from kdlightning.remote.paths import at
from kdlightning.remote.protocol import ProtocolError
from kdlightning.remote.words import Words, declines
from kdlightning.teachers.outcomes import Outcome

LABELS = {"cat": 0, "hot dog": 1, "dog": 2, "kitten": 0}


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("cat", 0), (" Cat.\n", 0), ('"KITTEN"', 0), ("**hot_dog**", 1), ("Hot-Dog!", 1), ("```\ndog\n```", 2),
        ("```text\nHot dog\n```", 1), ("- `dog`", 2), ("“cat”", 0), ("ＣＡＴ", 0),
    ],
)  # fmt: skip
def test_how_a_label_is_written_does_not_count(text, index):
    assert Words(LABELS).read(text).classes == (index,)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("a cat", Outcome.UNREADABLE), ("cat, dog", Outcome.UNREADABLE), ("catalogue", Outcome.UNREADABLE),
        ("", Outcome.REFUSED), (" ... ", Outcome.REFUSED), ("I'm sorry, but I can’t tell.", Outcome.REFUSED),
        ("I cannot identify the cat", Outcome.REFUSED), ("as an airplane", Outcome.UNREADABLE),
    ],
)  # fmt: skip
def test_what_is_no_label_is_refused_or_unreadable(text, outcome):
    reading = Words(LABELS).read(text)
    assert (reading.outcome, reading.classes) == (outcome, None)
    assert declines(text) == (outcome == Outcome.REFUSED)


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("This is a cat.", (0,)), ("A hot dog with mustard", (1,)), ("a dog, not hot", (2,)),
        ("the cat, a kitten", (0,)), ("a cat and a dog", None), ("a catalogue", None),
        ("I'm sorry, I see no cat", None),
    ],
)  # fmt: skip
def test_one_label_in_a_longer_text(text, classes):
    assert Words(LABELS, "contains").read(text).classes == classes


def test_labels_that_folding_would_make_equal_keep_what_sets_them_apart():
    assert [Words({"C": 0, "C++": 1}).index(text) for text in ("c", "C++", "c++.")] == [0, 1, 1]
    assert [Words({"US": 0, "us": 1}).index(text) for text in ("US", "us", '"us"')] == [0, 1, 1]
    assert [Words({"+": 0, "-": 1}).index(text) for text in ("+", "-", "*")] == [0, 1, None]


def test_a_label_may_be_a_regular_expression():
    words = Words({"/tabby|siamese/": 0, "dog": 1, r"/\d+ mg/": 2})
    assert [words.index(text) for text in ("Tabby", "siamese ", "dog", "20 mg", "tabby cat")] == [0, 0, 1, 2, None]
    assert Words({"/tabby|siamese/": 0, "dog": 1}, "contains").read("a tabby cat").classes == (0,)
    assert not Words({"/tabby|siamese/": 0, "dog": 1}, "contains").read("a tabby and a dog").answered
    with pytest.raises(ValueError, match=r"labels: /\(/ is no regular expression"):
        Words({"/(/": 0})


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("content.label", "cat"), ("fenced.label", "cat"), ("talk.label", "cat"), ("content.scores.-1", 0.5),
        ("nested.deep.label", "cat"), ("plain", "cat"),
    ],
)  # fmt: skip
def test_a_path_goes_on_inside_a_text_of_json(path, found):
    value = {
        "content": '{"label": "cat", "scores": [0.25, 0.5]}',
        "fenced": '```json\n{"label": "cat"}\n```',
        "talk": 'Sure [as asked]: {"label": "cat"} Anything else?',
        "nested": {"deep": '[0]{"label": 1}', "other": 0} | {"deep": '{"label": "cat"}'},
        "plain": "cat",
    }
    assert at(path, value) == found
    with pytest.raises(ProtocolError, match=r"expected 'label' of the path 'plain\.label' in 'plain' of the answer"):
        at("plain.label", value)
