"""Golden curves: what every method computes in its first steps on scikit-learn's digits, on one thread of a CPU.

    python tests/golden/cases.py [METHOD ...]

writes ``curves/<method>.json`` anew: only where arithmetic changes on purpose. Only names that the packages export are
used here, so that files can be moved without a change in this one.
"""

import json
import logging
import math
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.nn import functional as F

from kdlightning import methods
from kdlightning.callbacks import QueryLogger
from kdlightning.data import (
    DigitsDataModule,
    GeneratedDataModule,
    NoImagesDataModule,
    NoiseDataModule,
    ShaderDataModule,
    TransferSet,
    TransferSetDataModule,
    UnionDataModule,
)
from kdlightning.functional.selection import Choice
from kdlightning.modules import GeneratorModule, SelectingModule
from kdlightning.networks import (
    CIFARResNet,
    DCGANCritic,
    DCGANGenerator,
    InfoGANCritic,
    LeNet5Classic,
    WGANGPCritic,
    WGANGPGenerator,
)
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher, WhiteBoxTeacher

CURVES = Path(__file__).parent / "curves"
ROWS = [0, 1, 2, -2, -1]  # of labels and scores that are kept: the first and the last

WHY = (
    "Other processors sum in another order: float32 differs in its last bits, which some steps of training enlarge. "
    "A pixel may round to the next of 256 levels. Counts and choices are the same: no case hangs on a tie."
)
TOLERANCE = {"relative": 1e-4, "absolute": 1e-5, "counts": 0.0, "levels": 1.0}

Values = dict[str, Any]
Case = Callable[[], Values]
Adam = partial(torch.optim.Adam, lr=0.01)
SGD = partial(torch.optim.SGD, lr=0.1)


# What the methods are given


class Lenet(LeNet5Classic):
    """LeNet-5 on digits of 8 pixels, doubled: unlike a resize to 16, that is exact on every processor."""

    fixed_size = False

    def __init__(self, width: float = 0.5) -> None:
        super().__init__(num_classes=10, image_size=16, width=width)
        self.image_size = 8

    def preprocess(self, x: Tensor) -> Tensor:
        return super().preprocess(F.interpolate(x, scale_factor=2))


def digits(number: int = 160, **options: Any) -> DigitsDataModule:
    """Five batches; digits are 8 x 8 by nature."""
    return DigitsDataModule(**{"image_size": 8, "num_samples": number, "batch_size": 32, "num_val": 100} | options)


def lenet(seed: int = 1, width: float = 0.5) -> Lenet:
    torch.manual_seed(seed)
    return Lenet(width)


def resnet(seed: int = 1, width: float = 0.25) -> CIFARResNet:
    torch.manual_seed(seed)
    return CIFARResNet(8, in_channels=1, image_size=8, width=width)


@torch.no_grad()
def knowing(network: nn.Module) -> Any:
    """A network that knows digits without training: its classifier takes the nearest class mean of random features."""
    data = digits(800, num_val=100)
    data.setup()
    images, label = data.train_set.images.float() / 255, data.train_set.labels
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    network.train()(images)
    network.eval()
    vectors = network.forward_head(network.forward_features(images), pre_logits=True).double()
    center, spread = vectors.mean(0), vectors.std(0) + 0.01
    vectors = (vectors - center) / spread
    means = torch.stack([vectors[label == k].mean(0) for k in range(10)])
    bias = -means.square().sum(1) / 2
    scale = 4 / (vectors @ means.T + bias).std()
    network.classifier.weight.copy_(scale * means / spread)
    network.classifier.bias.copy_(scale * (bias - (means / spread) @ center))
    return network


def teacher(kind: Any = SoftLabelTeacher, **options: Any) -> Any:
    return kind(knowing(lenet(0, 2.0)), **options)


class Exact(nn.Module):
    """Answers in double precision, so that hardly a label near a boundary hangs on the last bits."""

    num_classes = 10

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x.double())
        return logits.float()


def bounded() -> HardLabelTeacher:
    return HardLabelTeacher(Exact(knowing(lenet(0, 2.0))))


