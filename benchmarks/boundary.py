"""Boundary search: how busy it keeps the teacher, and how near it gets for how many queries. One run, one teacher.

    python benchmarks/boundary.py                        # on scikit-learn's digits, about 5 minutes
    python benchmarks/boundary.py --mnist data           # on MNIST in data/MNIST/raw, about 15 minutes on 2 cores

Prints tables and writes them to --output as JSON:
1. images answered per second by the labelling loop (DB3KDLabels' work: candidates, BD, MBD, counting, journal), over
   the teacher's bare forward at its best batch size;
2. mean boundary distance against mean queries per pair: BD, MBD with each subspace, the released scheme, and the
   oracle, which has the network's gradients (oracle.py);
3. zero-shot synthesis (zeroshot.py): the nearest boundary by each change and by Foolbox's HopSkipJump; how far pseudo
   images get by the plain method and by each change, and the queries for the plain method's distance as a ratio;
4. the share of labels that change when the teacher answers in bfloat16.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import oracle
import torch
import zeroshot
from released import ReleasedSearch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlightning.accounting import AnswerJournal
from kdlightning.data import DigitsDataModule, MNISTDataModule
from kdlightning.functional import boundary
from kdlightning.networks import LeNet5, LeNet5Half
from kdlightning.teachers import HardLabelTeacher


def train_teacher(images: Tensor, labels: Tensor, size: int, epochs: int = 12) -> nn.Module:
    """A LeNet-5 from labels."""
    torch.manual_seed(0)
    network = LeNet5(image_size=size).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), 5e-4)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(128):
            loss = F.cross_entropy(network(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


def raw_rate(network: nn.Module, images: Tensor, seconds: float = 3.0) -> dict[int, float]:
    """Images per second of the bare forward, best of repeats, by batch size; batches differ."""
    rates = {}
    with torch.no_grad():
        for size in (64, 128, 256, 512, 1000):
            batches = [chunk for chunk in images.split(size) if len(chunk) == size]
            network(batches[0])
            best, end, turn = 0.0, time.perf_counter() + seconds, 0
            while time.perf_counter() < end:
                start, answered = time.perf_counter(), 0
                for _ in range(max(1, 2000 // size)):
                    network(batches[turn % len(batches)]).argmax(1)
                    answered, turn = answered + size, turn + 1
                best = max(best, answered / (time.perf_counter() - start))
            rates[size] = best
    return rates


class Interleaved:
    """The teacher's ``query``; after every 8th call a slice of bare forwards is timed, off the loop's clock.

    Both rates are then means over the same minutes of the same machine, whose speed wanders by a third.
    """

    def __init__(self, teacher: HardLabelTeacher, network: nn.Module, images: Tensor, size: int) -> None:
        self.teacher, self.network, self.size = teacher, network, size
        self.batches = [chunk for chunk in images.split(size) if len(chunk) == size]
        self.calls, self.turn = 0, 0
        self.raw_images, self.raw_seconds = 0, 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """The teacher's labels ``(M,)``."""
        self.calls += 1
        if self.calls % 8 == 0:
            self.slice()
        return self.teacher.query(images)

    @torch.no_grad()
    def slice(self) -> None:
        """Four batches of the bare forward and its argmax: what a hard-label answer is."""
        start = time.perf_counter()
        for _ in range(4):
            self.network(self.batches[self.turn % len(self.batches)]).argmax(1)
            self.turn += 1
        self.raw_seconds += time.perf_counter() - start
        self.raw_images += 4 * self.size

    @property
    def raw_rate(self) -> float:
        """Images per second of the slices."""
        return self.raw_images / self.raw_seconds


