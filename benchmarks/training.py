"""Images a second of a student's training step: as it was, as it is, and in a plain loop that does the same.

    python benchmarks/training.py [--networks LeNet5 ResNet8 ResNet20] [--seconds 4] [--turns 5] [--record FILE]

KD from answers that are known, Adam, on random images. The ways take turns; each number is the best of its turns, by
wall time, so that what else the machine does counts least. `usual layout` is a student whose weights are not in
channels_last, as they all were before; `loop` has the network, layout, precision and loss of `trainer`, without
Lightning, callbacks and checks.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from kdlightning import networks
from kdlightning.callbacks import QueryLogger, RunProgress
from kdlightning.callbacks.result import commit
from kdlightning.data.sets import whole_batch
from kdlightning.functional.divergence import kd_divergence
from kdlightning.methods import AnsweredKD
from kdlightning.modules import precision
from kdlightning.networks import rehearsal
from kdlightning.types import Batch

BATCH = 128
SHAPES = {"LeNet5": (1, 28, 28)}


class Turns(L.Callback):
    """Ends a fit after so many seconds; images a second, without the first steps."""

    def __init__(self, seconds: float, skip: int = 3) -> None:
        self.seconds, self.skip = seconds, skip
        self.steps, self.began, self.ended = 0, 0.0, 0.0

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:  # noqa: ANN401
        """Look at the clock."""
        self.steps += 1
        self.ended = time.perf_counter()
        if self.steps == self.skip:
            self.began = self.ended
        trainer.should_stop = self.steps > self.skip and self.ended - self.began > self.seconds

    @property
    def rate(self) -> float:
        """Images a second."""
        return (self.steps - self.skip) * BATCH / (self.ended - self.began)


class Images(torch.utils.data.Dataset[Batch]):
    """Random images that are in memory, with random answers; a batch is one gather, as in the package's data sets."""

    def __init__(self, shape: tuple[int, ...], number: int = 2048) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(256, (number, *shape), dtype=torch.uint8, generator=generator)
        self.answers = torch.randn(number, 10, generator=generator).softmax(1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, index: list[int]) -> Batch:
        return Batch(self.images[index], torch.tensor(index), answer=self.answers[index])


def loader(shape: tuple[int, ...]) -> DataLoader[Batch]:
    """Shuffled batches."""
    return DataLoader(Images(shape), BATCH, shuffle=True, drop_last=True, collate_fn=whole_batch)


@contextmanager
def layout(usual: bool) -> Iterator[None]:
    """Students as they were before channels_last, if so told."""
    found = rehearsal.in_channels_last
    if usual:
        rehearsal.in_channels_last = lambda *_: None  # type: ignore[assignment]
    try:
        yield
    finally:
        rehearsal.in_channels_last = found


def trained(network: Callable[[], nn.Module], shape: tuple[int, ...], seconds: float, kind: str, usual: bool) -> float:
    """Through ``Trainer.fit`` with the command line's callbacks that work in every step."""
    turns = Turns(seconds)
    trainer = L.Trainer(
        max_epochs=10_000, accelerator="cpu", precision=kind, callbacks=[QueryLogger(), RunProgress(), turns],
        logger=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    with layout(usual):
        trainer.fit(AnsweredKD(network()), loader(shape))
    return turns.rate


def loop(network: Callable[[], nn.Module], shape: tuple[int, ...], seconds: float, kind: str, usual: bool) -> float:
    """What one would write."""
    student, batches, steps, began = network().train(), loader(shape), 0, 0.0
    if not usual:
        student.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(student.parameters())
    while True:
        for batch in batches:
            images: Tensor = batch.image.float() / 255
            assert batch.answer is not None
            with torch.autocast("cpu", torch.bfloat16, enabled=kind == "bf16-mixed"):
                logits = student(images).float()
            loss = kd_divergence(logits, batch.answer.log(), 1.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
            now = time.perf_counter()
            if steps == 3:
                began = now
            if steps > 3 and now - began > seconds:
                return (steps - 3) * BATCH / (now - began)


def main() -> None:
    """Measure all ways in turns; print and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["LeNet5", "ResNet8", "ResNet20"])
    parser.add_argument("--seconds", type=float, default=4, help="of a turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    halves = ["32-true"] + ["bf16-mixed"] * (precision.best_precision("cpu") == "bf16-mixed")
    rows = []
    for name in options.networks:
        shape = SHAPES.get(name, (3, 32, 32))

        def network(name: str = name, shape: tuple[int, ...] = shape) -> nn.Module:
            torch.manual_seed(0)
            made: nn.Module = getattr(networks, name)(10, in_channels=shape[0], image_size=shape[1])
            return made

        ways = [(kind, usual, way) for kind in halves for usual in (True, False) for way in (trained, loop)]
        rates = dict.fromkeys(ways, 0.0)
        for _ in range(options.turns):
            for kind, usual, way in ways:
                found = way(network, shape, options.seconds, kind, usual)
                rates[kind, usual, way] = max(rates[kind, usual, way], found)
        before = rates["32-true", True, trained]
        for kind in halves:
            now, floor = rates[kind, False, trained], rates[kind, False, loop]
            row = {
                "network": name, "precision": kind, "usual_layout": round(rates[kind, True, trained]),
                "trainer": round(now), "loop": round(floor),
                "over_before": round(now / before, 2), "of_loop": round(now / floor, 2),
            }  # fmt: skip
            rows.append(row)
            print(json.dumps(row), flush=True)
    machine = {"machine": platform.machine(), "threads": options.threads, "torch": torch.__version__}
    record = {"commit": commit(), **machine, "bfloat16": len(halves) == 2, "batch": BATCH, "rows": rows}
    if options.record:
        options.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
