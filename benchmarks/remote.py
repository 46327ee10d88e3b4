"""What HTTP and the ledger cost: a teacher behind `serve` on 127.0.0.1 over the same teacher in process. One run.

    python benchmarks/remote.py                                             # two minutes
    python benchmarks/remote.py --output benchmarks/results/remote.json --turns 9

The server is a process of its own, started here as `python -m kdlightning serve`; the clients are SoftLabelTeacher and
RemoteSoftLabelTeacher, with every check that they make. Teachers, untrained because only their work counts: LeNet-5 on
grey images of 32 pixels, the worst case, because it computes least per byte, and ResNet-18 on colour images of 32
pixels. Both compute with --threads in both processes. Client and server share the machine's cores: with two cores and
one thread the client has a core to itself, which the teacher in process leaves idle; with as many threads as cores it
has not.

Prints and writes to --output as JSON, for each teacher, batch (images in a request) and number of requests in flight:
1. ``ratio``: images per second over those of the teacher in process with the same batch; both take turns, the median
   over the turns counts. Aim: at least 0.8 for batches of 256;
2. ``ledger_us``: microseconds per image that a ledger adds (looked up, reserved, recorded, each commit synced), the
   median over the turns of the difference from the same requests without one.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdlightning.networks import LeNet5, Network, ResNet18, save_network
from kdlightning.remote import RemoteSoftLabelTeacher
from kdlightning.teachers import SoftLabelTeacher

BATCHES = (1, 32, 256)
# name, network, requests in flight, images in a turn by batch: some tenths of a second, and whole rounds in flight
CASES = (
    ("LeNet5", lambda: LeNet5(image_size=32), (1, 4, 16), (256, 2048, 8192)),
    ("ResNet18", lambda: ResNet18(), (1, 4), (32, 128, 1024)),
)


@contextmanager
def serve(directory: Path, threads: int) -> Iterator[str]:
    """The package's own server in a process; yields its url."""
    command = [sys.executable, "-m", "kdlightning", "serve", str(directory), "--response", "soft", "--port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen([*command, "--name", "teacher"], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().split()[-1]
    finally:
        process.terminate()
        process.wait(60)


def seconds(work: Callable[[], object]) -> float:
    """What one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(local: SoftLabelTeacher, url: str, images: Tensor, batch: int, flight: int, turns: int) -> dict[str, Any]:
    """The figures of one batch size and number of requests in flight."""

    def remote(ledger: str | None) -> RemoteSoftLabelTeacher:
        return RemoteSoftLabelTeacher(
            url, "teacher", "probabilities", max_batch=batch, concurrency=flight, ledger=ledger
        )

    plain = remote(None)
    inside, outside, kept = [], [], []
    with tempfile.TemporaryDirectory() as directory:
        for turn in range(turns + 1):
            pixels = (images + turn / 1000).clamp(0, 1)  # a ledger would know the last turn's
            booked = remote(str(Path(directory) / f"{turn}.sqlite"))
            booked.query(images[:1])  # the file is made, and a connection open
            inside.append(seconds(lambda: [local.query(part) for part in pixels.split(batch)]))  # noqa: B023
            outside.append(seconds(lambda: plain.query(pixels)))  # noqa: B023
            kept.append(seconds(lambda: booked.query(pixels)))  # noqa: B023
            booked.close()
    plain.close()
    inside, outside, kept = inside[1:], outside[1:], kept[1:]  # the first turn warms up
    ratios = sorted(one / other for one, other in zip(inside, outside, strict=True))
    extra = [1e6 * (one - other) / len(images) for one, other in zip(kept, outside, strict=True)]
    return {
        "images_per_turn": len(images),
        "in_process_per_s": round(len(images) / statistics.median(inside)),
        "http_per_s": round(len(images) / statistics.median(outside)),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(ratios[len(ratios) * q // 4], 3) for q in (1, 3)],
        "ledger_us": round(statistics.median(extra), 1),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5, help="of local, remote and ledger (default %(default)s)")
    parser.add_argument(
        "--threads", type=int, default=1, help="of the teacher, in either process (default %(default)s)"
    )
    parser.add_argument("--only", choices=[name for name, *_ in CASES], help="one of the teachers")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    record: dict[str, Any] = {
        "torch": torch.__version__, "python": platform.python_version(), "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(), "threads": options.threads,
        "load_before": round(os.getloadavg()[0], 2),
    }  # fmt: skip
    for name, build, flights, numbers in CASES:
        if options.only not in (None, name):
            continue
        network: Network = build()
        local, rows = SoftLabelTeacher(network), []
        with tempfile.TemporaryDirectory() as directory:
            save_network(network, directory)
            with serve(Path(directory), options.threads) as url:
                for batch, number in zip(BATCHES, numbers, strict=True):
                    images = torch.rand(number, network.in_channels, network.image_size, network.image_size)
                    for flight in flights:
                        figures = measure(local, url, images, batch, flight, options.turns)
                        rows.append({"batch": batch, "in_flight": flight, **figures})
                        print(
                            f"{name}, {flight:2} requests of {batch:3}: {figures['http_per_s']:6,} images/s over"
                            f" {figures['in_process_per_s']:6,}, ratio {figures['ratio']} {figures['ratio_quartiles']};"
                            f" ledger {figures['ledger_us']} us per image",
                            flush=True,
                        )
        record[name] = rows
    if options.output:
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
