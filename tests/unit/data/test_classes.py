import pytest

from kdlightning.data.classes import check_order, sorted_otherwise, told_at_chance


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["class1", "class10", "class2"], True),
        (["Zebra", "ant"], True),
        (["class01", "class02", "class10"], False),
        (["n01440764", "n01443537"], False),
    ],
)
def test_text_and_numbers_sort_otherwise(names, expected):
    assert sorted_otherwise(names) is expected


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (None, ["cat", "dog"]),
        (["cat", "dog"], ["cat", "dog"]),
        (["cat", "dog"], ["n1", "n2"]),  # other names for perhaps the same
        (["0", "1"], ["1", "0"]),
        (["1", "0"], ["0", "1"]),
        (["cat", "dog", "owl"], ["cat", "dog"]),
    ],
)
def test_an_order_that_is_the_same_or_not_known_passes(theirs, ours):
    assert check_order(theirs, ours, "pets") is None


def test_a_teacher_that_numbers_classes_otherwise_is_refused():
    with pytest.raises(
        ValueError, match=r"2 of the 3 classes of pets have another number .*: class10 is 1 here and 2 th"
    ):
        check_order(["class1", "class2", "class10"], ["class1", "class10", "class2"], "pets")


@pytest.mark.parametrize(
    ("right", "number", "classes", "said"),
    [
        (10, 100, 10, True), (18, 100, 10, True), (20, 100, 10, False), (0, 100, 1000, True), (3, 100, 1000, False),
        (0, 49, 10, False), (0, 60, 2, True),
    ],
)  # fmt: skip
def test_guesses_are_told_where_there_are_enough(right, number, classes, said):
    told = told_at_chance(right, number, classes, "pets")
    assert bool(told) is said
    if said:
        assert told.startswith(
            f"the teacher names the class of {right / number:.1%} of {number} labelled images of pets"
        )
