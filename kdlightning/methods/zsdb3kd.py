"""ZSDB3KD: images for a teacher that answers top-1 only, made from noise by walking away from its decision boundaries.

.. [Wang2021] Z. Wang. Zero-Shot Knowledge Distillation from a Decision-Based Black-Box Model. ICML 2021.
   https://proceedings.mlr.press/v139/wang21a.html
Reference code: https://github.com/zwang84/zsdb3kd/tree/7af7585e (no licence: read for facts, nothing copied).

Access: hard labels, and no image at all. Phases: predict ZSDB3KDImages on a NoiseDataModule → predict DB3KDLabels on a
SyntheticDataModule → fit DB3KD on a TransferSetDataModule.

Differences from the paper (P) and the released code (C); docs/fidelity.md has the evidence:
1. The boundary point of an iteration is the nearest on the way to T noises of the pool (Eq. 8; C: Gaussian directions).
   P and C then move it along the boundary (Eqs. 4-5) with up to 5,000 queries; here that is off: it does not pay.
   ``query_limit: 5000, directions: 20, num_probes: 200, subspace: pixels`` is P. ``search: warm`` begins at the last.
2. Probes of Eq. 4 are drawn from low frequencies (``subspace: frequency``); P and C: all pixels.
3. ``gradient: estimate`` asks Eq. 4 once more, at the boundary point found (P); ``direction`` goes away from that point
   (C), which is the same where the point is the nearest one, and costs nothing.
4. Starts: noise of several distributions, one of them smooth; every noise is asked once and used for the class that it
   has. A class that has too few takes other noise, pushed just across the boundary towards the few; a class that has
   none takes mixtures of noises, at most ``tries`` rounds of them. P: "random noise of the class"; C redraws for ever.
5. Images are rounded to 1/255 when they are written, and asked once more: ``label`` is what the teacher says then.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from kdlightning.data.base import at_least
from kdlightning.data.generated import NoiseDataModule
from kdlightning.functional import boundary
from kdlightning.modules.labelling import LabellingModule, Predict
from kdlightning.teachers import HardLabelTeacher, as_teacher
from kdlightning.types import Batch


class ZSDB3KDImages(LabellingModule):
    """``predict`` on a ``NoiseDataModule``: as many pseudo images as it has, shared out over the classes (Eq. 8).

    Image number i is made for class i mod K. Columns of the transfer set: ``image`` (uint8), ``label`` (the teacher's),
    ``distance`` (L2, to the last boundary point, pixel units), ``queries``; with ``snapshots`` also
    ``image_after_<n>``, ``distance_after_<n>`` and ``queries_after_<n>``.

    Args:
        teacher: answers top-1 labels.
        output: directory of the transfer set.
        iterations: N, steps away from the boundary.
        step: ξ_o, L2 length of a step in pixel units.
        search: how an iteration finds the nearest boundary point, see difference 1.
        gradient: which way is away from it, see difference 3.
        directions: T of Eq. 8.
        num_probes: Q of Eq. 4.
        query_limit: images asked in one iteration to find one image's boundary point and to move it nearer (Eqs. 4-5);
            those of the gradient and of the step come on top. 0 does not move it.
        subspace: where the probes are drawn, see :func:`kdlightning.functional.boundary.probe_bank`.
        rank: its dimensions (per channel).
        probe_radius: ε_g relative to the present distance.
        tolerance: width of a boundary point's bracket: L2 in pixel units for Eq. 8, relative while it is moved.
        pool: noises that are asked for their class, to start from.
        tries: rounds of 1,000 mixtures for classes that no noise has.
        snapshots: iterations after which the images are written too.
        patience: an image stops after this many iterations in a row in which it went less than 1 % of a step.
        batch_size: images per call of the teacher.
        seed: owner of the probes and of what is drawn from the pool.

    Raises:
        ValueError: a number out of range.
    """

    columns = ("image", "label", "distance")

    def __init__(
        self,
        teacher: HardLabelTeacher,
        output: str,
        iterations: int = 10,
        step: float = 0.5,
        search: Literal["fresh", "warm"] = "fresh",
        gradient: Literal["estimate", "direction"] = "estimate",
        directions: int = 5,
        num_probes: int = 50,
        query_limit: int = 0,
        subspace: Literal["pixels", "frequency"] = "frequency",
        rank: int = 100,
        probe_radius: float = 0.1,
        tolerance: float = 1e-2,
        pool: int = 20_000,
        tries: int = 20,
        snapshots: Sequence[int] = (),
        patience: int = 3,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(as_teacher(teacher, HardLabelTeacher), output)
        at_least(1, iterations=iterations, directions=directions, num_probes=num_probes, pool=pool, patience=patience)
        if step <= 0:
            raise ValueError(f"step: expected a length above 0, got {step}")
        if search == "warm" and query_limit <= num_probes:
            raise ValueError(f"search='warm' asks more than num_probes={num_probes}: raise query_limit={query_limit}")
        if late := [number for number in snapshots if not 0 <= number < iterations]:
            raise ValueError(f"snapshots: expected iterations from 0 to {iterations - 1}, got {late}")
        self.iterations, self.step, self.search, self.gradient = iterations, step, search, gradient
        self.directions, self.num_probes, self.query_limit = directions, num_probes, query_limit
        self.subspace, self.rank, self.probe_radius, self.tolerance = subspace, rank, probe_radius, tolerance
        self.pool_size, self.tries, self.snapshots, self.patience = pool, tries, tuple(snapshots), patience
        self.batch_size, self.seed = batch_size, seed

    def setup(self, stage: str) -> None:
        """Refuse, with a TypeError, data that could show real images; with a ValueError, a teacher of other classes."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, NoiseDataModule):
            raise TypeError(
                "ZSDB3KDImages starts from noise and sees no image: give it a NoiseDataModule (its source may be a "
                f"NoImagesDataModule), got {type(data).__name__}"
            )
        super().setup(stage)

    def questions(self, data: Any, rows: int) -> tuple[int, int]:  # noqa: ANN401 - a datamodule
        """The noises; at most all mixtures, and for every image a start, all iterations and the last label."""
        size = data.channels * data.image_size**2
        first, near = (boundary.most_boundary_queries(each, size, self.tolerance) for each in (1, self.directions))
        probes = self.num_probes if self.gradient == "estimate" else 0
        image = first + self.iterations * (max(near, self.query_limit) + probes + boundary.TRIES) + 1
        return self.pool_size, self.pool_size + 1000 * self.tries + rows * image

    def prepare(self, data: NoiseDataModule) -> None:  # type: ignore[override]
        """Ask what the noises are, and look for classes that none of them is.

        Raises:
            ValueError: the teacher answers a class that the task does not have.
            RuntimeError: it sees one class in everything, so there is no boundary to walk away from.
        """
        self.num_classes = int(data.num_classes)
        self.pool = data.candidate_pool(self.pool_size).image.to(self.device).float().div(255)
        self.pool_class = self.label_pool(self.pool, self.batch_size)
        self.noise_histogram = self._histogram()
        for number in range(self.tries):
            if 0 not in self._histogram():
                break
            mixtures = self._mixtures(number)
            labels = self.label_pool(mixtures, self.batch_size, name=f"mixtures-{number}")
            self.pool, self.pool_class = torch.cat([self.pool, mixtures]), torch.cat([self.pool_class, labels])
        highest = int(self.pool_class.max())
        if highest >= self.num_classes:
            raise ValueError(f"the teacher answered class {highest}, but {data.name} has {self.num_classes} classes")
        self.reached = torch.tensor(self._histogram(), device=self.device) > 0
        if int(self.reached.sum()) < 2:
            raise RuntimeError(
                f"the teacher sees class {highest} in all {len(self.pool):,} noises and mixtures: give the "
                "NoiseDataModule another distribution (or other cells), or raise pool and tries"
            )
        shape = self.pool.shape[1:]
        self.bank = boundary.probe_bank(shape, subspace=self.subspace, rank=self.rank, seed=self.seed).to(self.device)

    def write(self, batch: Batch) -> None:
        """Make the images whose class can be reached."""
        can = self.reached[batch.index % self.num_classes]
        if can.any():
            super().write(Batch(batch.image[can], batch.index[can]))

    def label(self, batch: Batch, predict: Predict) -> dict[str, Tensor]:
        """Images of a batch, all classes at once, from noise to the last iteration."""
        own, key = batch.index % self.num_classes, batch.index
        images, queries = self._starts(key, own, predict)
        point, idle, distance = images.clone(), torch.zeros_like(own), images.new_zeros(len(images))
        columns: dict[str, Tensor] = {}
        for iteration in range(self.iterations):
            if iteration in self.snapshots:
                now = {"image": _bytes(images), "distance": distance, "queries": queries.clone()}
                columns |= {f"{name}_after_{iteration}": column for name, column in now.items()}
            rows = torch.nonzero(idle < self.patience).squeeze(1)
            if not len(rows):
                continue
            found = self._nearest(images[rows], own[rows], key[rows], iteration, point[rows], predict)
            normal, asked = self._normal(images[rows], own[rows], key[rows], iteration, found, predict)
            images[rows], gone, steps = boundary.retreat(  # o - ξ_o ∇F(o*), below Eq. (8)
                predict, images[rows], own[rows], normal, self.step, batch_size=self.batch_size
            )  # fmt: skip
            queries[rows] += found.queries + asked + steps
            idle[rows] = torch.where(gone > 0.01 * self.step, 0, idle[rows] + 1)
            point[rows] = found.point
            distance = (images - point).flatten(1).norm(dim=1)
        written = _bytes(images)
        label = torch.cat([predict(part.float() / 255) for part in written.split(self.batch_size)])
        return {**columns, "image": written, "label": label, "distance": distance, "queries": queries + 1}

    def facts(self, rows: dict[str, Tensor]) -> dict[str, Any]:
        """What came of the classes, how far from the boundary the images are, what an image cost."""
        return {
            "num_classes": self.num_classes,
            "class_histogram": torch.bincount(rows["label"], minlength=self.num_classes).tolist(),
            "noise_histogram": self.noise_histogram,
            "mixtures": len(self.pool) - self.pool_size,
            "missing_classes": torch.nonzero(~self.reached).squeeze(1).tolist(),
            "shortfall": self.rows_total - len(rows["index"]),
            "kept_class": round(float((rows["label"] == rows["index"] % self.num_classes).float().mean()), 4),
            "mean_robustness": round(float(rows["distance"].mean()), 4),
            "queries_per_image": round(float(rows["queries"].float().mean()), 1),
            "preparation_queries": self.preparation_queries(),
        }

    def expected(self, data: NoiseDataModule) -> Tensor:  # type: ignore[override]
        """All images of the classes that could be reached."""
        index = data.predict_indices()
        return index[self.reached.cpu()[index % self.num_classes]]

    def preparation_queries(self) -> int:
        """One for every noise and mixture."""
        return len(self.pool)

    def _histogram(self) -> list[int]:
        return [int(number) for number in torch.bincount(self.pool_class, minlength=self.num_classes)]

    def _mixtures(self, number: int) -> Tensor:
        """1,000 lines through two noises each, at points between and beyond them, rounded like the noises."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        one, other = torch.randint(self.pool_size, (2, 1000), generator=generator).to(self.device)
        share = torch.empty(1000, 1, 1, 1).uniform_(-2, 3, generator=generator).to(self.device)
        mixed = self.pool[one] + share * (self.pool[other] - self.pool[one])
        return mixed.clamp_(0, 1).mul_(255).round_().div_(255)

    def _starts(self, key: Tensor, own: Tensor, predict: Predict) -> tuple[Tensor, Tensor]:
        """A noise of its class for every image, and the queries this took."""
        place = key // self.num_classes
        position, toward, borrowed = torch.empty_like(own), torch.zeros_like(own), torch.zeros_like(own).bool()
        for m in own.unique().tolist():
            rows = torch.nonzero(own == m).squeeze(1)
            members = torch.nonzero(self.pool_class == m).squeeze(1)
            others = torch.nonzero(self.pool_class != m).squeeze(1)
            enough = place[rows] < len(members)
            position[rows[enough]] = members[place[rows[enough]]]
            short = rows[~enough]
            borrowed[short] = True
            position[short] = others[(place[short] * 7919 + m) % len(others)]
            toward[short] = members[place[short] % len(members)]
        images, queries = self.pool[position], torch.zeros_like(own)
        if borrowed.any():
            crossed = boundary.boundary_distance(
                predict, images[borrowed], own[borrowed], self.pool, toward[borrowed][:, None],
                tolerance=self.tolerance, batch_size=self.batch_size,
            )  # fmt: skip
            images[borrowed], queries[borrowed] = crossed.point, crossed.queries
        return images, queries

    def _nearest(
        self, images: Tensor, own: Tensor, key: Tensor, iteration: int, last: Tensor, predict: Predict
    ) -> boundary.BoundaryPoints:
        """o*: the nearest point that the teacher does not put in the images' class, as far as the limit allows."""
        target = boundary.any_but(own)
        if iteration == 0 or self.search == "fresh":
            start = boundary.boundary_distance(  # Eq. (8)
                predict, images, target, self.pool, self._other_noises(own, key, iteration),
                tolerance=self.tolerance, batch_size=self.batch_size,
            )  # fmt: skip
        else:
            start = boundary.BoundaryPoints(last, (last - images).flatten(1).norm(dim=1), torch.zeros_like(own))
        return boundary.minimal_boundary_distance(  # Eqs. (4)-(5), where the limit lets it
            predict, images, target, start, _turn(key, iteration), self.bank, num_probes=self.num_probes,
            probe_radius=self.probe_radius, tolerance=self.tolerance, query_limit=self.query_limit,
            batch_size=self.batch_size,
        )  # fmt: skip

    def _normal(
        self, images: Tensor, own: Tensor, key: Tensor, iteration: int, at: boundary.BoundaryPoints, predict: Predict
    ) -> tuple[Tensor, int]:
        """Unit vectors out of the class, and the queries for each."""
        if self.gradient == "direction":
            away = at.point - images
            return away / away.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None], 0
        radius = self.probe_radius * at.distance.clamp_min(self.step)  # on the boundary itself it would be 0
        normal = boundary.boundary_normal(  # Eq. (4) at o*
            predict, at.point, boundary.any_but(own), radius, _turn(key, iteration) + 1, self.bank, self.num_probes,
            self.batch_size,
        )  # fmt: skip
        return normal, self.num_probes

    def _other_noises(self, own: Tensor, key: Tensor, iteration: int) -> Tensor:
        """Positions ``(P, T)`` in the pool of noises of other classes."""
        positions = torch.empty(len(own), self.directions, dtype=torch.int64, device=own.device)
        turn = torch.arange(self.directions, device=own.device)
        for m in own.unique().tolist():
            others = torch.nonzero(self.pool_class != m).squeeze(1)
            rows = torch.nonzero(own == m).squeeze(1)
            draw = _turn(key[rows], iteration)[:, None] * 7919 + turn * 104_729
            positions[rows] = others[draw % len(others)]
        return positions


def _turn(key: Tensor, iteration: int) -> Tensor:
    """A number for every image and iteration, which owns its draws."""
    return key * 1009 + 2 * iteration


def _bytes(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)
