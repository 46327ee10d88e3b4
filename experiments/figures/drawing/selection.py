"""What is selected from a pool: by a finished run, and epoch by epoch.

.. [Tang2023] J. Tang, S. Chen, G. Niu, M. Sugiyama, C. Gong. Distribution Shift Matters for Knowledge Distillation with
   Webly Collected Images. ICCV 2023.
"""

import argparse
import json
import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor, nn
from torchvision.utils import make_grid

from drawing.curves import finish, new_figure
from drawing.runs import build, flat, network_at
from kdlightning.data import CollectedDataModule
from kdlightning.data.sets import ImageSet
from kdlightning.functional.selection import Choice, Mapping, choose, top_predictions
from kdlightning.teachers import WhiteBoxTeacher

FACTS = {
    "share": "selected share of the pool",
    "class_entropy": "class entropy of the selected",
    "precision": "precision",
    "recall": "recall",
    "label_accuracy": "accuracy of the predicted classes",
}

Drawn = tuple[Figure, dict[str, Any]]
Settings = dict[str, Any]


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
        selection_temperature: T of the teacher's softmax.
    """

    name: str
    data: CollectedDataModule
    teacher: WhiteBoxTeacher
    student: WhiteBoxTeacher
    alpha: float
    threshold: float
    mapping: Mapping
    least_share: float
    selection_temperature: float

    def choose(self) -> Choice:
        """Score the pool and select from it."""
        self.data.setup()
        return choose_from(self.data, *self[2:])

    def facts(self, choice: Choice) -> Settings:
        """For the numbers beside a figure."""
        number = int(choice.mask.sum())
        return {
            "run": self.name, "dataset": self.data.name, "alpha": self.alpha, "threshold": self.threshold,
            "mapping": self.mapping, "least_share": self.least_share,
            "selection_temperature": self.selection_temperature, "teacher_alone": choice.teacher_alone,
            "pool": len(choice.mask), "selected": number, "share": number / len(choice.mask),
        }  # fmt: skip


@torch.no_grad()
def choose_from(
    data: CollectedDataModule,
    teacher: nn.Module,
    student: nn.Module,
    alpha: float = 1.0,
    threshold: float = 0.95,
    mapping: Mapping = "linear",
    least_share: float = 0.01,
    selection_temperature: float = 1.0,
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
        selection_temperature: T of the teacher's softmax.

    Raises:
        ValueError: a share or a threshold outside [0, 1], or not one image is selected.
    """
    for name, share in (("alpha", alpha), ("least_share", least_share)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name}: expected a share from 0 to 1, got {share}")
    device = next(chain(student.parameters(), student.buffers())).device
    predictions = []
    for batch in data.predict_dataloader():
        pixels = batch.image.to(device).float() / 255
        p_teacher = (teacher(pixels).float() / selection_temperature).softmax(1)
        predictions.append(top_predictions(p_teacher, student(pixels).float().softmax(1), alpha).cpu())
    choice = choose(torch.cat(predictions), threshold, mapping, least_share)
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
    # KD3's
    rule: Settings = {"threshold": 0.95, "mapping": "linear", "least_share": 0.01, "selection_temperature": 1.0}
    for key, default in rule.items():
        given = getattr(options, key)
        rule[key] = method.get(key, default) if given is None else given
    return Case(str(run or student), data, teacher_network, student_network, alpha, **rule)
