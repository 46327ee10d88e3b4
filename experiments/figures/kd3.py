"""The figures of KD³'s paper and its supplement, drawn from run directories.

    python experiments/figures/kd3.py features RUN... [--by teacher student]    # Fig. 3; supplement, Fig. 1
    python experiments/figures/kd3.py images RUN                                # supplement, Fig. 4
    python experiments/figures/kd3.py selection RUN...                          # what every epoch has selected
    python experiments/figures/kd3.py sensitivity DIR... --parameter KEY...     # Fig. 4, Table 4

RUN is a run's directory: its ``config.yaml`` names the pool, the teacher and V_th, its ``network/`` is the student.
``--data FILE`` (YAML or JSON: ``class_path`` and ``init_args``, also below a key ``data``), ``--teacher`` and
``--student`` (runs, or saved networks) come before them; with all three, ``features`` and ``images`` need no run. What
is selected follows from the last weights, by the rule of the training's second half, α = 1; ``--alpha`` is another
share.

DIR is searched for runs. KEY is a setting's dotted name in ``config.yaml``: ``model.init_args.contrastive_weight`` (α),
``model.init_args.temperature`` (τ), ``model.init_args.threshold`` (V_th), ``data.init_args.fraction`` (Table 4). A line
joins runs that differ in it alone, and in seeds; ``--ignore`` names what else may differ.

Beside a figure FIGURE.png, its numbers are in FIGURE.json. Nothing here is trained.

.. [Tang2023] J. Tang, S. Chen, G. Niu, M. Sugiyama, C. Gong. Distribution Shift Matters for Knowledge Distillation with
   Webly Collected Images. ICCV 2023.
"""

import argparse
import importlib
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mekd import draw_line, finish, network_at, new_figure
from sklearn.manifold import TSNE
from torch import Tensor, nn
from torchvision.utils import make_grid

from kdlightning.data import CollectedDataModule
from kdlightning.data.base import ImageSet
from kdlightning.functional.selection import Mapping, combine, select
from kdlightning.networks.base import penultimate_features
from kdlightning.report import Row, read_runs, summarise
from kdlightning.report.rows import Run
from kdlightning.teachers import WhiteBoxTeacher

COLOURS = {"unselected": "#a8a8a8", "original": "#0072B2", "selected": "#D55E00"}  # the last one is drawn on top
FACTS = {
    "share": "selected share of the pool",
    "class_entropy": "class entropy of the selected",
    "precision": "precision",
    "recall": "recall",
    "label_accuracy": "accuracy of the predicted classes",
}
AXES = {"contrastive_weight": "α", "temperature": "τ", "threshold": "V_th", "fraction": "share of the pool"}
INCIDENTAL = ("seed", "root", "download", "num_workers")  # settings that make no other experiment
MOST_TICKS = 8  # more values of a parameter overlap on an axis
WIDE = 50  # a parameter whose values span more than this factor has a logarithmic axis

Drawn = tuple[Figure, dict[str, Any]]
Settings = dict[str, Any]


class Choice(NamedTuple):
    """What is said of a pool of M images.

    Attributes:
        mask: bool ``(M,)``: selected.
        label: predicted class ``(M,)``.
        confidence: its probability ``(M,)``.
        teacher_alone: whether it chose, for want of sure predictions.
    """

    mask: Tensor
    label: Tensor
    confidence: Tensor
    teacher_alone: bool = False


class Case(NamedTuple):
    """A pool, a pair of networks, and how they choose.

    Attributes:
        name: of the run.
        data: the pool; its source is the task's data set.
        teacher: white box.
        student: likewise.
        alpha: the student's share in the prediction.
        threshold: V_th.
        mapping: of class counts to thresholds.
        least_share: of the pool, below which the teacher alone chooses.
    """

    name: str
    data: CollectedDataModule
    teacher: WhiteBoxTeacher
    student: WhiteBoxTeacher
    alpha: float
    threshold: float
    mapping: Mapping
    least_share: float

    def choose(self) -> Choice:
        """Score the pool and select from it."""
        self.data.setup()
        return choose(self.data, *self[2:])

    def facts(self, choice: Choice) -> Settings:
        """For the numbers beside a figure."""
        number = int(choice.mask.sum())
        return {
            "run": self.name, "dataset": self.data.name, "alpha": self.alpha, "threshold": self.threshold,
            "mapping": self.mapping, "least_share": self.least_share, "teacher_alone": choice.teacher_alone,
            "pool": len(choice.mask), "selected": number, "share": number / len(choice.mask),
        }  # fmt: skip


