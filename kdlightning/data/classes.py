"""The order of classes: as folders sort, as a user lists them, and whether a teacher numbers them alike."""

import re
from collections.abc import Sequence
from pathlib import Path

from kdlightning.data.archives import read_lines

_ENOUGH = 50  # answers of which it can be said that they are no better than guesses


def listed(classes: list[str] | str | None) -> list[str] | None:
    """The names that a user lists, or that stand in a file of the user's.

    A FileNotFoundError without the file; a ValueError without a name, or with one twice.
    """
    if isinstance(classes, str):
        if not Path(classes).expanduser().is_file():
            raise FileNotFoundError(f"classes: there is no file {classes}; expected a name in every line, or a list")
        classes = read_lines(Path(classes).expanduser().read_bytes())
    if classes is not None and (not classes or len(set(classes)) != len(classes)):
        raise ValueError(f"classes: expected names that differ, got {len(classes)} of which {len(set(classes))} differ")
    return classes


def sorted_otherwise(names: Sequence[str]) -> bool:
    """Whether these names, sorted as text, have another order by their numbers and without case."""
    return sorted(names, key=_by_number) != list(names)


def check_order(theirs: Sequence[str] | None, ours: Sequence[str], name: str) -> None:
    """Refuse, with a ValueError, a teacher that gives a class of a data set another number.

    Names that are the numbers themselves are no names, and names that only one side has are told by nobody.

    Args:
        theirs: names of the teacher's classes; None where they are not known.
        ours: of the data set's.
        name: of the data set.
    """
    if theirs is None or _are_numbers(theirs) or _are_numbers(ours):
        return
    position = {one: number for number, one in enumerate(theirs)}
    moved = [(one, number) for number, one in enumerate(ours) if position.get(one, number) != number]
    if moved:
        first, number = moved[0]
        raise ValueError(
            f"{len(moved)} of the {len(ours)} classes of {name} have another number for the teacher: {first} is "
            f"{number} here and {position[first]} there. List the data's classes in the teacher's order: classes"
        )


def told_at_chance(right: float, number: int, classes: int, name: str) -> str:
    """A sentence if a teacher names the classes of labelled images no better than a guess; else an empty one.

    Args:
        right: answers that are the label, of ``number``; within three standard deviations of a guess they are chance.
        number: of answers; of few nobody can tell.
        classes: K.
        name: of the data set.
    """
    guessed = number / classes
    if number < _ENOUGH or right > guessed + 3 * (guessed * (1 - 1 / classes)) ** 0.5:
        return ""
    return (
        f"the teacher names the class of {right / number:.1%} of {number:,} labelled images of {name} rightly, as a "
        "guess would: does it take other pixels, or number the classes otherwise (then list them so: classes)?"
    )


def _are_numbers(names: Sequence[str]) -> bool:
    return list(names) == [str(number) for number in range(len(names))]


def _by_number(name: str) -> list[str | int]:
    return [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", name)]