def busy(network: nn.Module, pool: Tensor, size: int, turns: int = 5) -> dict[str, object]:
    """Images per second of BD, and of BD and MBD labelling, over those of the bare forward in between."""
    teacher = HardLabelTeacher(network)
    label = torch.cat([teacher.query(chunk) for chunk in pool.split(size)])
    x = pool[:300]
    target = torch.stack([torch.tensor([k for k in range(10) if k != m]) for m in label[: len(x)].tolist()]).flatten()
    image = torch.arange(len(x)).repeat_interleave(9)
    bank = boundary.probe_bank(pool.shape[1:], images=pool)
    bd, both, raw = [], [], []
    for turn in range(turns):
        with tempfile.TemporaryDirectory() as directory:
            beside = Interleaved(teacher, network, pool, size)
            predict = AnswerJournal(Path(directory) / "journal", beside)
            images = x[image]
            start, before = time.perf_counter(), teacher.paid.queries
            index = boundary.nearest_candidates(images, pool, label, target, 20)
            found = boundary.boundary_distance(predict, images, target, pool, index, batch_size=size)
            seconds, queries = time.perf_counter() - start - beside.raw_seconds, teacher.paid.queries - before
            bd.append(queries / seconds / beside.raw_rate)
            key = image * 10 + target + turn
            boundary.minimal_boundary_distance(
                predict, images, target, found, key, bank, query_limit=320, batch_size=size
            )
            seconds, queries = time.perf_counter() - start - beside.raw_seconds, teacher.paid.queries - before
            both.append(queries / seconds / beside.raw_rate)
            raw.append(beside.raw_rate)
    middle = turns // 2
    return {
        "batch": size,
        "raw_beside": round(sorted(raw)[middle]),
        "bd_ratio": round(sorted(bd)[middle], 3),
        "bd_ratios": [round(one, 3) for one in bd],
        "ratio": round(sorted(both)[middle], 3),
        "ratios": [round(one, 3) for one in both],
    }


def distances(network: nn.Module, pool: Tensor, x: Tensor, limits: tuple[int, ...]) -> list[dict[str, object]]:
    """Mean distance against mean queries, ours and the released scheme's, on the same pairs, and over the oracle's."""
    teacher = HardLabelTeacher(network)
    label = torch.cat([teacher.query(chunk) for chunk in pool.split(256)])
    own = teacher.query(x)
    generator = torch.Generator().manual_seed(1)
    target = (own + 1 + torch.randint(0, 9, (len(x),), generator=generator)) % 10
    rows: list[dict[str, object]] = []
    least = float(oracle.nearest(network, x, target).mean())

    def add(method: str, queries: float, distance: float) -> None:
        ratio = round(distance / least, 3)
        rows.append({"method": method, "queries": round(queries, 1), "distance": round(distance, 4), "ratio": ratio})
        print(f"  {method:32} {queries:8.0f} queries  distance {distance:.3f}, {ratio} times the oracle's", flush=True)

    add("oracle, white box", 0, least)
    for number in (1, 5, 20, 100):
        index = boundary.nearest_candidates(x, pool, label, target, number)
        found = boundary.boundary_distance(teacher.query, x, target, pool, index)
        add(f"BD, {number} candidates", float(found.queries.float().mean()), float(found.distance.mean()))
    index = boundary.nearest_candidates(x, pool, label, target, 5)
    start = boundary.boundary_distance(teacher.query, x, target, pool, index, tolerance=1e-2)
    key = torch.arange(len(x)) * 10 + target
    for subspace, probes in (("images", 50), ("images", 100), ("frequency", 50), ("pixels", 200)):
        bank = boundary.probe_bank(pool.shape[1:], subspace=subspace, images=pool)
        for limit in limits:
            found = boundary.minimal_boundary_distance(
                teacher.query, x, target, start, key, bank, num_probes=probes, query_limit=limit
            )
            name = f"MBD, {subspace}, Q={probes}"
            add(name, float(found.queries.float().mean()), float(found.distance.mean()))
    # a surrogate learns from many pairs: here from those of 100 more images, whose queries are not those of these pairs
    asked = boundary.Recorder(teacher.query)
    others = pool[:100].repeat_interleave(10, 0)
    sought = torch.arange(10).repeat(100)
    apart = sought != label[:100].repeat_interleave(10)
    near = boundary.nearest_candidates(others[apart], pool, label, sought[apart], 5)
    boundary.boundary_distance(asked, others[apart], sought[apart], pool, near, tolerance=1e-2)
    guide = boundary.imitation(LeNet5Half(image_size=x.shape[-1]), asked)
    bank = boundary.probe_bank(pool.shape[1:], images=pool)
    for limit in (60, 100, *limits):
        found = boundary.minimal_boundary_distance(
            teacher.query, x, target, start, key, bank, num_probes=50, query_limit=limit, guide=guide
        )
        add("MBD, images, Q=50, surrogate", float(found.queries.float().mean()), float(found.distance.mean()))
    released = ReleasedSearch(teacher.query, x, target)
    theta, radius = released.candidates(pool, label, 201)
    add("released BD, 201 candidates", float(released.queries.float().mean()), float(radius.mean()))
    wanted = [limit * 2 for limit in limits]
    for queries, distance in released.minimise(theta, radius, wanted[-1]):
        if queries >= wanted[0]:
            wanted.pop(0)
            add("released MBD", queries, distance)
    return rows