@torch.no_grad()
def choose(
    data: CollectedDataModule,
    teacher: nn.Module,
    student: nn.Module,
    alpha: float = 1.0,
    threshold: float = 0.95,
    mapping: Mapping = "linear",
    least_share: float = 0.01,
) -> Choice:
    """Which images of a pool are selected, Eqs. 3 and 5-8 of [Tang2023]_, as ``KD3`` does it.

    Args:
        data: the pool, after ``setup``.
        teacher: logits of pixels in [0, 1], in eval mode.
        student: likewise.
        alpha: the student's share in the combined prediction.
        threshold: V_th.
        mapping: ``linear`` or ``convex``.
        least_share: of the pool, below which the teacher alone chooses.

    Raises:
        ValueError: a share or a threshold outside [0, 1], or not one image is selected.
    """
    for name, share in (("alpha", alpha), ("least_share", least_share)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}: expected a share from 0 to 1, got {share}")
    device = next(iter(student.state_dict().values())).device
    combined, alone = [], []
    for batch in data.predict_dataloader():
        pixels = batch.image.to(device).float() / 255
        p_teacher, p_student = (network(pixels).float().softmax(1) for network in (teacher, student))
        combined.append(torch.stack(torch.max(combine(p_teacher, p_student, alpha), 1), 1).cpu())  # Eqs. (3), (5)
        alone.append(torch.stack(torch.max(p_teacher, 1), 1).cpu())
    choice = _confident(combined, threshold, mapping)
    if choice.mask.sum() < least_share * len(choice.mask):
        choice = _confident(alone, threshold, mapping)._replace(teacher_alone=True)
    if not choice.mask.any():
        number, surest = len(choice.mask), float(choice.confidence.max())
        raise ValueError(f"none of {number} images is selected at V_th = {threshold}, the surest has {surest:.4f}")
    return choice


def sample(
    data: CollectedDataModule, mask: Tensor, number: int, original: str = "train", seed: int = 0
) -> dict[str, tuple[ImageSet, Tensor]]:
    """Images of the three kinds, drawn by seed; a kind without any is left out.

    Args:
        data: the pool, after ``setup``.
        mask: selected ``(M,)``.
        number: at most so many of each.
        original: which of the task's images, ``train``, ``val`` or ``test``.
        seed: of the draw.

    Returns:
        kind → the set of images, and positions in it.

    Raises:
        ValueError: the task has no such images.
    """
    task = data.source.train_set if original == "train" else getattr(data, f"{original}_set")
    if task is None or not len(task):
        raise ValueError(f"{data.name} has no {original} images")
    every = {
        "original": (task, torch.arange(len(task))),
        "selected": (data.train_set, mask.nonzero()[:, 0]),
        "unselected": (data.train_set, (~mask).nonzero()[:, 0]),
    }
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for kind, (images, positions) in every.items():
        order = torch.randperm(len(positions), generator=generator)[:number]
        if len(order):
            drawn[kind] = (images, positions[order.sort().values])
    return drawn


