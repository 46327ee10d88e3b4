"""Zero-shot synthesis: what each change to the search saves, and how few queries reach the plain method's distance.

Called by boundary.py, whose record it adds to. The images are pseudo images, of no data set.
"""

import tempfile
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from foolbox import PyTorchModel
from foolbox.attacks import HopSkipJumpAttack
from foolbox.criteria import Misclassification
from torch import Tensor, nn

from kdlightning.data import NoImagesDataModule, NoiseDataModule, TransferSet
from kdlightning.functional import boundary
from kdlightning.functional.boundary import BoundaryPoints, any_but
from kdlightning.methods import ZSDB3KDImages
from kdlightning.teachers import HardLabelTeacher

PLAIN: dict[str, Any] = {
    "directions": 20, "query_limit": 5000, "num_probes": 200, "subspace": "pixels", "tolerance": 1e-5
}  # fmt: skip
DEFAULT: dict[str, Any] = {
    "directions": 5, "query_limit": 0, "num_probes": 50, "subspace": "frequency", "rank": 100, "tolerance": 1e-2,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "plain: T=20, MBD of 5,000 queries, Q=200, pixels": PLAIN,
    "plain, MBD of 1,000 queries": {**PLAIN, "query_limit": 1000},
    "low frequencies, tolerance 1e-2, 1,000 queries": {
        **DEFAULT, "directions": 20, "query_limit": 1000, "num_probes": 100
    },
    "and T=5, Q=50, 250 queries": {**DEFAULT, "query_limit": 250},
    "and no MBD (the default)": DEFAULT,
    "default, pixels": {**DEFAULT, "subspace": "pixels"},
    "default, T=1": {**DEFAULT, "directions": 1},
    "default, T=20": {**DEFAULT, "directions": 20},
    "default, Q=25": {**DEFAULT, "num_probes": 25},
    "default, Q=100": {**DEFAULT, "num_probes": 100},
    "default, rank 50": {**DEFAULT, "rank": 50},
    "no normal: away from the point (released code), 250": {**DEFAULT, "query_limit": 250, "gradient": "direction"},
    "warm start, Q=50, 80 queries": {**DEFAULT, "search": "warm", "query_limit": 80},
}  # fmt: skip


class Counting(nn.Module):
    """Counts the images that reach a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seen = network, 0

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        self.seen += len(images)
        logits: Tensor = self.network(images)
        return logits


def make(network: nn.Module, image_size: int, number: int, iterations: int, **options: Any) -> TransferSet:  # noqa: ANN401
    """Pseudo images after every tenth of the iterations, by the package's own phase."""
    task = NoImagesDataModule("benchmark", num_classes=10, image_size=image_size, eval_batch_size=number)
    snapshots = [iterations * tenth // 4 for tenth in range(4)]
    with tempfile.TemporaryDirectory() as directory:
        module = ZSDB3KDImages(
            HardLabelTeacher(network), str(Path(directory) / "set"), iterations=iterations, snapshots=snapshots,
            pool=5000, **options,
        )  # fmt: skip
        trainer = L.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
            default_root_dir=directory,
        )  # fmt: skip
        trainer.predict(module, datamodule=NoiseDataModule(task, number, "smooth"), return_predictions=False)
        return TransferSet(Path(directory) / "set")


def noises(image_size: int) -> Tensor:
    """5,000 noises ``(S, 1, H, W)`` in [0, 1] that no synthesis has started from."""
    task = NoImagesDataModule("benchmark", num_classes=10, image_size=image_size)
    return NoiseDataModule(task, 5000, "smooth", seed=9).candidate_pool().image.float() / 255


def robustness(network: nn.Module, images: Tensor, pool: Tensor) -> float:
    """Mean distance to the nearest boundary: a long search from 20 noises, the same for every row."""
    teacher = HardLabelTeacher(network)
    own = teacher.query(images)
    label = torch.cat([teacher.query(chunk) for chunk in pool.split(1000)])
    found = _start(teacher, images, own, pool, label, 20)
    bank = boundary.probe_bank(images.shape[1:], subspace="frequency", rank=200)
    found = boundary.minimal_boundary_distance(
        teacher.query, images, any_but(own), found, torch.arange(len(images)), bank, num_probes=200, query_limit=4000
    )
    return float(found.distance.mean())


def _start(
    teacher: HardLabelTeacher, images: Tensor, own: Tensor, pool: Tensor, label: Tensor, number: int,
    *, nearest: bool = True, tolerance: float = 1e-3,
) -> BoundaryPoints:  # fmt: skip
    index = boundary.nearest_candidates(images, pool, label, any_but(own), number if nearest else len(pool))
    if not nearest:
        generator = torch.Generator().manual_seed(3)
        rows = [row[row >= 0][torch.randperm(int((row >= 0).sum()), generator=generator)[:number]] for row in index]
        index = torch.stack(rows)
    return boundary.boundary_distance(teacher.query, images, any_but(own), pool, index, tolerance=tolerance)


