"""Rows of a rerun beside kept ones: the same networks, the same accuracies, or others."""

from collections.abc import Sequence

from kdlightning.report import text
from kdlightning.report.records import Row

_SAME = 5e-7  # accuracies that differ by less are of the same number of images


def recognise(rows: Sequence[Row], kept: Sequence[Row]) -> list[str]:
    """What became of each row, seed by seed.

    Args:
        rows: those of the rerun.
        kept: those of a ``results.json`` (`load_rows`). Records of before there were fingerprints are compared by
            their accuracies only.

    Returns:
        A sentence for each row, and one for each kept row that was not run again.
    """
    known = {row.key: row for row in kept}
    said = [f"{_name(row)}: {_became(row, known[row.key])}" for row in rows if row.key in known]
    said += [f"{_name(row)}: no such row is kept" for row in rows if row.key not in known]
    again = {row.key for row in rows}
    return said + [f"{_name(row)}: kept, but not run again" for row in kept if row.key not in again]


def _became(row: Row, kept: Row) -> str:
    """Of the seeds that both have."""
    seeds = [seed for seed in row.seeds if seed in kept.seeds]
    if not seeds:
        return "no seed in common"
    told = text.plural(len(seeds), "seed")
    prints = [dict(zip(one.seeds, one.fingerprints or [], strict=False)) for one in (row, kept)]
    if all(seed in prints[0] and prints[0][seed] == prints[1].get(seed) for seed in seeds):
        return f"the same networks to the bit ({told})"
    now, then = (dict(zip(one.seeds, one.accuracies or [], strict=False)) for one in (row, kept))
    if not all(seed in now and seed in then for seed in seeds):
        return "cannot be compared, an accuracy is missing"
    changes = [now[seed] - then[seed] for seed in seeds]
    teachers = {one.teacher_fingerprint for one in (row, kept)} - {None}
    other = ", from another teacher" if len(teachers) > 1 else ""
    if max(map(abs, changes)) < _SAME:
        weights = "other weights" if all(prints) else "weights not known"
        return f"the same accuracies, {weights} ({told}{other})"
    points = [100 * change for change in changes]
    span = f"{sum(points) / len(points):+.2f} points on the mean, {min(points):+.2f} to {max(points):+.2f}"
    return f"other accuracies: {span} ({told}{other}; {kept.hardware or 'hardware not stated'}, commit {kept.commit})"


def _name(row: Row) -> str:
    return ", ".join(part for part in (row.label, row.student, row.access, row.place, row.dataset) if part)