def lively(network: Any) -> Any:
    """With larger weights than DCGAN begins with, so that images are not flat and logits tell them apart."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return network


def generator(latent_dim: int = 10) -> DCGANGenerator:
    torch.manual_seed(2)
    return lively(DCGANGenerator(latent_dim, 1, 8, width=8))


def critic() -> DCGANCritic:
    torch.manual_seed(3)
    return lively(DCGANCritic(1, 8, width=4))


def wasserstein() -> dict[str, Any]:
    """WGAN-GP: two steps of the critic for one of the generator."""
    torch.manual_seed(2)
    networks = {"generator": WGANGPGenerator(10, 1, 8), "critic": WGANGPCritic(1, 8)}
    return {**networks, "objective": "wasserstein", "critic_steps": 2, "penalty": 10.0}


def infogan() -> dict[str, Any]:
    torch.manual_seed(3)
    return {"generator": generator(), "critic": lively(InfoGANCritic(10, 1, 8, width=4)), "code_weight": 0.1}


def noise(number: int = 20, chunk: int = 10) -> NoiseDataModule:
    task = NoImagesDataModule("digits", num_classes=10, image_size=8, eval_batch_size=chunk)
    return NoiseDataModule(task, number, "smooth", cells=(3, 5))


def answered(kind: Any = SoftLabelTeacher) -> TransferSetDataModule:
    """Digits with a teacher's answers."""
    path = folder()
    label(methods.TeacherAnswers(teacher(kind), path), digits())
    return TransferSetDataModule(digits(), path)


def made(kind: Any = SoftLabelTeacher) -> GeneratedDataModule:
    """Generated images with a teacher's answers."""
    path = folder()
    label(methods.TeacherAnswers(teacher(kind), path), GeneratedDataModule(digits(), generator(), 160))
    return GeneratedDataModule(digits(), size=160, path=path)


def robust() -> TransferSetDataModule:
    """Digits with DB3KD's soft labels."""
    path = folder()
    label(methods.DB3KDLabels(teacher(HardLabelTeacher), path, 10, robustness="sd"), digits())
    return TransferSetDataModule(digits(), path)


def pool(number: int = 160) -> UnionDataModule:
    """Other digits, without labels, to choose from."""
    return UnionDataModule(digits(), [digits(number, seed=1)])


def shaders() -> ShaderDataModule:
    """Shader images, some of which are replaced in every step."""
    return ShaderDataModule(digits(), size=160, per_program=4, cache=folder(), online=True, renewal=0.25)


def folder() -> str:
    return tempfile.mkdtemp(dir=".")


# What is kept of a run


class Recorder(Logger):
    """Keeps what Lightning logs."""

    name, version = "golden", 0

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, float]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.lines.append(metrics)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """They are not curves."""


def trainer(**options: Any) -> L.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    shared = {"accelerator": "cpu", "devices": 1, "logger": False, "default_root_dir": folder()}
    return L.Trainer(**{**quiet, **shared, **options})


def fit(module: L.LightningModule, data: L.LightningDataModule, **options: Any) -> Values:
    """Every logged term in every step; queries and shares of the pool after every epoch."""
    found = recorded_choices(module)
    recorder = Recorder()
    settings = {"max_epochs": 2, "limit_val_batches": 0, "log_every_n_steps": 1, **options}
    trainer(logger=recorder, callbacks=[QueryLogger()], **settings).fit(module, datamodule=data)
    steps = [line for line in recorder.lines if any(name.startswith("train/") for name in line)]
    names = sorted({name for line in steps for name in line if name.startswith("train/")})
    curves: Values = {name: [line.get(name) for line in steps] for name in names}  # None before its first
    for line in recorder.lines:
        for name in sorted(line):
            if name == "teacher/queries" or name.startswith("pool/"):
                curves.setdefault(name, []).append(line[name])
    return plain(curves | found)


def recorded_choices(module: Any) -> Values:
    """Filled while a selecting module runs: the first scores of the pool, and the first images that it chose."""
    found: Values = {}
    if isinstance(module, SelectingModule):
        choose = module.choose

        def recording(scores: Tensor) -> Choice:
            choice: Choice = choose(scores)
            mask = choice.mask
            found.setdefault("scores", []).append(scores[ROWS].tolist())
            found.setdefault("chosen", []).append(mask.nonzero()[:8, 0].tolist())
            found.setdefault("chosen_in_all", []).append(int(mask.sum()))
            return choice

        module.choose = recording
    return found


