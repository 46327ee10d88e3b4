"""Accuracy against one setting of runs that differ in it alone.

.. [Tang2023] J. Tang, S. Chen, G. Niu, M. Sugiyama, C. Gong. Distribution Shift Matters for Knowledge Distillation with
   Webly Collected Images. ICCV 2023.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import yaml

from drawing.curves import draw_line, finish, new_figure
from drawing.runs import flat
from drawing.selection import Drawn, Settings
from kdlightning.report import Row, Run, summarise

AXES = {"contrastive_weight": "α", "temperature": "τ", "threshold": "V_th", "fraction": "share of the pool"}
INCIDENTAL = ("seed", "root", "download", "num_workers")  # settings that make no other experiment
MOST_TICKS = 8  # more values of a parameter overlap on an axis
WIDE = 50  # a parameter whose values span more than this factor has a logarithmic axis


class Line(NamedTuple):
    """Runs that differ in one setting and in seeds.

    Attributes:
        dataset: their task.
        pair: ``teacher → student``.
        rest: all other settings.
        points: (value, the seeds' row), by value.
        notes: what a reader must know of the seeds.
    """

    dataset: str
    pair: str
    rest: Settings
    points: list[tuple[float, Row]]
    notes: list[str]


def lines_of(runs: Sequence[Run], parameter: str, ignore: Sequence[str] = ()) -> list[Line]:
    """The lines of a parameter; runs that differ from all others in something else are left out.

    Args:
        runs: with ``config.yaml`` beside their ``result.json``.
        parameter: dotted name.
        ignore: dotted names of settings, or of groups of settings, that may differ along a line.

    Raises:
        ValueError: a value that is no number, or no two runs differ in the parameter alone.
    """
    groups: dict[tuple[str, str, frozenset[tuple[str, Any]]], dict[float, list[Run]]] = {}
    seen = set()
    for run in runs:
        config = yaml.safe_load((run.path.parent / "config.yaml").read_text(encoding="utf-8"))
        settings = {**flat({key: config.get(key, {}) for key in ("model", "data")}), **_length(config)}
        student = str(settings.get("model.init_args.student.class_path", run.student))  # the record's is the shared one
        value = settings.pop(parameter, None)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{parameter}: expected numbers, got {value!r} in {run.path.parent}")
        seen.add(value)
        rest = frozenset(
            (key, setting)
            for key, setting in settings.items()
            if key.rpartition(".")[2] not in INCIDENTAL and not any(f"{key}.".startswith(f"{one}.") for one in ignore)
        )
        pair = f"{run.teacher} → {student.rpartition('.')[2]}"
        same = run.model_copy(update={"variant": None})  # often names the value
        groups.setdefault((run.dataset, pair, rest), {}).setdefault(value, []).append(same)
    lines = []
    for (dataset, pair, rest), values in groups.items():
        if len(values) > 1:
            points, notes = [], []
            for value in sorted(values):
                (row,), told = summarise(values[value])
                points.append((value, row))
                notes += told
            lines.append(Line(dataset, pair, dict(rest), points, notes))
    if not lines:
        found = ", ".join(f"{value:g}" for value in sorted(seen)) or "none"
        raise ValueError(f"expected runs that differ in {parameter} alone; values found in {len(runs)} runs: {found}")
    return sorted(lines, key=lambda line: (line.dataset, line.pair, str(sorted(line.rest.items(), key=str))))


def name_lines(lines: Sequence[Line]) -> list[str]:
    """A name for each: the data set; the pair where there are several; what differs where that is not enough."""
    several = len({line.pair for line in lines}) > 1
    names = [f"{line.dataset}, {line.pair}" if several else line.dataset for line in lines]
    count = Counter(names)
    told = []
    for name, line in zip(names, lines, strict=True):
        others = [other.rest for twin, other in zip(names, lines, strict=True) if twin == name]
        differ = [key for key in sorted(line.rest) if any(rest.get(key) != line.rest[key] for rest in others)]
        settings = [f"{key.rpartition('.')[2]}={line.rest[key]}" for key in differ]
        told.append(name if count[name] == 1 else ", ".join([name, *settings]))
    return told


def draw_sensitivity(runs: Sequence[Run], parameters: Sequence[str], ignore: Sequence[str] = ()) -> Drawn:
    """Fig. 4 and Table 4 of [Tang2023]_: accuracy against settings, a panel each.

    Args:
        runs: see :func:`lines_of`.
        parameters: dotted names.
        ignore: see :func:`lines_of`.
    """
    figure, panels = new_figure(len(parameters))
    numbers: Settings = {}
    for axes, parameter in zip(panels, parameters, strict=True):
        lines = lines_of(runs, parameter, ignore)
        numbers[parameter] = []
        for name, line in zip(name_lines(lines), lines, strict=True):
            points = [(value, 100 * row.accuracy_mean, 100 * (row.accuracy_std or 0)) for value, row in line.points]
            draw_line(axes, points, name)
            kept = ("accuracy_mean", "accuracy_std", "seeds")
            stated = [{"value": value, **{key: getattr(row, key) for key in kept}} for value, row in line.points]
            facts = {"line": name, "dataset": line.dataset, "pair": line.pair, "points": stated, "notes": line.notes}
            numbers[parameter].append(facts)
        values = sorted({value for line in lines for value, _ in line.points})
        if values[0] > 0 and values[-1] / values[0] > WIDE:
            axes.set_xscale("log")
        if len(values) <= MOST_TICKS:
            axes.set_xticks(values, [f"{value:g}" for value in values])
            axes.minorticks_off()
        axes.set_xlabel(AXES.get(parameter.rpartition(".")[2], parameter))
    return finish(figure, panels), {"parameters": numbers}


def _length(config: Settings) -> Settings:
    """Of the training."""
    return {f"trainer.{key}": config.get("trainer", {}).get(key) for key in ("max_epochs", "max_steps")}