def kernel_distance(one: Tensor, other: Tensor) -> float | None:
    """KID's estimate, squared MMD with the kernel (xᵀy / F + 1)³, of two sets of features ``(N, F)`` and ``(M, F)``.

    Around 0 for two samples of one distribution, also below; None for fewer than two vectors.
    """
    if min(len(one), len(other)) < 2:
        return None
    one, other = one.double(), other.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        values = kernel(a, a)
        return (values.sum() - values.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(within(one) + within(other) - 2 * kernel(one, other).mean())


def embed(features: dict[str, Tensor], perplexity: float = 30.0, seed: int = 0) -> dict[str, Tensor]:
    """t-SNE of all features together.

    Args:
        features: kind → ``(N, F)``.
        perplexity: lowered where there are fewer than three times as many points.
        seed: t-SNE's ``random_state``.

    Returns:
        kind → ``(N, 2)``.
    """
    together = torch.cat(list(features.values())).cpu().numpy()
    tsne = TSNE(perplexity=min(perplexity, (len(together) - 1) / 3), init="pca", random_state=seed)
    points = torch.from_numpy(tsne.fit_transform(together))
    return dict(zip(features, points.split([len(rows) for rows in features.values()]), strict=True))


def draw_features(
    cases: Sequence[Case],
    by: Sequence[str] = ("teacher",),
    number: int = 1000,
    original: str = "train",
    perplexity: float = 30.0,
    seed: int = 0,
) -> Drawn:
    """Fig. 3 of [Tang2023]_ and Fig. 1 of its supplement, a panel per run and network.

    The numbers also have the kernel distance of selected and unselected to original features.

    Args:
        cases: of one run each.
        by: whose features, ``teacher`` and ``student``.
        number: at most so many images of each kind.
        original: which of the task's images.
        perplexity: of t-SNE.
        seed: of the draw and of t-SNE.
    """
    figure, panels = new_figure(len(cases) * len(by))
    numbers = []
    for place, case in enumerate(cases):
        choice = case.choose()
        drawn = sample(case.data, choice.mask, number, original, seed)
        for turn, side in enumerate(by):
            network = getattr(case, side)
            features = {kind: _features(network, *rows) for kind, rows in drawn.items()}
            points = embed(features, perplexity, seed)
            axes = panels[place * len(by) + turn]
            for kind, colour in COLOURS.items():
                if kind in points:
                    x, y = points[kind].unbind(1)
                    axes.scatter(x.numpy(), y.numpy(), s=3, color=colour, label=kind, linewidths=0, alpha=0.8)
            name = type(getattr(network.network, "student", network.network)).__name__
            axes.set_title(case.data.name, loc="left")
            axes.set_xlabel(f"features of the {side}, {name}")
            axes.set(xticks=[], yticks=[])
            distances = {
                kind: kernel_distance(features["original"], features[kind]) for kind in features if kind != "original"
            }
            numbers.append(
                {
                    **case.facts(choice), "network": side, "class": name,
                    "images": original, "drawn": {kind: len(rows) for kind, rows in points.items()},
                    "kernel_distance": distances,
                }
            )  # fmt: skip
    panels[0].legend(frameon=False, fontsize=8, markerscale=3)
    return figure, {"panels": numbers}


def draw_images(case: Case, number: int = 36, original: str = "train", seed: int = 0) -> Drawn:
    """Fig. 4 of the supplement: original, selected and unselected images side by side.

    The numbers have each image's index in its data set, and for the pool's the predicted class and its probability.
    """
    choice = case.choose()
    drawn = sample(case.data, choice.mask, number, original, seed)
    figure, panels = new_figure(len(drawn))
    kinds: Settings = {}
    for letter, axes, (kind, (images, positions)) in zip("abc", panels, drawn.items(), strict=False):
        batch = images.__getitems__(positions.tolist())
        grid = make_grid(batch.image, nrow=math.ceil(len(positions) ** 0.5), padding=1, pad_value=255)
        axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_title(f"({letter}) {kind}", loc="left")
        axes.set(xticks=[], yticks=[])
        total = len(images)
        kinds[kind] = {"index": batch.index.tolist()}
        if kind != "original":
            total = int((choice.mask if kind == "selected" else ~choice.mask).sum())
            kinds[kind]["predicted"] = [case.data.class_names[k] for k in choice.label[positions].tolist()]
            kinds[kind]["confidence"] = [round(p, 4) for p in choice.confidence[positions].tolist()]
        axes.set_xlabel(f"{len(positions):,} of {total:,}")
    return figure, {**case.facts(choice), "images": original, "kinds": kinds}


def draw_selection(runs: Sequence[Path]) -> Drawn:
    """What every epoch has selected: a panel per fact that a run knows, a line per run.

    Args:
        runs: directories with ``selection.jsonl``.

    Raises:
        ValueError: one of them is empty.
    """
    told: dict[str, list[Settings]] = {}
    names = Counter(run.resolve().name for run in runs)
    for run in runs:
        file = run / "selection.jsonl"
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        if not lines:
            raise ValueError(f"{file} is empty")
        told[run.resolve().name if names[run.resolve().name] == 1 else str(run)] = lines
    facts = [fact for fact in FACTS if any(fact in lines[0] for lines in told.values())]
    figure, panels = new_figure(len(facts))
    for axes, fact in zip(panels, facts, strict=True):
        for name, lines in told.items():
            if fact in lines[0]:
                epochs, values = [line["epoch"] for line in lines], [line[fact] for line in lines]
                axes.plot(epochs, values, marker=".", linewidth=1.5, label=name)
        axes.set_title(FACTS[fact], loc="left", fontsize=10)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(figure, panels)
    panels[0].set_ylabel("")
    kept = ("epoch", "selected", *facts)
    numbers = {}
    for name, lines in told.items():
        numbers[name] = {fact: [line[fact] for line in lines] for fact in kept if fact in lines[0]}
    return figure, {"runs": numbers}


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


def flat(value: Any, name: str = "") -> Settings:  # noqa: ANN401 - YAML
    """A configuration by dotted names: ``{"a": {"b": [1]}}`` → ``{"a.b.0": 1}``."""
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        inner = [flat(one, f"{name}.{part}" if name else str(part)) for part, one in parts]
        return {key: leaf for one in inner for key, leaf in one.items()}
    return {name: value}


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
        same = replace(run, variant=None)  # often names the value
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
            points = [(value, 100 * row.accuracy_mean, 100 * row.accuracy_std) for value, row in line.points]
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


def build(spec: Any) -> Any:  # noqa: ANN401 - YAML
    """Construct ``class_path`` and ``init_args``, inner ones first; names without dots are the package's data modules.

    Raises:
        ValueError: there is no such class, or it does not take these arguments.
    """
    if isinstance(spec, list):
        return [build(one) for one in spec]
    if not isinstance(spec, dict) or "class_path" not in spec:
        return spec
    module, _, name = spec["class_path"].rpartition(".")
    given = spec.get("init_args") or {}
    options = {key: None if key == "augmentation" else build(value) for key, value in given.items()}
    try:
        return getattr(importlib.import_module(module or "kdlightning.data"), name)(**options)
    except (AttributeError, ImportError, TypeError) as error:
        raise ValueError(f"{spec['class_path']}: {error}") from error


def case_of(run: Path | None, options: argparse.Namespace) -> Case:
    """What a run says, and what the command line says instead.

    Raises:
        TypeError: the data have no source.
        ValueError: something is said by neither.
    """
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")) if run else {}
    method = config.get("model", {}).get("init_args", {})
    spec = config.get("data")
    if options.data:
        spec = yaml.safe_load(options.data.read_text(encoding="utf-8")) or {}
        spec = spec.get("data", spec)
    teacher: Any = options.teacher or flat(method).get("teacher.init_args.network")
    student: Any = options.student or run
    for name, value in (("data", spec), ("teacher", teacher), ("student", student)):
        if value is None:
            raise ValueError(f"give --{name}, or a run that says which")
    alpha = options.alpha
    if alpha is None:
        alpha = {"combined": 1.0, "student": 1.0, "teacher": 0.0}.get(method.get("selection", "combined"))
    if alpha is None:
        raise ValueError(f"{run} selects {method['selection']} images: give --alpha for what would have been selected")
    data = build(spec)
    if not isinstance(data, CollectedDataModule):
        raise TypeError(f"expected a pool such as UnionDataModule, got {type(data).__name__}")
    teacher_network, student_network = (
        WhiteBoxTeacher(network_at(Path(path))).to(options.device) for path in (teacher, student)
    )
    rule: Settings = {"threshold": 0.95, "mapping": "linear", "least_share": 0.01}  # KD3's
    for key, default in rule.items():
        given = getattr(options, key)
        rule[key] = method.get(key, default) if given is None else given
    return Case(str(run or student), data, teacher_network, student_network, alpha, **rule)


def cases_of(options: argparse.Namespace) -> list[Case]:
    """Of every run, or of what the command line gives without one."""
    return [case_of(run, options) for run in options.runs or [None]]


def student_runs(options: argparse.Namespace) -> list[Run]:
    """The method's students below the directories; what could not be read is told."""
    findings = read_runs(options.directories)
    for problem in findings.problems:
        sys.stderr.write(f"left out: {problem.path}: {problem.reason}\n")
    return [run for run in findings.runs if run.method == options.method and run.role == "student"]


def _confident(tops: Sequence[Tensor], threshold: float, mapping: Mapping) -> Choice:
    """The choice from top probabilities and classes ``(N, 2)``, batch by batch."""
    confidence, label = torch.cat(list(tops)).unbind(1)
    return Choice(select(confidence, label.long(), threshold, mapping), label.long(), confidence)


def _features(network: WhiteBoxTeacher, images: ImageSet, positions: Tensor) -> Tensor:
    """Penultimate features ``(N, F)`` of some images."""
    device = next(network.parameters()).device
    return penultimate_features(network, images.__getitems__(positions.tolist()).image, device).cpu()


def _length(config: Settings) -> Settings:
    """Of the training."""
    return {f"trainer.{key}": config.get("trainer", {}).get(key) for key in ("max_epochs", "max_steps")}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    made = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    commands = made.add_subparsers(dest="figure", required=True)
    features = commands.add_parser("features", help="Fig. 3; supplement, Fig. 1")
    features.add_argument("runs", nargs="*", type=Path)
    features.add_argument("--by", nargs="+", choices=("teacher", "student"), default=["teacher"], help="whose features")
    features.add_argument("--perplexity", type=float, default=30.0)
    images = commands.add_parser("images", help="Fig. 4 of the supplement")
    images.add_argument("runs", nargs="?", type=lambda text: [Path(text)], metavar="run")
    for command, number in ((features, 1000), (images, 36)):
        command.add_argument("--data", type=Path, help="YAML or JSON file, instead of the run's")
        command.add_argument("--teacher", type=Path, help="run, or saved network, instead of the run's")
        command.add_argument("--student", type=Path, help="run, or saved network, instead of the run's")
        command.add_argument("--alpha", type=float, help="the student's share; 1, or 0 for selection=teacher")
        command.add_argument("--threshold", type=float, help="V_th, instead of the run's")
        command.add_argument("--mapping", choices=("linear", "convex"), help="instead of the run's")
        command.add_argument("--least-share", type=float, help="instead of the run's")
        command.add_argument("--original", choices=("train", "val", "test"), default="train", help="images of the task")
        command.add_argument("--number", type=int, default=number, help="images of each kind, at most")
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    selection = commands.add_parser("selection", help="what every epoch has selected")
    selection.add_argument("runs", nargs="+", type=Path)
    sensitivity = commands.add_parser("sensitivity", help="Fig. 4, Table 4")
    sensitivity.add_argument("directories", nargs="+", type=Path)
    sensitivity.add_argument("--parameter", nargs="+", required=True, help="dotted names in config.yaml, a panel each")
    sensitivity.add_argument("--ignore", nargs="+", default=[], help="settings that may differ along a line")
    sensitivity.add_argument("--method", default="KD3")
    for command in commands.choices.values():
        command.add_argument("--output", type=Path, default=Path("figure.png"))
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Draw one figure, write its numbers, and say where they are."""
    options = parser().parse_args(argv)
    draw: dict[str, Callable[[argparse.Namespace], Drawn]] = {
        "features": lambda given: draw_features(
            cases_of(given), given.by, given.number, given.original, given.perplexity, given.seed
        ),
        "images": lambda given: draw_images(cases_of(given)[0], given.number, given.original, given.seed),
        "selection": lambda given: draw_selection(given.runs),
        "sensitivity": lambda given: draw_sensitivity(student_runs(given), given.parameter, given.ignore),
    }
    try:
        figure, numbers = draw[options.figure](options)
    except (OSError, RuntimeError, TypeError, ValueError, yaml.YAMLError) as error:
        parser().error(str(error))
    figure.savefig(options.output, dpi=200)
    beside = options.output.with_suffix(".json")
    beside.write_text(json.dumps(numbers, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{options.output}\n{beside}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
