"""Shader programs: images per second of both back ends, of the same programs. One run.

    python benchmarks/shaders.py                      # about a minute on one core
    python benchmarks/shaders.py --cpu-time           # per second of one core instead, on a machine that is busy
    python benchmarks/shaders.py --device cuda        # torch on a GPU; OpenGL chooses its device itself

Prints a table and writes it to --output as JSON. Rates per size and back end:
1. ``new``: every program built from its seed, compiled by the driver with empty caches, and shown once;
2. ``variants``: every image with its own time and its own draw of the program's numbers, the program known already;
3. ``times``: every image with its own time only, the program known already.
The last two are medians over programs of their own rates, --images at a time (fewer at 224 px).
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdlightning.shaders import OpenGLRenderer, OpenGLUnavailableError, Program

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


def main() -> None:
    """Both back ends at both sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=12, help="seeds 0, 1, ...")
    parser.add_argument("--images", type=int, default=128, help="images of a known program at 32 px")
    parser.add_argument("--device", default="cpu", help="where torch computes")
    parser.add_argument("--cpu-time", action="store_true", help="count the process's CPU time, of all its threads")
    parser.add_argument("--output", type=Path, help="write the table as JSON")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    os.environ["MESA_SHADER_CACHE_DISABLE"] = "true"  # what the last run compiled would make "new" a lie
    record: dict[str, Any] = {
        "programs": options.programs, "threads": torch.get_num_threads(), "clock": clock.__name__,
        "images_per_second": {},
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
    if options.output:
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