def main() -> None:
    """Run all parts, or one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", metavar="ROOT", help="use MNIST from ROOT/MNIST/raw")
    parser.add_argument("--pairs", type=int, default=100, help="pairs of the distance table")
    parser.add_argument("--part", choices=["speed", "distance", "zeroshot", "precision"], help="run one part only")
    parser.add_argument("--output", type=Path, help="write the tables as JSON")
    options = parser.parse_args()
    data = MNISTDataModule(root=options.mnist, num_val=6000) if options.mnist else DigitsDataModule(image_size=28)
    data.setup()
    # as in the measurement of the released code: the teacher learns from 8,000 images
    images = data.train_set.images[:8000].float().div(255)
    network = train_teacher(images, data.train_set.labels[:8000], data.image_size)
    x = data.test_set.images[: options.pairs].float().div(255)
    with torch.no_grad():
        accuracy = (network(data.test_set.images[:2000] / 255).argmax(1) == data.test_set.labels[:2000]).float().mean()
    pool = data.train_set.images[:10_000].float().div(255)
    print(f"LeNet-5 on {data.name}, test accuracy {accuracy:.2%}, {torch.get_num_threads()} threads")
    record: dict[str, Any] = {"dataset": data.name, "teacher_accuracy": round(float(accuracy), 4)}
    if options.part in (None, "speed"):
        rates = raw_rate(network, pool)
        size = max(rates, key=lambda one: rates[one])
        speed = busy(network, pool, size)
        print("  raw forward: " + ", ".join(f"{rate:,.0f}/s at {number}" for number, rate in rates.items()))
        print(
            f"  labelling over the bare forward beside it at batch {size} ({speed['raw_beside']:,}/s), median of 5: "
            f"BD {speed['bd_ratio']:.2f} {speed['bd_ratios']}, BD and MBD {speed['ratio']:.2f} {speed['ratios']}"
        )
        record["speed"] = {"raw": rates, **speed}
    if options.part in (None, "distance"):
        record["distance"] = distances(network, pool, x, (300, 500, 1000, 2000))
    if options.part in (None, "zeroshot"):
        record["search"] = zeroshot.search(network, data.image_size, 50)
        record["synthesis"] = zeroshot.synthesis(network, data.image_size, 20, 40)
        record["saving"] = zeroshot.saving(record["synthesis"])
        print(f"  queries to the plain method's last distance: {record['saving']}")
    if options.part in (None, "precision"):
        record["bfloat16_flips"] = zeroshot.flips(network, data.image_size)
        print(f"  labels that bfloat16 changes: {record['bfloat16_flips']}")
    if options.output:
        before = json.loads(options.output.read_text()) if options.output.exists() else {}  # of the other parts
        options.output.write_text(json.dumps(before | record, indent=1) + "\n")


if __name__ == "__main__":
    main()