def label(module: L.LightningModule, data: L.LightningDataModule) -> Values:
    """Some rows of a transfer set, and what it cost."""
    trainer().predict(module, datamodule=data, return_predictions=False)
    made = TransferSet(module.output)
    rows = {name: image_rows(column) if column.ndim == 4 else column[ROWS].tolist() for name, column in
            sorted(made.columns.items())}  # fmt: skip
    return plain({**rows, "rows": len(made), "queries_in_all": made.manifest["queries"]})


def image_rows(images: Tensor) -> list[list[float]]:
    """Mean, standard deviation and four pixels of some images, in levels from 0 to 255."""
    rows = images[ROWS].double()
    side = rows.shape[-1]
    pixels = rows[:, 0, [side // 4, side // 2, side // 2, side - 1], [side // 2, side // 4, side // 2, 0]]
    return torch.cat([rows.mean((1, 2, 3))[:, None], rows.std((1, 2, 3))[:, None], pixels], 1).tolist()


def plain(value: Any) -> Any:
    """Seven digits of every number."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


# The methods


def knockoff(**options: Any) -> Values:
    return label(methods.KnockoffSelection(teacher(), folder(), queries=48, **options), digits())


def inversion(**options: Any) -> Values:
    return label(methods.DeepInversion(inverted(0), folder(), iterations=4, jitter=1, **options), noise())


def inverted(seed: int) -> WhiteBoxTeacher:
    return WhiteBoxTeacher(knowing(resnet(seed, 0.5)))


def study() -> Values:
    networks = {"one": inverted(0), "other": inverted(4)}
    data = NoiseDataModule(digits(eval_batch_size=10), 20)
    return label(methods.InversionStudy(networks, inverted(5), folder(), iterations=4, jitter=1), data)


def boundaries(robustness: str, **options: Any) -> Values:
    small = {"candidates": 4, "tolerance": 1e-2, "num_probes": 40, "query_limit": 150, "rank": 20}
    return label(methods.DB3KDLabels(bounded(), folder(), 10, robustness=robustness, **small | options), digits(40))


def zero_shot(**options: Any) -> Values:
    small = {"iterations": 2, "num_probes": 30, "pool": 200, "rank": 30, "directions": 2}
    return label(methods.ZSDB3KDImages(bounded(), folder(), **small | options), noise())


def mekd(data: L.LightningDataModule, **options: Any) -> Values:
    return fit(methods.MEKD(lenet(), generator(), optimizer=Adam, **options), data)


def kd3(module: methods.KD3) -> Values:
    """Ten steps of a longer run: at half time the student alone would choose."""
    module.on_train_batch_end = lambda *_: setattr(module.trainer, "should_stop", module.trainer.global_step == 10)
    return fit(module, pool(320), max_epochs=6)


def shaderkd(data: L.LightningDataModule, **options: Any) -> Values:
    """Attacks follow a gradient's sign, which max-pooling of equal values would leave to the last bits."""
    teacher = WhiteBoxTeacher(Exact(knowing(resnet(0, 0.5))))
    return fit(methods.ShaderKD(teacher, lenet(), per_class=16, optimizer=SGD, **options), data)


def mixed() -> Values:
    module = methods.ActiveMixup(
        teacher(), folder(), queries=64, student=lenet(), rounds=2, candidates=150, batch_size=32, optimizer=Adam
    )
    return label(module, digits(32))


CASES: dict[str, dict[str, Case]] = {
    "Supervised": {
        "plain": lambda: fit(methods.Supervised(lenet(), Adam), digits()),
        "mixup": lambda: fit(methods.Supervised(lenet(), Adam, mixup=0.2), digits()),
    },
    "KD": {
        "labels": lambda: fit(methods.KD(teacher(), lenet(), optimizer=Adam), digits()),
        "query once": lambda: fit(
            methods.KD(teacher(), lenet(), query_once=True, optimizer=Adam), digits(unlabelled=True)
        ),
    },
    "AnsweredKD": {
        "soft": lambda: fit(methods.AnsweredKD(lenet(), temperature=4.0, optimizer=Adam), answered()),
        "hard": lambda: fit(methods.AnsweredKD(lenet(), optimizer=Adam), answered(HardLabelTeacher)),
    },
    "ML": {"soft": lambda: fit(methods.ML(lenet(), optimizer=Adam), answered())},
    "DKD": {
        "soft": lambda: fit(methods.DKD(lenet(), warmup_epochs=2, optimizer=Adam), answered()),
        "hard": lambda: fit(methods.DKD(lenet(), optimizer=Adam), answered(HardLabelTeacher)),
    },
    "AL": {"soft": lambda: fit(methods.AL(lenet(), width=16, optimizer=Adam), answered())},
    "CAN": {"soft": lambda: fit(methods.CAN(lenet(), width=16, optimizer=Adam), answered())},
    "CDL": {
        "soft": lambda: fit(methods.CDL(lenet(), optimizer=Adam), answered()),
        "hard": lambda: fit(methods.CDL(lenet(), optimizer=Adam), answered(HardLabelTeacher)),
    },
    "DB3KD": {
        "labels": lambda: fit(methods.DB3KD(lenet(), optimizer=Adam), robust()),
        "teacher": lambda: fit(
            methods.DB3KD(lenet(), cross_entropy="teacher", reduction="sum", optimizer=Adam), robust()
        ),
    },
    "GeneratorModule": {"plain": lambda: fit(GeneratorModule(generator(), critic()), digits())},
    "MEKDGenerator": {
        "soft": lambda: fit(methods.MEKDGenerator(generator(), critic(), teacher(), queries=100), digits()),
        "hard": lambda: fit(methods.MEKDGenerator(generator(), critic(), teacher(HardLabelTeacher)), digits()),
        "class index": lambda: fit(
            methods.MEKDGenerator(generator(), critic(), teacher(), information="class_index"), digits()
        ),
        "wasserstein": lambda: fit(methods.MEKDGenerator(**wasserstein()), digits()),
        "InfoGAN": lambda: fit(methods.MEKDGenerator(teacher=teacher(), **infogan()), digits()),
    },
    "MEKD": {
        "l1": lambda: mekd(made()),
        "l2": lambda: mekd(answered(), distance="l2", kd_temperature=4.0),
        "hard": lambda: mekd(made(HardLabelTeacher)),
        "released": lambda: mekd(answered(), response="released"),
        "logits": lambda: mekd(answered(), response="logits", logits_teacher=teacher(WhiteBoxTeacher)),
    },
    "DAFL": {
        "plain": lambda: fit(
            methods.DAFL(
                teacher(WhiteBoxTeacher), lenet(), generator(20), images_per_step=32, optimizer=Adam
            ), digits()
        ),
    },
    "DFND": {
        "soft": lambda: fit(methods.DFND(teacher(), lenet(), optimizer=Adam), pool(320)),
        "white": lambda: fit(
            methods.DFND(teacher(WhiteBoxTeacher), lenet(), share=None, number=150, optimizer=Adam), pool(320)
        ),
    },
    "KD3": {
        "vectors": lambda: kd3(methods.KD3(teacher(WhiteBoxTeacher), lenet())),
        "maps": lambda: kd3(
            methods.KD3(
                inverted(0), resnet(), mapping="convex", classifier="soft", weighting="released", contrastive="ntxent",
                optimizer=partial(torch.optim.SGD, lr=0.01),
            )
        ),
        "random": lambda: kd3(methods.KD3(teacher(WhiteBoxTeacher), lenet(), selection="random")),
    },
    "ShaderKD": {
        "edges": lambda: shaderkd(pool(), epsilon=40, step=4, iterations=6),
        "mixed": lambda: shaderkd(pool(), parts=("mixed", "normal")),
        "online": lambda: shaderkd(shaders(), epsilon=40, step=8, iterations=3),
    },
    "TeacherAnswers": {
        "soft": lambda: label(methods.TeacherAnswers(teacher(), folder()), digits()),
        "hard": lambda: label(methods.TeacherAnswers(teacher(HardLabelTeacher), folder()), digits()),
        "generated": lambda: label(
            methods.TeacherAnswers(teacher(budget=100), folder(), at_budget="finish"),
            GeneratedDataModule(digits(), generator(), 160),
        ),
    },
    "DB3KDLabels": {
        "sd": lambda: boundaries("sd"),
        "bd": lambda: boundaries("bd"),
        "mbd": lambda: boundaries("mbd"),
        "noise": lambda: boundaries("noise", truth=True),
    },
    "ZSDB3KDImages": {
        "fresh": zero_shot,
        "warm": lambda: zero_shot(search="warm", query_limit=60, gradient="direction"),
    },
    "KnockoffSelection": {
        "random": knockoff,
        "adaptive": lambda: knockoff(
            strategy="adaptive", student=lenet(), num_groups=None, round_size=12, batch_size=16, optimizer=Adam
        ),
    },
    "ActiveMixup": {"soft": mixed},
    "DeepInversion": {
        "plain": inversion,
        "adaptive": lambda: inversion(competition_weight=1.0, student=inverted(4), flip=True, variation="l1"),
    },
    "InversionStudy": {"two networks": study},
}  # fmt: skip


# Making and comparing


@contextmanager
def steady(threads: int = 1) -> Iterator[None]:
    """One thread, seeds set, in a directory of its own; everything as it was afterwards."""
    before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    states, seed = (random.getstate(), np.random.get_state()), os.environ.get("PL_GLOBAL_SEED")  # noqa: NPY002
    with tempfile.TemporaryDirectory() as directory, chdir(directory), torch.random.fork_rng(devices=[]):
        try:
            L.seed_everything(0, verbose=False)
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True)
            yield
        finally:
            torch.set_num_threads(before)
            torch.use_deterministic_algorithms(deterministic)
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
            os.environ.pop("PL_GLOBAL_SEED", None)
            if seed is not None:
                os.environ["PL_GLOBAL_SEED"] = seed


def run(method: str, threads: int = 1) -> dict[str, Values]:
    """All cases of a method."""
    values = {}
    for name, case in CASES[method].items():
        with steady(threads):
            values[name] = case()
    return values


def differences(method: str, case: str, expected: Values, got: Values, tolerance: dict[str, float]) -> list[str]:
    """A line for every number that is not as expected: method, case, term, step (or row), expected, got."""
    lines = [f"{method} ({case}): {term} is new" for term in sorted(got.keys() - expected.keys())]
    for term, wanted in expected.items():
        if term not in got:
            lines.append(f"{method} ({case}): {term} is missing")
            continue
        place = "step" if term.startswith("train/") else "row"
        for where, one, other in _pairs(wanted, got[term], ()):
            if not _close(term, one, other, tolerance):
                at = "".join(f" {number}" for number in where)
                lines.append(f"{method} ({case}): {term}, {place}{at}: expected {one}, got {other}")
    return lines


def _pairs(one: Any, other: Any, where: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Any, Any]]:
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for number, (left, right) in enumerate(zip(one, other, strict=True), start=1):
            yield from _pairs(left, right, (*where, number))
    else:
        yield where, one, other


def _close(term: str, one: Any, other: Any, tolerance: dict[str, float]) -> bool:
    if one == other:
        return True
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in (one, other)):
        return False
    if term.startswith("image"):
        return abs(one - other) <= tolerance["levels"]
    if isinstance(one, int) or term == "teacher/queries":
        return abs(one - other) <= tolerance["counts"] * abs(one)
    return abs(one - other) <= tolerance["absolute"] + tolerance["relative"] * abs(one)


def main(names: list[str]) -> None:
    CURVES.mkdir(exist_ok=True)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for method in names or CASES:
        curves = {"method": method, "tolerance": TOLERANCE, "why": WHY, "cases": run(method)}
        (CURVES / f"{method}.json").write_text(written(curves) + "\n")
        sys.stdout.write(f"{method}\n")


def written(value: Any, depth: int = 0) -> str:
    """JSON with one line for every list of numbers."""
    if isinstance(value, dict):
        inside = [f"{' ' * (depth + 1)}{json.dumps(name)}: {written(item, depth + 1)}" for name, item in value.items()]
        return "{\n" + ",\n".join(inside) + "\n" + " " * depth + "}"
    return json.dumps(value)


if __name__ == "__main__":
    main(sys.argv[1:])
