"""The front door in code: distil a teacher by one call, through the recipe that ``kdlightning new`` writes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console
from torch import nn

from kdlightning import networks
from kdlightning.commands.case import CaseError, has_class_folders
from kdlightning.commands.new import case_of, recipe
from kdlightning.commands.recipes import read_recipe, run_stages
from kdlightning.networks import load_network, save_network

__all__ = ["Distilled", "distil"]


class Distilled(NamedTuple):
    """What a distillation has made.

    Attributes:
        student: pixels ``(N, C, H, W)`` in [0, 1] to logits ``(N, K)``, in eval mode, on the CPU.
        record: what stands in its ``result.json``: accuracy, agreement, queries, and what made it.
        directory: where it lies, with ``network/``.
    """

    student: nn.Module
    record: dict[str, Any]
    directory: Path


def distil(
    teacher: str | Path | nn.Module,
    student: str | type[nn.Module],
    *,
    images: str | Path = "none",
    budget: int | None = None,
    answers: Literal["soft", "hard", "topk", "words"] = "soft",
    model: str | None = None,
    labels: bool | None = None,
    weights: bool = False,
    key_env: str | None = None,
    classes: int | Sequence[str] | None = None,
    shape: tuple[int, int, int] | None = None,
    output: str | Path | None = None,
    epochs: int | None = None,
    baseline: bool = False,
) -> Distilled:
    """Distil a teacher by the method that ``kdlightning new`` recommends.

    Writes that command's recipe into ``output`` as ``distil.yaml`` and runs its stages as ``kdlightning run`` does:
    the same call goes on where it was stopped, asks nothing twice, and returns at once what is finished.

    Args:
        teacher: a model's address; the directory or Hugging Face id of a saved network; or a network that
            `save_network` can write, which goes to ``teacher/`` in ``output``.
        student: a class of :mod:`kdlightning.networks`, a name of timm's or torchvision's, a class's dotted path, or a
            class that can be imported and built without arguments.
        images: a folder or zip of the task's own, ``"web:DIR"`` for images from elsewhere, or ``"none"``.
        budget: the most images that the teacher may answer; needed unless its ``weights`` may be opened.
        answers: what it answers; a chat model answers in ``words``.
        model: the chat model's name on its server, whose address, up to its version, is the ``teacher``.
        labels: whether class folders label the own images; None: if there are class folders.
        weights: open the teacher, which has to be a saved network.
        key_env: the environment variable with an API's key.
        classes: K, or the names of the classes, where neither class folders nor the teacher tell.
        shape: (C, H, W) to use instead of what follows from images, teacher and student.
        output: directory; None for ``runs/`` and a name of images and student.
        epochs: instead of the recipe's.
        baseline: run the baseline, too, and write the report.

    Raises:
        CaseError: something is missing or does not fit; in a sentence, by the options' names of ``kdlightning new``.
        FileExistsError: ``output`` has a recipe of another case.
        RuntimeError: a stage was refused or stopped; what was wrong has been written to standard error.
    """
    _check(teacher=teacher, student=student, images=images, budget=budget, classes=classes, epochs=epochs)
    if isinstance(student, type):
        ours = getattr(networks, student.__name__, None) is student
        student = student.__name__ if ours else f"{student.__module__}.{student.__qualname__}"
    place = str(teacher)
    kind = "weights" if weights else "api" if place.startswith(("http://", "https://")) else "network"
    told = {
        "teacher": kind, "url": place, "network": place,
        "student": student, "images": str(images), "answers": answers, "labels": labels, "budget": budget,
        "key_env": key_env, "model": model, "classes": classes, "shape": shape,
        "output": None if output is None else str(output),
    }  # fmt: skip
    root = Path(case_of({**told, "network": "", "url": ""}).output)
    if isinstance(teacher, nn.Module):
        try:
            told["network"] = str(save_network(teacher, root / "teacher"))
        except ValueError as error:
            raise CaseError(
                f"teacher: {error}. Save it yourself, by save_network with init_args, and give the directory: "
                "docs/tutorial-teacher.md"
            ) from error
    if labels is None:
        told["labels"] = has_class_folders(str(images))
    file = root / "distil.yaml"
    _, text = recipe(case_of(told), str(file))
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise FileExistsError(
            f"{file} is the recipe of another case: give another output, or delete that file and the stages that it "
            f"changes, but no ledger in {root}: what that has answered is not paid again"
        )
    root.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    _, stages, _ = read_recipe(file, output=str(root), variables={} if epochs is None else {"epochs": epochs})
    wanted = [stage for stage in stages if baseline or not stage.name.startswith("baseline")]
    try:
        run_stages(wanted, Console(highlight=False))
    except SystemExit as stop:
        raise RuntimeError(
            "a stage did not finish, for the reason above; when that is mended, the same call goes on"
        ) from stop
    (directory,) = [stage.directory for stage in wanted if stage.name.startswith("student")]
    record = json.loads((directory / "result.json").read_text(encoding="utf-8"))
    return Distilled(load_network(directory / "network"), record, directory)


_PLACE = (str, Path)
_TAKEN: dict[str, tuple[tuple[type, ...], str]] = {
    "teacher": ((*_PLACE, nn.Module), "an address, a directory, or a network"),
    "student": ((str, type), "a network's name, its dotted path, or its class, of which a new one is built"),
    "images": (_PLACE, "a folder or zip, 'web:DIR' or 'none'; data sets and loaders of your own: docs/python.md"),
    "budget": ((int, type(None)), "a whole number"),
    "classes": ((int, list, tuple, type(None)), "a whole number, or a list of names"),
    "epochs": ((int, type(None)), "a whole number"),
}


def _check(**given: object) -> None:
    """A CaseError for an argument of another type than `distil` takes."""
    for name, value in given.items():
        kinds, expected = _TAKEN[name]
        if not isinstance(value, kinds) or isinstance(value, bool):
            shown = f" {value!r}" if isinstance(value, str | int | float) else ""
            raise CaseError(f"{name}: expected {expected}; got {type(value).__name__}{shown}")
