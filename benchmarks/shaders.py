"""Shader programs: images per second of both back ends, of the same programs, and what new images cost training.

    python benchmarks/shaders.py                      # minutes on one core
    python benchmarks/shaders.py --cpu-time           # per second of one core instead, on a machine that is busy
    python benchmarks/shaders.py --device cuda        # torch on a GPU; OpenGL chooses its device itself

Prints a table and writes it to --output as JSON. Rates per size and back end:
1. ``new``: every program built from its seed, compiled by the driver with empty caches, and shown once;
2. ``variants``: every image with its own time and its own draw of the program's numbers, the program known already;
3. ``times``: every image with its own time only, the program known already.
The last two are medians over programs of their own rates, --images at a time (fewer at 224 px).

Then what a program is made of, on average over 12 x --programs: what a pass over its graph could merge, and what not.

Then, by torch, the speed of training while a tenth of every batch is rendered anew (``ShaderDataModule(online=True)``)
over that with stored images, of batches of --batch images at 32 px: for LeNet-5 and ResNet-18, by KD on the images (the
cheapest step) and by shader KD. Both are trained in turns, --turns times --steps steps, and the median of the turns'
ratios counts. What an online pool costs once an epoch, the teacher's classes of all its images, is not in it, but told.
"""

import argparse
import json
import logging
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from kdlightning.data import NoImagesDataModule, ShaderDataModule
from kdlightning.methods import ShaderKD
from kdlightning.methods.shaderkd import Part
from kdlightning.networks import LeNet5Classic, ResNet18
from kdlightning.shaders import OpenGLRenderer, OpenGLUnavailableError, Program
from kdlightning.shaders.grammar import sentence
from kdlightning.shaders.graph import Node, schedule
from kdlightning.teachers import WhiteBoxTeacher

Render = Callable[[Program, list[float], int, range | None], Tensor]


def measure(render: Render, seeds: range, size: int, number: int, clock: Callable[[], float]) -> dict[str, float]:
    """Images per second, new and known, of the programs of these seeds."""
    render(Program.from_seed(seeds.stop), [0.0] * number, size, None)  # the first call of all pays for start-up
    programs, seconds = [], []
    for seed in seeds:
        start = clock()
        program = Program.from_seed(seed)
        render(program, [0.5], size, None)
        seconds.append(clock() - start)
        programs.append(program)
    rates = {"new": len(seconds) / sum(seconds)}
    for name, variants in (("variants", range(number)), ("times", None)):
        own = []
        for program in programs:
            best = float("inf")
            for turn in range(2):
                times = [0.1 * image + turn for image in range(number)]
                start = clock()
                render(program, times, size, variants)
                best = min(best, clock() - start)
            own.append(number / best)
        rates[name] = statistics.median(own)
    return {name: round(rate, 1) for name, rate in rates.items()}


def torch_backend(device: str) -> Render:
    """Images by torch, once they are there."""

    def render(program: Program, times: list[float], size: int, variants: range | None) -> Tensor:
        images = program.render(times, size, variants=variants, device=device)
        if images.is_cuda:
            torch.cuda.synchronize()
        return images

    return render


def opengl_backend(renderer: OpenGLRenderer) -> Render:
    """Images by OpenGL, uint8 on the CPU."""

    def render(program: Program, times: list[float], size: int, variants: range | None) -> Tensor:
        return renderer.render(program, times, size, variants=variants)

    return render


