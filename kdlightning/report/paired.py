"""Paired comparisons: two rows over the seeds that both have, and the one sentence that may be said of them.

The students of a seed share initialisation and order, so that their difference is measured more exactly than either.
Beside the mean difference stand Student's interval for it and the p-value of the exact two-sided sign-flip test
[Fisher1935]_: the share of all signs that the differences could have had whose mean is as far from zero. Its least
value is 2 / 2^n, so that fewer than six seeds show nothing at 5 %.

.. [Fisher1935] Fisher. The Design of Experiments, section 21. Oliver and Boyd, 1935.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

import numpy as np
from scipy import stats

from kdlightning.report import text
from kdlightning.report.records import Compared, ReportError, Row
from kdlightning.report.rows import find, same_images

LEVEL = 0.05
SEQUENTIAL = 0.01  #: where seeds were added until there was a verdict: Pocock's, rounded, for 13 looks
_EXACT = 12  # seeds up to which all signs are tried
_POWER = 0.8
_LEAST = 6  # seeds with which the test can show anything at 5 %
_MOST = 1000  # seeds that are worth naming


class Comparison(NamedTuple):
    """A row against a baseline; differences are shares, 0.01 is one point, and positive where the row is better."""

    dataset: str
    student: str
    place: str  #: the row's point in words
    row: str  #: method and variant, with the access where the baseline has the same ones
    baseline: str  #: the same of the baseline
    seeds: tuple[int, ...]  #: that both have
    alone: tuple[int, ...]  #: that only one of them has
    difference: float | None = None  #: mean over the seeds; None without any
    low: float | None = None  #: of its interval at ``1 - level``; None for one seed
    high: float | None = None
    wins: int = 0  #: seeds in which the row is better
    losses: int = 0
    p: float | None = None  #: two-sided
    p_holm: float | None = None  #: the same by Holm's correction for all comparisons on the data set
    needed: int | None = None  #: seeds that show such a difference in 80 of 100 tries; None for more than 1,000
    level: float = LEVEL

    @property
    def verdict(self) -> int:
        """1: the row is better, -1: it is worse, 0: they cannot be told apart. Interval and p-value have to agree."""
        if self.p is None or self.low is None or self.high is None or self.p >= self.level:
            return 0
        return (self.low > 0) - (self.high < 0)

    @property
    def statement(self) -> str:
        """``"A beats B by 1.55 points at images 200 (95 % interval 1.00 to 2.10, 6 of 6 seeds, p = 0.031)"``."""
        where = f" at {self.place}" if self.place else ""
        rest = f"; only one of them has {_seeds(self.alone)}" if self.alone else ""
        if self.difference is None or not self.seeds:
            return f"{self.row} and {self.baseline} have no seed in common{where}{rest}"
        if self.p is None:
            points = f"{100 * self.difference:+.2f} points"
            return f"{self.row} against {self.baseline}{where}: {points} on one seed, which tells nothing{rest}"
        told = f"{self.interval}, {self.share}, p {'' if self.p < 0.001 else '= '}{p_value(self.p)}"
        told += ", seeds added until there was a verdict" if self.level < LEVEL else ""
        if self.verdict:
            verb = "beats" if self.verdict > 0 else "is behind"
            points = f"{100 * abs(self.difference):.2f} points"
            return f"{self.row} {verb} {self.baseline} by {points}{where} ({told}{rest})"
        if self.needed is None:
            told += f"; more than {_MOST:,} seeds would be needed"
        elif self.needed > len(self.seeds):
            told += f"; about {self.needed} seeds would be needed"
        apart = f"{self.row} and {self.baseline} cannot be told apart{where}"
        return f"{apart}: {100 * self.difference:+.2f} points ({told}{rest})"

    @property
    def interval(self) -> str:
        """In points, ``"95 % interval 1.00 to 2.10"``."""
        return f"{100 * (1 - self.level):.0f} % interval {points(self.low)} to {points(self.high)}"

    @property
    def share(self) -> str:
        """In how many of the seeds the better one is better, ``"5 of 6 seeds"``."""
        return f"{self.wins if (self.difference or 0) >= 0 else self.losses} of {len(self.seeds)} seeds"


def compare(row: Row, baseline: Row) -> Comparison:
    """Compare two rows over the seeds that both have.

    Args:
        row: with an accuracy for every seed.
        baseline: the same; its accuracies are subtracted.
    """
    ours, theirs = (dict(zip(one.seeds, one.accuracies or (), strict=False)) for one in (row, baseline))
    seeds = tuple(sorted(ours.keys() & theirs.keys()))
    differences = [ours[seed] - theirs[seed] for seed in seeds]
    same = row.label == baseline.label
    level = SEQUENTIAL if row.sequential or baseline.sequential else LEVEL
    made = Comparison(
        row.dataset, row.student, row.place, _name(row, same), _name(baseline, same), seeds,
        tuple(sorted(ours.keys() ^ theirs.keys())), level=level,
    )  # fmt: skip
    if not seeds:
        return made
    mean, count = fmean(differences), len(seeds)
    counts = np.round(np.array(differences) * 1e6)  # whole: differences that are the same stay so when they are added
    made = made._replace(difference=mean, wins=int((counts > 0).sum()), losses=int((counts < 0).sum()))
    if count == 1:
        return made
    half = half_width(differences, level)
    needed = _needed(mean, stdev(differences))
    return made._replace(low=mean - half, high=mean + half, p=_sign_flips(counts), needed=needed)


def compare_all(rows: Sequence[Row], baselines: Sequence[str] = ()) -> tuple[list[Comparison], list[str]]:
    """Compare every row with the baselines of the same data set, teacher, student and point.

    Args:
        rows: those of a report.
        baselines: addresses (`find`), ``"DB3KD (noise)"``; none for the references. A baseline with fewer numbers in
            its point, such as labels alone in a curve over queries, stands for all points that have these.

    Returns:
        The comparisons, and sentences on what could not be compared.

    Raises:
        ReportError: no row has such an address.
    """
    notes = []
    for address in baselines:
        if not find(rows, address):
            known = ", ".join(dict.fromkeys(row.label for row in rows if row.role != "teacher"))
            raise ReportError(f"no row is the baseline '{address}'; there are: {known}")
    addresses = baselines or list(dict.fromkeys(row.label for row in rows if row.role == "reference"))
    made: dict[frozenset[tuple[object, ...]], Comparison] = {}
    for address in addresses:
        for row in (row for row in rows if row.role != "teacher"):
            partners = _partners(row, find(rows, address))
            alone = baselines and not partners and row not in find(rows, address)
            lacking = [one for one in (row, *partners) if one.accuracies is None]
            if alone:
                notes.append(f"{row.title} on {row.dataset}: not compared, there is no '{address}' to pair it with.")
            elif lacking and partners:
                notes.append(f"{row.title} on {row.dataset}: not compared with '{address}', an accuracy is missing.")
            for baseline in () if lacking else partners:
                if same_images(row, baseline):
                    made.setdefault(frozenset((row.key, baseline.key)), compare(row, baseline))
                else:
                    told = f"not compared with '{address}', which was tested on different images"
                    notes.append(f"{row.title} on {row.dataset}: {told}.")
    return _holm(list(made.values())), notes


def half_width(values: Sequence[float], level: float = LEVEL) -> float:
    """Half of Student's interval at ``1 - level`` for the mean of some values; 0 for less than two."""
    count = len(values)
    return float(stats.t.ppf(1 - level / 2, count - 1)) * stdev(values) / math.sqrt(count) if count > 1 else 0.0


