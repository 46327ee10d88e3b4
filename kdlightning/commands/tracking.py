"""What a run is called in Weights & Biases: a group and tags that say what was distilled from whom, at which price."""

import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.loggers import WandbLogger

from kdlightning.callbacks import RunResult
from kdlightning.modules import LabellingModule, TaughtModule
from kdlightning.teachers import BlackBoxTeacher

_TAG, _GROUP = 64, 128  # characters that W&B takes


def describe_run(model: TaughtModule | LabellingModule, data: Any) -> dict[str, str]:  # noqa: ANN401 - a datamodule
    """What a run is about: paper, method, dataset, teacher, access, budget, network; what is not known is left out.

    Asks nothing and loads nothing: a transfer set's facts are its manifest's. The datamodule may be set up or not.

    Returns:
        Texts. ``paper`` is the first reference of the method's documentation, ``"Wang2021"``. ``budget`` is the most
        images that the teacher may answer, or what was paid for a transfer set; of a teacher that is not counted,
        ``"uncounted"``.
    """
    teacher: Any = getattr(model, "teacher", None)
    path = getattr(data, "path", None)
    file = Path(path, "manifest.json") if isinstance(path, (str, Path)) else None
    manifest: dict[str, Any] = json.loads(file.read_text()) if file and file.is_file() else {}
    own = model.teacher_identity if isinstance(model, TaughtModule) else teacher.identity
    identity = own or manifest.get("teacher") or {}
    budget = (manifest.get("queries") or "uncounted") if identity else None
    if isinstance(teacher, BlackBoxTeacher):
        budget = "unlimited" if teacher.budget is None else str(teacher.budget)
    facts = {
        "paper": paper_of(type(model)),
        "method": type(model).__name__,
        "dataset": getattr(data, "name", None),
        "teacher": identity.get("name"),
        "access": getattr(model, "access", None) or getattr(teacher, "access", None) or manifest.get("access"),
        "budget": budget,
        "network": getattr(model, "student_name", None),
    }
    return {key: str(value) for key, value in facts.items() if value}


def label_runs(trainer: L.Trainer, model: TaughtModule | LabellingModule, data: Any) -> None:  # noqa: ANN401 - a datamodule
    """Give the trainer's W&B runs their group and tags, before they begin; what the user has chosen stays.

    A group is what a report makes one row of: runs that differ in nothing but the seed. Its facts are the tags, each
    as ``key:value``.
    """
    facts = describe_run(model, data)
    for one in (one for one in trainer.callbacks if isinstance(one, RunResult)):  # type: ignore[attr-defined]
        told = {"variant": one.variant, **one.point}
        facts |= {key: str(value) for key, value in told.items() if value != ""}
    for logger in wandb_loggers(trainer):
        told = logger._wandb_init  # Lightning makes the run from these when it is first logged to
        if not told.get("group") and "WANDB_RUN_GROUP" not in os.environ:
            told["group"] = " / ".join(facts.values())[:_GROUP]
        if not told.get("tags") and "WANDB_TAGS" not in os.environ:
            told["tags"] = [f"{key}:{value}"[:_TAG] for key, value in facts.items()]


def continue_runs(trainer: L.Trainer) -> None:
    """Let a run that goes on be the same run in W&B: the last one in the logger's directory; the user's ``id`` wins."""
    for logger in wandb_loggers(trainer):
        last = Path(logger.save_dir or ".", "wandb", "latest-run")
        if not logger._wandb_init.get("id") and "WANDB_RUN_ID" not in os.environ and last.exists():
            logger._id = logger._wandb_init["id"] = last.resolve().name.rsplit("-", 1)[-1]


def log_record(trainer: L.Trainer, record: Mapping[str, Any]) -> None:
    """Put the numbers of a run's ``result.json`` into the summary of its W&B runs, as ``result/<key>``.

    So accuracies stand beside all queries, those for a transfer set included, which no training step asks.
    """
    numbers = {f"result/{key}": value for key, value in record.items() if type(value) in (int, float)}
    for logger in wandb_loggers(trainer):
        logger.experiment.summary.update(numbers)


def wandb_loggers(trainer: L.Trainer) -> list[WandbLogger]:
    """Those of the trainer's loggers that log to W&B."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]


def paper_of(method: type) -> str | None:
    """The first paper that a method's class or else its file refers to, ``"Wang2021"``; None where none does."""
    for kind in method.__mro__[:-1]:
        file = sys.modules.get(kind.__module__)
        found = re.search(r"\[(\w+\d{4}\w?)\]_", kind.__doc__ or "")
        if found := found or re.search(r"\.\. \[(\w+\d{4}\w?)\]", (file and file.__doc__) or ""):
            return found[1]
    return None
