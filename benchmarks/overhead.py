"""How much longer a step takes under the Trainer, with the command line's callbacks, than in a plain loop. One minute.

    python benchmarks/overhead.py [--steps 600] [--batch-sizes 8 64]

Prints milliseconds a step and the ratio: the least of three turns, taken in alternation. The plain loop has the same
network, loader, conversion and loss.
"""

import argparse
import tempfile
import time
from pathlib import Path

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from kdlightning.callbacks import ConfusionMatrix, QueryLogger, RunProgress, RunResult
from kdlightning.data import DigitsDataModule
from kdlightning.methods import Supervised
from kdlightning.networks import LeNet5


def plain(data: DigitsDataModule, epochs: int) -> int:
    """The loop that one would write; its steps."""
    module = Supervised(LeNet5(image_size=32))
    optimizer, loader, steps = torch.optim.Adam(module.student.parameters()), data.train_dataloader(), 0
    module.train()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            loss = torch.stack(list(module.losses(data.on_after_batch_transfer(batch, 0)).values())).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            steps += 1
    return steps


def trained(data: DigitsDataModule, epochs: int, root: str) -> int:
    """The same by ``Trainer.fit``; its steps."""
    checkpoints = ModelCheckpoint(Path(root) / "checkpoints", filename="last", enable_version_counter=False)
    callbacks = [RunResult(), QueryLogger(), ConfusionMatrix(), RunProgress(), checkpoints]
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=root, callbacks=callbacks, log_every_n_steps=20,
        enable_model_summary=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(Supervised(LeNet5(image_size=32)), datamodule=data)
    return int(trainer.global_step)


def main() -> None:
    """Measure both in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600, help="of every turn, about")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[8, 64])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for size in options.batch_sizes:
        data = DigitsDataModule(image_size=32, batch_size=size)
        data.setup()
        epochs = max(1, options.steps * size // len(data.train_set))
        least = {"plain": float("inf"), "trained": float("inf")}
        for _ in range(3):
            for way in least:
                with tempfile.TemporaryDirectory() as root:
                    began = time.perf_counter()
                    steps = plain(data, epochs) if way == "plain" else trained(data, epochs, root)
                    least[way] = min(least[way], (time.perf_counter() - began) / steps)
        ratio = least["trained"] / least["plain"]
        print(f"batch {size}: {1e3 * least['plain']:.2f} ms, with Trainer {1e3 * least['trained']:.2f} ms, {ratio:.2f}")


if __name__ == "__main__":
    main()