def anatomy(seeds: range) -> dict[str, float]:
    """Mean numbers of nodes, constants and operations of these programs, and of those that repeat another one."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        known: dict[tuple[str, tuple[int, ...], float], int] = {}
        number: dict[Node, int] = {}
        for node in schedule(sentence(seed)[0]):
            key = (node.operation, tuple(number[each] for each in node.arguments), node.value)
            kind = "operations" if node.arguments else "constants" if node.operation == "constant" else "other leaves"
            counts.update(["nodes", kind, *([f"repeated {kind}"] if key in known else [])])
            number[node] = known.setdefault(key, len(known))
    return {name: round(count / len(seeds), 1) for name, count in counts.items()}


class StepTimer(L.Callback):
    """Seconds of the steps, from before their images are renewed; the first three warm up."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.seconds: list[float] = []

    def on_train_batch_start(self, *_: object) -> None:
        """The step begins."""
        self.started = self.clock()

    def on_train_batch_end(self, *_: object) -> None:
        """The step ends."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(self.clock() - self.started)

    def mean(self) -> float:
        """Of one step."""
        return statistics.fmean(self.seconds[3:])


def training(
    network: type[nn.Module], channels: int, parts: list[Part], options: argparse.Namespace
) -> dict[str, float]:
    """Milliseconds of a step with stored images and with a tenth of them new, and the ratio of their speeds."""
    clock = time.process_time if options.cpu_time else time.perf_counter
    source = NoImagesDataModule("none", 10, image_size=32, channels=channels, batch_size=options.batch)

    def steps(online: bool) -> float:
        torch.manual_seed(0)
        teacher = WhiteBoxTeacher(network(in_channels=channels, image_size=32))
        module = ShaderKD(teacher, network(in_channels=channels, image_size=32), parts=parts, epsilon=64, step=12)
        data = ShaderDataModule(source, size=1000, cache=cache, online=online, renewal=0.1)
        timer = StepTimer(clock)
        L.Trainer(
            accelerator="auto" if options.device == "cuda" else "cpu", devices=1, max_epochs=-1,
            max_steps=options.steps + 3, limit_val_batches=0, logger=False, callbacks=[timer], default_root_dir=cache,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        ).fit(module, datamodule=data)  # fmt: skip
        return timer.mean()

    with tempfile.TemporaryDirectory() as cache:
        turns = [(steps(False), steps(True)) for _ in range(options.turns)]
    stored, renewed = (statistics.median(each) for each in zip(*turns, strict=True))
    return {
        "stored_ms": round(1000 * stored, 2),
        "renewed_ms": round(1000 * renewed, 2),
        "ratio": round(statistics.median(one / other for one, other in turns), 3),
        "least_ratio": round(min(one / other for one, other in turns), 3),
    }


def main() -> None:
    """Both back ends at both sizes, and training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=12, help="seeds 0, 1, ...")
    parser.add_argument("--images", type=int, default=128, help="images of a known program at 32 px")
    parser.add_argument("--device", default="cpu", help="where torch computes")
    parser.add_argument("--cpu-time", action="store_true", help="count the process's CPU time, of all its threads")
    parser.add_argument("--batch", type=int, default=64, help="images of a training step")
    parser.add_argument("--steps", type=int, default=20, help="of a turn of training")
    parser.add_argument("--turns", type=int, default=3, help="of training, each with stored and with new images")
    parser.add_argument("--output", type=Path, help="write the table as JSON")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    os.environ["MESA_SHADER_CACHE_DISABLE"] = "true"  # what the last run compiled would make "new" a lie
    record: dict[str, Any] = {
        "programs": options.programs, "threads": torch.get_num_threads(), "clock": clock.__name__,
        "torch": torch.__version__, "processor": platform.processor() or platform.machine(), "images_per_second": {},
        "training": {},
    }  # fmt: skip

    def add(name: str, render: Render, size: int) -> None:
        rates = measure(render, range(options.programs), size, max(4, options.images * 32**2 // size**2), clock)
        record["images_per_second"].setdefault(name, {})[size] = rates
        print(f"{name:40} {size:4} px  " + "  ".join(f"{key} {rate:8,.1f}/s" for key, rate in rates.items()))

    for size in (32, 224):
        add(f"torch, {options.device}", torch_backend(options.device), size)
        try:
            with OpenGLRenderer() as opengl:  # a new one for each size has compiled nothing yet
                add(f"OpenGL, {opengl.device}", opengl_backend(opengl), size)
        except OpenGLUnavailableError as error:
            print(error)
    record["program"] = anatomy(range(12 * options.programs))
    print("  ".join(f"{name} {value}" for name, value in record["program"].items()))
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for name, network, channels, parts, steps in (
        ("LeNet-5, KD", LeNet5Classic, 1, ["mixed"], 5 * options.steps),
        ("LeNet-5, shader KD", LeNet5Classic, 1, ["post", "pre", "deeper"], options.steps),
        ("ResNet-18, KD", ResNet18, 3, ["mixed"], max(2, options.steps // 4)),
    ):
        chosen = argparse.Namespace(**{**vars(options), "steps": steps})
        record["training"][name] = training(network, channels, parts, chosen)
        print(f"{name:40} {record['training'][name]}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
