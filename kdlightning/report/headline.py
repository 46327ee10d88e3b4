"""The best student of a data set in one sentence."""

from collections.abc import Sequence

from kdlightning.report import text
from kdlightning.report.records import Row
from kdlightning.report.rows import score, teacher_sizes


def headline(rows: Sequence[Row]) -> str | None:
    """Which student of a data set is best, at which price, beside its teacher and references.

    The mean accuracy decides; where no student has one, the agreement with the teacher.

    Returns:
        The sentence, ``"DB3KD (mbd) reaches 98.40 ± 0.52 % (3 seeds) with 1/24 of the parameters for 978,937 queries;
        its teacher LeNet5 has 97.23 % (1 seed)."``; None where there is no student, or nothing was measured.
    """
    students = [row for row in rows if row.role == "student" and score(row) != (None, None)]
    if not students:
        return None
    best = max(students, key=lambda row: [-1 if value is None else value for value in score(row)])
    teachers = [row for row in rows if row.role == "teacher" and row.student == best.teacher]
    alike = [row for row in rows if row.role == "reference" and row.student == best.student]
    references = [row for row in alike if row.point == best.point]
    if best.accuracy_mean is None:
        seeds = len(best.seeds)
        images = "images" if best.test_images is None else text.plural(best.test_images, "image")
        agreed = (
            f"{text.spread(best.agreement, best.agreement_std, seeds)} % of {images} ({text.plural(seeds, 'seed')})"
        )
        whom = f"its teacher {best.teacher}" if best.teacher else "its teacher"
        return f"{best.label} agrees with {whom} on {agreed}, with {_size(best, teachers)}{_price(best)}."
    others = [f"its teacher {best.teacher} has {_accuracy(teachers)}"] if teachers else []
    others += [f"{best.student} without a teacher has {_accuracy(references)}"] if references else []
    compared = "; ".join(others) or "its teacher is not among these runs"
    where = f", at {best.place}," if best.point else ""
    return f"{best.label}{where} reaches {_accuracy([best])} with {_size(best, teachers)}{_price(best)}; {compared}."


def _accuracy(rows: Sequence[Row]) -> str:
    """Of all that are meant, where a name does not tell them apart."""
    return " or ".join(
        f"{text.spread(row.accuracy_mean, row.accuracy_std, len(row.seeds))} % ({text.plural(len(row.seeds), 'seed')})"
        for row in rows
    )


def _size(best: Row, teachers: Sequence[Row]) -> str:
    teacher = teacher_sizes(teachers).get(best.teacher or "")
    if not (best.parameters and teacher):
        return best.student
    ratio = teacher / best.parameters
    return f"{f'1/{ratio:.0f}' if ratio >= 10 else f'{100 / ratio:.0f} %'} of the parameters"


def _price(best: Row) -> str:
    if best.access == "white":
        return " and the teacher's weights at hand"
    queries = "query" if best.queries == 1 else "queries"
    return "" if best.queries is None else f" for {text.count(best.queries)} {queries}"