def points(share: float | None) -> str:
    """A difference of two accuracies, ``1.55``."""
    return text.DASH if share is None else f"{100 * share:.2f}"


def p_value(p: float | None) -> str:
    """With three decimals, ``0.031``."""
    return text.DASH if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _seeds(seeds: Iterable[int]) -> str:
    several = list(map(str, seeds))
    return f"seed{'s' if len(several) > 1 else ''} {', '.join(several)}"


def _name(row: Compared, same: bool) -> str:
    return f"{row.label}, {row.access}" if same else row.label


def _partners(row: Row, found: Sequence[Row]) -> list[Row]:
    """Of some baselines those that a row is compared with: nearest in their point, and in their access."""

    def alike(one: Row, key: str) -> bool:
        values = getattr(row, key), getattr(one, key)
        return None in values or values[0] == values[1]

    found = [
        one for one in found
        if one is not row and (one.dataset, one.student) == (row.dataset, row.student)
        and one.point.items() <= row.point.items() and alike(one, "teacher") and alike(one, "teacher_fingerprint")
    ]  # fmt: skip
    nearest = max((len(one.point) for one in found), default=0)
    found = [one for one in found if len(one.point) == nearest]
    return [one for one in found if one.access == row.access] or found


def _sign_flips(counts: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Two-sided p-value; exact up to twelve differences, beyond that of 99,999 draws by a seed."""
    tries = np.inf if len(counts) <= _EXACT else 99_999
    rng = np.random.default_rng(0)
    tested = stats.permutation_test((counts,), np.sum, permutation_type="samples", n_resamples=tries, random_state=rng)
    return float(tested.pvalue)


def _needed(mean: float, spread: float) -> int | None:
    """Seeds with which a paired t-test at 5 % sees this mean with this spread in 80 of 100 tries; at least six."""
    if not mean or not spread:
        return _LEAST if mean else None
    counts = np.arange(_LEAST, _MOST + 1)
    centres = np.minimum(abs(mean) / spread * np.sqrt(counts), 30)  # farther out its distribution is not computed
    power = stats.nct.sf(stats.t.ppf(1 - LEVEL / 2, counts - 1), counts - 1, centres)
    return next((int(count) for count in counts[power >= _POWER]), None)


def _holm(comparisons: list[Comparison]) -> list[Comparison]:
    """With p-values by Holm's correction, for each data set its own."""
    adjusted: dict[int, float] = {}
    for dataset in {one.dataset for one in comparisons}:
        tested = [(one.p, i) for i, one in enumerate(comparisons) if one.dataset == dataset and one.p is not None]
        highest = 0.0
        for rank, (p, i) in enumerate(sorted(tested)):
            highest = adjusted[i] = max(highest, min(1.0, p * (len(tested) - rank)))
    return [one._replace(p_holm=adjusted.get(i)) for i, one in enumerate(comparisons)]
