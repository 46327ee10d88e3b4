"""What a finished run leaves: the student's weights, and one small record that reports read."""

import json
import logging
import math
import os
import platform
import subprocess
import time
import zlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeGuard

import lightning.pytorch as L
import torch

from kdlightning.accounting.estimates import outcome
from kdlightning.callbacks.agreement import Agreement
from kdlightning.callbacks.generation import GeneratorQuality
from kdlightning.callbacks.own import OwnFiles, keeps
from kdlightning.data.cached import write_json
from kdlightning.data.datasets import name_of_set
from kdlightning.data.transferset import TransferSet
from kdlightning.data.web import WebDataModule
from kdlightning.modules.base import DistillationModule
from kdlightning.modules.generator import GeneratorModule
from kdlightning.modules.schedule import unlimited
from kdlightning.networks.pretrained import check_saving, fingerprint, save_network
from kdlightning.networks.statistics import count_macs, count_parameters
from kdlightning.teachers import BlackBoxTeacher
from kdlightning.types import Batch

_log = logging.getLogger(__name__)

Role = Literal["teacher", "reference", "student"]

_LOOKED = 1024  # pixels of an image, roughly
_UNLABELLED = 2**32 - 1
_NAMED = ("student", "teacher", "generator", "critic", "output")


class RunResult(OwnFiles):
    """Writes ``network/`` at the end of a fit, and ``result.json`` when that network has been tested.

    The accuracy is that of the last weights on the test images; None where these have no labels. ``tested_on`` says
    which images these were: of the ``test`` or ``validation`` split, or answered ones that were ``held out``; None
    where there were none. It counts the images that were measured, and those that an epoch saw. A ``fast_dev_run``
    leaves nothing, nor does a test of other weights. The best validation accuracy is recorded apart, for information.
    A finished run's directory takes no other run: the fit is refused, unless it goes on (``ckpt_path``, or the same
    module again).

    Args:
        role: the network's in a comparison: ``teacher``, ``reference`` (the same student from labels) or ``student``.
        variant: tells runs of one method apart, e.g. ``mbd``.
        seed: stands in the record; by default the run's seed, or where `seed_everything` was not called a number
            that stands for torch's random state when the training began.
        point: where the run lies on a curve, numbers by their names, e.g. ``{"images": 200}``: a report draws the
            accuracy against them, and compares runs that have the same point.

    Raises:
        ValueError: ``point`` has a name without characters, or what is no finite number.
    """

    def __init__(
        self,
        role: Role = "student",
        variant: str = "",
        seed: int | None = None,
        point: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.role, self.variant, self.seed, self.point = role, variant, seed, dict(point or {})
        for name, value in self.point.items():
            if not str(name).strip() or type(value) not in (int, float) or not math.isfinite(value):
                told = "point takes finite numbers by their names, such as images: 200"
                raise ValueError(f"{told}; got {name}: {value!r}")
        self._began: float | None = None
        self._seconds = 0.0
        self._state = 0
        self._trained: dict[str, int] = {}  # by this process
        self._seen = self._most = self._tested = 0  # images: of this epoch, of the longest, of the test
        self._mark = 0  # of what was tested on
        self._whole = False  # an epoch had all of its batches
        self._best: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint: the seconds so far, and the best validation accuracy."""
        running = 0.0 if self._began is None else time.monotonic() - self._began
        return {"seconds": self._seconds or running, "best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on: what was trained before counts."""
        self._seconds, self._best = state_dict["seconds"], state_dict["best"]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock, or let it go on.

        A FileExistsError if another run has ended there; a ValueError if what is trained could not be saved at the end.
        """
        there = Path(trainer.default_root_dir) / "result.json"
        if keeps(trainer) and there.exists() and not (trainer.ckpt_path or self.owns(trainer, pl_module)):
            told = f"{there} is the record of a finished run, which this one would replace"
            raise FileExistsError(f"{told}: give the Trainer another default_root_dir, or delete that file first")
        super().on_fit_start(trainer, pl_module)
        self._trained, self._most, self._whole = {}, 0, False
        if _saves(pl_module, trainer):
            name, how = _how(pl_module)
            try:
                check_saving(getattr(pl_module, name), **how)
            except ValueError as error:
                raise ValueError(
                    f"{error}. Without the callback RunResult nothing is saved, and nothing refused"
                ) from error
        self._began, self._seconds = time.monotonic() - self._seconds, 0.0
        self._state = zlib.crc32(torch.get_rng_state().numpy().tobytes())

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count an epoch's images."""
        self._seen = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int  # noqa: ANN401
    ) -> None:  # fmt: skip
        """Count a batch's."""
        self._seen += _images(batch)
        self._most = max(self._most, self._seen)
        self._whole |= trainer.is_last_batch and unlimited(trainer.limit_train_batches)

    def on_test_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count what is measured."""
        self._tested = self._mark = 0

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any  # noqa: ANN401
    ) -> None:  # fmt: skip
        """Count a batch."""
        self._tested += _images(batch)
        self._mark += sum(marks_of(batch)) if isinstance(batch, Batch) else 0

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Add up what all processes have measured."""
        mine = torch.tensor([self._tested, self._mark], device=pl_module.device)
        self._tested, self._mark = trainer.strategy.reduce(mine, reduce_op="sum").tolist()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember the best validation accuracy."""
        value = trainer.callback_metrics.get("val/accuracy")
        if value is not None and not trainer.sanity_checking:
            self._best = max(self._best or 0.0, float(value))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the student, or the generator; with its record where nothing is there to test it on."""
        self._seconds = self.state_dict()["seconds"]
        if not _saves(pl_module, trainer):
            return
        super().on_fit_end(trainer, pl_module)
        # now: where a test looks for a batch size, Lightning's loops begin again
        self._trained = {"steps": trainer.global_step, "epochs": trainer.current_epoch}
        made, root = isinstance(pl_module, GeneratorModule), Path(trainer.default_root_dir)
        data: Any = getattr(trainer, "datamodule", None)
        (name, how), paid = _how(pl_module), pl_module.paid._asdict() if made else {}
        notes = {"method": type(pl_module).__name__, "checkpoint": "last", **paid}
        if not made:
            how["class_names"] = getattr(data, "class_names", None)
        (root / "result.json").unlink(missing_ok=True)  # of the network that was there
        save_network(getattr(pl_module, name), root / "network", **how, notes=notes, overwrite=True)
        if made or getattr(data, "tested_on", "test") is None or not trainer.limit_test_batches:
            write_json(root / "result.json", self.record(trainer, pl_module))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the record of a run that was fitted in this process."""
        if not (self._trained and trainer.is_global_zero and isinstance(pl_module, DistillationModule)):
            return
        if not self.owns(trainer, pl_module):
            _log.warning(
                "%s gets no record of this test: it is not of the weights that were saved there at the end of the fit "
                "(those are what trainer.test without ckpt_path tests)", trainer.default_root_dir,
            )  # fmt: skip
        else:
            root, data = Path(trainer.default_root_dir), getattr(trainer, "datamodule", None)
            write_json(root / "result.json", self.record(trainer, pl_module))
            if isinstance(data, WebDataModule):  # the report shows what could not be used
                write_json(root / "unusable.json", {"files": data.files, "unusable": data.unusable})

    def record(self, trainer: L.Trainer, module: DistillationModule | GeneratorModule) -> dict[str, Any]:
        """The run as one flat object; of a generator how near its images are to the local ones."""
        data: Any = getattr(trainer, "datamodule", None)
        student = isinstance(module, DistillationModule)
        trained = getattr(data, "answered", getattr(data, "train_set", None))
        callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        judges = [one for one in callbacks if isinstance(one, Agreement)]
        transfer_set: TransferSet | None = getattr(data, "transfer_set", None) if student else None
        manifest = transfer_set.manifest if transfer_set else {}
        teacher = module.teacher_identity or manifest.get("teacher") or {}
        seed = os.environ.get("PL_GLOBAL_SEED", self._state) if self.seed is None else self.seed
        tested_on = getattr(data, "tested_on", None)
        given = getattr(module, "teacher", None)
        asked = given if isinstance(given, BlackBoxTeacher) else None
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        config = Path(trainer.default_root_dir) / "config.yaml"
        if isinstance(module, DistillationModule):
            own: dict[str, Any] = {
                "student": module.student_name,
                "accuracy": metrics.get("test/accuracy"),  # None without labelled test images
                "accuracy_best": None,
                "val_accuracy": metrics.get("val/accuracy", self._best),
                "val_accuracy_best": self._best,
                "agreement": metrics.get("test/agreement"),
                "tested_on": tested_on,
                "test_images": min(self._tested, len(data.tested)) if tested_on else self._tested or None,
                "test_images_there": len(data.tested) if tested_on else None,
                "test_fingerprint": f"{self._mark % 2**32:08x}" if self._tested else None,
                "teacher_accuracy": metrics.get("test/teacher_accuracy"),
                "teacher_parameters": judges[0].parameters if judges else None,
                "parameters": count_parameters(module.student),
                "macs": count_macs(module.student, _shape(module, data)),
                "labelling_seconds": manifest.get("seconds", 0.0),
                "checkpoint": "last",
                "fingerprint": fingerprint(module.student),
                "steps": self._trained["steps"],
                "transfer_set": None if transfer_set is None else str(transfer_set.path),
                "queries_per_pair": manifest.get("queries_per_pair"),
            }
        else:
            watching = [one for one in callbacks if isinstance(one, GeneratorQuality)]
            own = {
                "generator": type(module.generator).__name__,
                "critic": type(module.critic).__name__,
                "quality": {key[10:]: value for key, value in metrics.items() if key.startswith("generator/")},
                "features": watching[0].extractor if watching else None,
                "class_histogram": watching[0].histogram if watching else None,
                "parameters": count_parameters(module.generator),
            }
        return {
            "schema": 1,
            "method": type(module).__name__,
            "variant": self.variant,
            "role": self.role if student else "generator",
            "dataset": _name(trainer),
            "teacher": teacher.get("name"),
            "teacher_fingerprint": teacher.get("fingerprint"),
            "access": module.access,
            "point": self.point,
            "seed": int(seed),
            **own,
            **{key: paid + manifest.get(key, 0) for key, paid in module.paid._asdict().items()},
            **({} if asked is None else outcome(Path(trainer.default_root_dir), asked.cost)),
            "seconds": round(self._seconds, 2),
            "epochs": self._trained["epochs"],
            "settings": _settings(module),
            "train_images": None if trained is None else self._of_an_epoch(len(trained), trainer.world_size),
            "commit": commit(),
            "hardware": f"{platform.machine()}, {trainer.num_devices} x {type(trainer.accelerator).__name__}",
            "versions": {name: version(name) for name in ("torch", "lightning", "torchvision")},
            "config": str(config) if config.is_file() else None,  # the command line writes it
        }

    def _of_an_epoch(self, there: int, processes: int) -> int:
        """Images that training had: all, or as many as the longest epoch saw where none had all of its batches."""
        all_of_them = self._whole or (not self._most and self._trained["steps"])  # the latter before a checkpoint
        return there if all_of_them else min(there, self._most * processes)


def _images(batch: Any) -> int:  # noqa: ANN401 - of any module
    return len(batch.image) if isinstance(batch, Batch) else 0


def marks_of(batch: Batch) -> list[int]:
    """A 32-bit number for each image ``(N, C, H, W)`` with its label, of about a thousand of its pixels as uint8.

    Their sum tells sets of images apart, whatever order, batches and processes they come in.
    """
    values = batch.image.flatten(1)
    looked = values[:, :: max(1, values.shape[1] // _LOOKED)].float().mul(255).round().to(torch.uint8).cpu().numpy()
    labels = [_UNLABELLED] * len(looked) if batch.label is None else batch.label.tolist()
    return [zlib.crc32(row.tobytes(), label) for row, label in zip(looked, labels, strict=True)]


def _settings(module: L.LightningModule) -> dict[str, Any]:
    """What the method was told, beside the networks and places that the record names itself."""
    told = {name: value for name, value in module.hparams.items() if name not in _NAMED and name[0] != "_"}
    return json.loads(json.dumps(told, default=lambda _: None))  # type: ignore[no-any-return]


def _shape(module: DistillationModule, data: Any) -> tuple[int, ...]:  # noqa: ANN401 - any datamodule, or None
    """Of an image: that of what was seen, or what the data say where nothing was tested."""
    return module.image_shape or (data.channels, data.image_size, data.image_size)


def _name(trainer: L.Trainer) -> str:
    """The data set's."""
    data = getattr(trainer, "datamodule", None)
    loader = trainer.test_dataloaders or trainer.train_dataloader
    source = getattr(loader, "dataset", loader) if data is None else data
    return name_of_set(source)


def _saves(module: L.LightningModule, trainer: L.Trainer) -> TypeGuard[DistillationModule | GeneratorModule]:
    """Whether this process keeps what is trained."""
    return trainer.is_global_zero and keeps(trainer) and isinstance(module, (DistillationModule, GeneratorModule))


def _how(module: DistillationModule | GeneratorModule) -> tuple[str, dict[str, Any]]:
    """Under which name a module has the network that it trains, and how that is built again."""
    name = "generator" if isinstance(module, GeneratorModule) else "student"
    spec = module.description(name)
    return name, {key: spec.get(key) for key in ("class_path", "init_args")}


def commit() -> str | None:
    """The short hash of the commit that the package runs from, with ``+`` if files differ from it; None outside git."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip() or None
    except (OSError, subprocess.SubprocessError):
        return None
