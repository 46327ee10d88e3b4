"""What a finished run leaves: the student's weights, and one small record that reports read."""

import json
import os
import platform
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from kdlightning.callbacks.generation import GeneratorQuality
from kdlightning.data.transferset import TransferSet
from kdlightning.data.web import WebDataModule
from kdlightning.modules.base import DistillationModule, TaughtModule
from kdlightning.modules.generator import GeneratorModule
from kdlightning.networks.pretrained import save_network
from kdlightning.networks.statistics import count_macs, count_parameters
from kdlightning.types import Answers

Role = Literal["teacher", "reference", "student"]


class RunResult(Callback):
    """Writes ``network/`` at the end of a fit, and ``result.json`` when that network has been tested.

    The accuracy is that of the last weights on the test images. The best validation accuracy is recorded apart, for
    information.

    Args:
        role: what the network is in a comparison: the ``teacher``, a ``reference`` (the same student from labels), or a
            ``student``.
        variant: tells runs of one method apart, e.g. ``mbd``.
        seed: stands in the record; by default the run's seed.
    """

    def __init__(self, role: Role = "student", variant: str = "", seed: int | None = None) -> None:
        self.role, self.variant, self.seed = role, variant, seed
        self._began = self._seconds = 0.0
        self._best: float | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember the best validation accuracy."""
        value = trainer.callback_metrics.get("val/accuracy")
        if value is not None and not trainer.sanity_checking:
            self._best = max(self._best or 0.0, float(value))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the student."""
        self._seconds = time.monotonic() - self._began
        rehearsal = trainer.fast_dev_run  # type: ignore[attr-defined]
        if rehearsal or not trainer.is_global_zero:
            return
        if isinstance(pl_module, DistillationModule):
            self._save(trainer, pl_module, "student", {})
        if isinstance(pl_module, GeneratorModule):
            self._save(trainer, pl_module, "generator", pl_module.paid._asdict())
            file = Path(trainer.default_root_dir) / "result.json"
            file.write_text(json.dumps(self.generator_record(trainer, pl_module), indent=1) + "\n")

    @staticmethod
    def _save(trainer: L.Trainer, module: TaughtModule, name: str, facts: dict[str, Any]) -> None:
        """Write a network of the module to ``network/``."""
        spec = module.description(name)
        save_network(
            getattr(module, name),
            Path(trainer.default_root_dir) / "network",
            class_path=spec.get("class_path"),
            init_args=spec.get("init_args"),
            notes={"method": type(module).__name__, "checkpoint": "last", **facts},
            overwrite=True,
        )

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the record of a run that was fitted in this process."""
        if self._seconds and trainer.is_global_zero and isinstance(pl_module, DistillationModule):
            file = Path(trainer.default_root_dir) / "result.json"
            file.write_text(json.dumps(self.record(trainer, pl_module), indent=1) + "\n")
            data: Any = getattr(trainer, "datamodule", None)
            if isinstance(data, WebDataModule):  # the report shows what could not be used
                listed = {"files": data.files, "unusable": data.unusable}
                file.with_name("unusable.json").write_text(json.dumps(listed, indent=1) + "\n")

    def generator_record(self, trainer: L.Trainer, module: GeneratorModule) -> dict[str, Any]:
        """A generator's run as one flat object: no accuracy, but how near its images are to the local ones."""
        data: Any = getattr(trainer, "datamodule", None)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        watching = [callback for callback in trainer.callbacks if isinstance(callback, GeneratorQuality)]  # type: ignore[attr-defined]
        return {
            "schema": 1,
            "method": type(module).__name__,
            "variant": self.variant,
            "role": "generator",
            "dataset": data.name,
            "teacher": (module.teacher_identity or {}).get("name"),
            "generator": type(module.generator).__name__,
            "critic": type(module.critic).__name__,
            "access": module.access,
            "seed": self.seed if self.seed is not None else _seed(),
            "quality": {name.split("/")[1]: value for name, value in metrics.items() if name.startswith("generator/")},
            "features": watching[0].extractor if watching else None,
            "class_histogram": watching[0].histogram if watching else None,
            "parameters": count_parameters(module.generator),
            **module.paid._asdict(),
            "seconds": round(self._seconds, 2),
            "epochs": trainer.current_epoch,
            "train_images": len(data.train_set),
            **_provenance(trainer),
        }

    def record(self, trainer: L.Trainer, module: DistillationModule) -> dict[str, Any]:
        """The run as one flat object."""
        data: Any = getattr(trainer, "datamodule", None)
        transfer_set: TransferSet | None = getattr(data, "transfer_set", None)
        manifest = transfer_set.manifest if transfer_set else {}
        teacher = module.teacher_identity or manifest.get("teacher") or {}
        cost = _add(module.paid, Answers(*(manifest.get(key, 0) for key in Answers._fields)))
        shape = (data.channels, data.image_size, data.image_size)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        return {
            "schema": 1,
            "method": type(module).__name__,
            "variant": self.variant,
            "role": self.role,
            "dataset": data.name,
            "teacher": teacher.get("name"),
            "student": module.student_name,
            "access": module.access,
            "seed": self.seed if self.seed is not None else _seed(),
            "accuracy": metrics["test/accuracy"],
            "accuracy_best": None,
            "val_accuracy": metrics.get("val/accuracy", self._best),
            "val_accuracy_best": self._best,
            "agreement": metrics.get("test/agreement"),
            "parameters": count_parameters(module.student),
            "macs": count_macs(module.student, shape),
            **cost._asdict(),
            "seconds": round(self._seconds, 2),
            "labelling_seconds": manifest.get("seconds", 0.0),
            "checkpoint": "last",
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "train_images": len(data.train_set) if hasattr(data, "train_set") else None,
            **_provenance(trainer),
            "transfer_set": None if transfer_set is None else str(transfer_set.path),
            "queries_per_pair": manifest.get("queries_per_pair"),
        }


def _provenance(trainer: L.Trainer) -> dict[str, Any]:
    """What made a record."""
    return {
        "commit": commit(),
        "hardware": f"{platform.machine()}, {trainer.num_devices} x {type(trainer.accelerator).__name__}",
        "versions": {name: version(name) for name in ("torch", "lightning", "torchvision")},
        "config": str(Path(trainer.default_root_dir) / "config.yaml"),
    }


def _add(one: Answers, other: Answers) -> Answers:
    return Answers(*(a + b for a, b in zip(one, other, strict=True)))


def _seed() -> int | None:
    seed = os.environ.get("PL_GLOBAL_SEED")
    return None if seed is None else int(seed)


@rank_zero_only
def commit() -> str | None:
    """The short hash of the commit that the package runs from, with ``+`` if files differ from it; None outside git."""
    here = Path(__file__).parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
            cwd=here, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None