def synthesis(network: nn.Module, image_size: int, number: int, iterations: int) -> list[dict[str, object]]:
    """How far from the boundary pseudo images get, for how many queries an image."""
    pool = noises(image_size)
    rows: list[dict[str, object]] = []
    for name, options in VARIANTS.items():
        made = make(network, image_size, number, iterations, **options)
        for after in [iterations * tenth // 4 for tenth in range(1, 4)] + [iterations]:
            end = "" if after == iterations else f"_after_{after}"
            queries = float(made.column(f"queries{end}").float().mean())
            distance = robustness(network, made.column(f"image{end}").float() / 255, pool)
            row = {"variant": name, "iterations": after, "queries": round(queries), "distance": round(distance, 4)}
            rows.append(row)
            print(f"  {name:50} {after:3} iterations {queries:8.0f} queries  distance {distance:.3f}", flush=True)
    return rows


def saving(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Queries to reach the plain method's last distance, over the plain method's: the least of all variants'."""
    names = list(VARIANTS)
    plain = next(row for row in reversed(rows) if row["variant"] == names[0])
    reached = [row for row in rows if row["distance"] >= plain["distance"] and row["variant"] != names[0]]
    if not reached:
        return {"plain": plain, "ratio": None}
    best = min(reached, key=lambda row: row["queries"])
    return {"plain": plain, "best": best, "ratio": round(best["queries"] / plain["queries"], 4)}


def search(network: nn.Module, image_size: int, number: int) -> list[dict[str, object]]:
    """The nearest boundary of pseudo images: each change by itself, and Foolbox's HopSkipJump, against queries."""
    images = make(network, image_size, number, 8, **DEFAULT).column("image").float() / 255
    pool = noises(image_size)
    teacher = HardLabelTeacher(network)
    own = teacher.query(images)
    label = torch.cat([teacher.query(chunk) for chunk in pool.split(1000)])
    rows: list[dict[str, object]] = []

    def add(method: str, queries: float, distance: float) -> None:
        rows.append({"method": method, "queries": round(queries, 1), "distance": round(distance, 4)})
        print(f"  {method:50} {queries:8.0f} queries  distance {distance:.3f}", flush=True)

    steps: dict[str, dict[str, Any]] = {
        "plain": {"nearest": False, "tolerance": 1e-5, "subspace": "pixels", "probes": 200},
        "nearest noises": {"nearest": True, "tolerance": 1e-5, "subspace": "pixels", "probes": 200},
        "and relative tolerance": {"nearest": True, "tolerance": 1e-3, "subspace": "pixels", "probes": 200},
        "and low frequencies": {"nearest": True, "tolerance": 1e-3, "subspace": "frequency", "probes": 200},
        "and Q=100": {"nearest": True, "tolerance": 1e-3, "subspace": "frequency", "probes": 100},
        "and Q=50": {"nearest": True, "tolerance": 1e-3, "subspace": "frequency", "probes": 50},
    }
    for name, step in steps.items():
        start = _start(teacher, images, own, pool, label, 20, nearest=step["nearest"], tolerance=step["tolerance"])
        add(f"{name}, BD", float(start.queries.float().mean()), float(start.distance.mean()))
        bank = boundary.probe_bank(images.shape[1:], subspace=step["subspace"], rank=100)
        for limit in (500, 1000, 2000, 5000):
            found = boundary.minimal_boundary_distance(
                teacher.query, images, any_but(own), start, torch.arange(number), bank, num_probes=step["probes"],
                tolerance=step["tolerance"], query_limit=limit,
            )  # fmt: skip
            add(f"{name}, MBD", float(found.queries.float().mean()), float(found.distance.mean()))
    start = _start(teacher, images, own, pool, label, 20)
    bank = boundary.probe_bank(images.shape[1:], subspace="frequency", rank=100)
    for number_of_steps in (2, 5, 10, 20):
        counted = Counting(network)
        model = PyTorchModel(counted.eval(), bounds=(0, 1), device="cpu")
        attack = HopSkipJumpAttack(steps=number_of_steps)
        _, adversarial, _ = attack(
            model, images, Misclassification(own), starting_points=start.point, epsilons=None
        )  # fmt: skip
        queries = counted.seen / number + float(start.queries.float().mean())
        distance = float((adversarial - images).flatten(1).norm(dim=1).mean())
        add(f"Foolbox HopSkipJump, {number_of_steps} steps", queries, distance)
        found = boundary.minimal_boundary_distance(
            teacher.query, images, any_but(own), start, torch.arange(number), bank, num_probes=100,
            query_limit=round(queries),
        )  # fmt: skip
        add("ours at so many queries", float(found.queries.float().mean()), float(found.distance.mean()))
    return rows


@torch.no_grad()
def flips(network: nn.Module, image_size: int, number: int = 2000) -> dict[str, float]:
    """Shares of labels that differ when the teacher answers in bfloat16 (``trainer.precision: bf16-mixed``)."""
    images = make(network, image_size, number, 4, **DEFAULT).column("image").float() / 255
    pool = noises(image_size)
    teacher = HardLabelTeacher(network)
    own = teacher.query(images)
    label = torch.cat([teacher.query(chunk) for chunk in pool.split(1000)])
    points = _start(teacher, images, own, pool, label, 5, tolerance=1e-2).point
    bank = boundary.probe_bank(images.shape[1:], subspace="frequency", rank=100)
    distance = (points - images).flatten(1).norm(dim=1)
    probes = (points + 0.1 * distance[:, None, None, None] * bank[: len(points)].view_as(points)).clamp_(0, 1)
    shares = {}
    for name, asked in {"noise": pool, "pseudo images": images, "boundary points": points, "probes": probes}.items():
        with torch.autocast("cpu", torch.bfloat16):
            half = torch.cat([network(part).argmax(1) for part in asked.split(500)])
        full = torch.cat([network(part).argmax(1) for part in asked.split(500)])
        shares[name] = round(float((half != full).float().mean()), 5)
    return shares
