"""DB3KD: soft labels from an image's distances to the decision boundaries of a teacher that answers top-1 only.

.. [Wang2021] Z. Wang. Zero-Shot Knowledge Distillation from a Decision-Based Black-Box Model. ICML 2021.
   https://proceedings.mlr.press/v139/wang21a.html
Reference code: https://github.com/zwang84/zsdb3kd/tree/7af7585e (no licence: read for facts, nothing copied).

Access: hard labels. Phases: predict DB3KDLabels → fit DB3KD on a TransferSetDataModule.

Differences from the paper (P) and the released code (C); docs/fidelity.md has the evidence:
1. Class of an image: the teacher's answer. C takes ground truth, also for the soft label; ``truth: true`` does that.
2. Candidates: the nearest images that the teacher itself puts in the target class (1 query per pool image, once).
   P and C: random images of the ground-truth class.
3. A candidate that cannot improve the distance by 1 % is dropped with one query (C drops with one query at 0 %).
4. MBD follows P's Eqs. 4-5 (a boundary point moves); C moves a direction (Sign-OPT), with a line search shared by the
   batch. Here every pair has its own step, and points stay in the pixel box; C clamps what it asks but keeps the
   unclamped distance.
5. Probes of Eq. 4 are orthogonal directions in the span of the user's images' principal components (``subspace:
   images``), 50 of them, and the normals of earlier iterations count too; ``pixels`` with 200 is P's isotropic choice.
   P gives no ε_g: 0.1 of the present distance here, C: 0.001.
6. Eq. 7 as printed, τ = 0.3. C: no Eq. 7, τ = 20, KL summed over the batch: ``normalise: false`` in DB3KDLabels,
   ``temperature: 20``, ``reduction: sum`` in DB3KD.
7. An image that the teacher already puts in the target class (only with ``truth``) costs no query: distance
   ``min_distance``. C does not return. A class that the teacher never answers: distance inf, weight 0.
8. ``mapping: linear`` is neither P's nor C's: logits −slope · r at T = 4, taken as KD takes a soft teacher's. Eq. 7 at
   τ = 0.3 leaves near and far classes almost alike, whatever the search has measured.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlightning.data.base import ImageDataModule, above_zero
from kdlightning.data.transferset import TransferSetDataModule
from kdlightning.functional import boundary
from kdlightning.functional.divergence import kd_divergence, softened
from kdlightning.modules.base import DistillationModule
from kdlightning.modules.labelling import LabellingModule, Predict
from kdlightning.teachers import HardLabelTeacher, as_teacher
from kdlightning.types import Batch


class DB3KDLabels(LabellingModule):
    """Phase 1, ``predict``: the robustness of every image against every class, and soft labels from it (Eqs. 2-7).

    Columns of the transfer set: ``label`` (class m), ``distance`` ``(N, K)`` (r; 0 for m, inf where not found),
    ``activation`` ``(N, K)`` (Eq. 7), ``queries``.

    Args:
        teacher: answers top-1 labels.
        output: directory of the transfer set.
        num_classes: K.
        robustness: ``sd`` sample distance (Eq. 2), ``bd`` boundary distance (Eq. 3), ``mbd`` minimal boundary
            distance (Eqs. 4-5), ``noise`` random distances (the paper's control "noise logits").
        candidates: S of Eq. 3, images of the target class tried for each pair.
        candidate_pool: how many of the local images the candidates come from; None for all.
        tolerance: ε, width of the last bracket of the binary search, L2 in pixel units.
        num_probes: Q of Eq. 4.
        step: ξ_d, the first step relative to the present distance.
        probe_radius: ε_g relative to the present distance.
        query_limit: images per (image, class) pair with ``mbd``, those of ``bd`` included.
        subspace: where the probes are drawn, see :func:`kdlightning.functional.boundary.probe_bank`.
        rank: its dimensions.
        surrogate: for ``mbd``, an untrained network, pixels to logits, that learns what ``bd`` has asked about a batch
            and leads the walk, for no query; a pair's result then depends on its batch.
        truth: take ground-truth labels for class m (and for the classes of ``sd``, which then asks nothing).
        normalise: divide by (sum of 1/r)², Eq. 7.
        min_distance: floor of the distances in Eq. 6.
        batch_size: images per call of the teacher.
        seed: owner of the probes and the noise.
    """

    columns = ("label", "distance", "activation")

    def __init__(
        self,
        teacher: HardLabelTeacher,
        output: str,
        num_classes: int,
        robustness: Literal["sd", "bd", "mbd", "noise"] = "bd",
        candidates: int = 100,
        candidate_pool: int | None = None,
        tolerance: float = 1e-5,
        num_probes: int = 50,
        step: float = 0.2,
        probe_radius: float = 0.1,
        query_limit: int = 1000,
        subspace: boundary.Subspace = "images",
        rank: int = 100,
        surrogate: nn.Module | None = None,
        truth: bool = False,
        normalise: bool = True,
        min_distance: float = 1e-3,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(as_teacher(teacher, HardLabelTeacher), output)
        self.num_classes, self.robustness, self.candidates = num_classes, robustness, candidates
        self.candidate_pool, self.tolerance, self.num_probes, self.step = candidate_pool, tolerance, num_probes, step
        self.probe_radius, self.query_limit, self.subspace, self.rank = probe_radius, query_limit, subspace, rank
        if surrogate is not None and robustness != "mbd":
            raise ValueError(f"surrogate: leads the walk of robustness='mbd', got {robustness!r}")
        self.surrogate = surrogate
        self.truth, self.normalise, self.min_distance = truth, normalise, min_distance
        self.batch_size, self.seed = batch_size, seed

    @property
    def asks(self) -> bool:
        """Whether the teacher is asked at all: not for sample distances between ground-truth classes."""
        return not (self.truth and self.robustness in ("sd", "noise"))

    def questions(self, data: Any, rows: int) -> tuple[int, int]:  # noqa: ANN401 - a datamodule
        """The pool, the images outside it, and with ``bd`` and ``mbd`` at most so many for every pair."""
        if not self.asks:
            return 0, 0
        pool = data.count_candidates(self.candidate_pool)
        outside = min(rows, max(0, len(data.predict_indices()) - pool))
        pair = 0
        if self.robustness in ("bd", "mbd"):
            values = data.channels * data.image_size**2
            pair = boundary.most_boundary_queries(min(self.candidates, pool), values, self.tolerance)
        if self.robustness == "mbd":
            pair = max(pair, self.query_limit)
        return pool + outside, pool + outside + rows * (self.num_classes - 1) * pair

    def prepare(self, data: ImageDataModule) -> None:
        """Let the teacher label the candidate pool: every image once, in chunks that the processes share."""
        pool = data.candidate_pool(self.candidate_pool)
        self.pool = pool.image.to(self.device).float().div(255)
        self.bank = torch.empty(0)
        if self.asks:
            self.pool_class = self.label_pool(self.pool, self.batch_size)
        elif pool.label is None:
            raise ValueError("truth: true needs labels, but the datamodule withholds them (unlabelled: true)")
        else:
            self.pool_class = pool.label.to(self.device)
        limit = int(pool.index.max()) + 1
        self.known = torch.full((limit,), -1, dtype=torch.int64, device=self.device)
        self.known[pool.index.to(self.device)] = self.pool_class
        if self.robustness == "mbd":
            images = self.pool if self.subspace == "images" else None
            self.bank = boundary.probe_bank(
                self.pool.shape[1:], subspace=self.subspace, images=images, rank=self.rank, seed=self.seed
            ).to(self.device)

    def label(self, batch: Batch, predict: Predict) -> dict[str, Tensor]:
        """Distances and soft labels of a batch of images."""
        own, answered, asked = self._own_class(batch, predict)
        distance, queries = self._distances(batch, own, answered, predict)
        distance[torch.arange(len(own)), own] = 0.0
        activation = boundary.activations(distance, own, normalise=self.normalise, floor=self.min_distance)
        return {"label": own, "distance": distance, "activation": activation, "queries": queries + asked}

    def facts(self, rows: dict[str, Tensor]) -> dict[str, Any]:
        """Mean distances class by class (Fig. 5), queries per pair, and what was not found."""
        own, distance = rows["label"], rows["distance"]
        found = torch.isfinite(distance) & (distance > 0)
        mean = [
            [_mean(distance[own == m, n][found[own == m, n]]) if m != n else None for n in range(self.num_classes)]
            for m in range(self.num_classes)
        ]
        pairs = len(own) * (self.num_classes - 1)
        return {
            "robustness": self.robustness,
            "pairs": pairs,
            "pairs_not_found": int(torch.isinf(distance).sum()),
            "pairs_at_floor": int((distance == self.min_distance).sum()),
            "queries_per_pair": float(rows["queries"].sum()) / pairs,
            "preparation_queries": self.preparation_queries(),
            "mean_robustness": _mean(distance[found]),
            "mean_distance": mean,
        }

    def preparation_queries(self) -> int:
        """One for every image of the pool, where the teacher labels it."""
        return len(self.pool) if self.asks else 0

    def _own_class(self, batch: Batch, predict: Predict) -> tuple[Tensor, Tensor, Tensor]:
        """Class m, the teacher's answer (-1 where it was not asked), and the queries this took."""
        index = batch.index.clamp_max(len(self.known) - 1)
        answered = torch.where(batch.index < len(self.known), self.known[index], -1)
        asked = torch.zeros_like(answered)
        unknown = torch.nonzero(answered < 0).squeeze(1)
        if self.asks and len(unknown):
            answered[unknown] = predict(batch.image[unknown])
            asked[unknown] = 1
        if not self.truth:
            return answered, answered, asked
        if batch.label is None:
            raise ValueError("truth: true needs labels, but the datamodule withholds them (unlabelled: true)")
        return batch.label, answered, asked

    def _distances(self, batch: Batch, own: Tensor, answered: Tensor, predict: Predict) -> tuple[Tensor, Tensor]:
        """Robustness ``(N, K)`` and queries ``(N,)``."""
        number, queries = len(own), torch.zeros_like(own)
        if self.robustness == "noise":
            return boundary.random_distance(batch.index, self.num_classes, self.seed).to(batch.image), queries
        if self.robustness == "sd":
            return boundary.sample_distance(batch.image, self.pool, self.pool_class, self.num_classes), queries
        distance = batch.image.new_full((number, self.num_classes), self.min_distance)
        # a pair whose image the teacher already puts in the target class stays at the floor, unasked
        wanted = F.one_hot(own, self.num_classes).logical_not() & F.one_hot(answered, self.num_classes).logical_not()
        image, target = torch.nonzero(wanted, as_tuple=True)
        images = batch.image[image]
        index = boundary.nearest_candidates(images, self.pool, self.pool_class, target, self.candidates)
        asked = None if self.surrogate is None else boundary.Recorder(predict)
        points = boundary.boundary_distance(
            asked or predict, images, target, self.pool, index, tolerance=self.tolerance, batch_size=self.batch_size
        )
        if self.robustness == "mbd":
            key = batch.index[image] * self.num_classes + target
            guide: boundary.Guide | None = None
            if self.surrogate is not None and asked is not None:
                guide = boundary.imitation(self.surrogate, asked, seed=self.seed)
            points = boundary.minimal_boundary_distance(
                predict, images, target, points, key, self.bank,
                num_probes=self.num_probes, step=self.step, probe_radius=self.probe_radius,
                query_limit=self.query_limit, guide=guide, batch_size=self.batch_size,
            )  # fmt: skip
        distance[image, target] = points.distance
        return distance, queries.index_add(0, image, points.queries)


def _mean(values: Tensor) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None


class DB3KD(DistillationModule):
    """Phase 2, ``fit`` on a ``TransferSetDataModule``: Eq. 1 with the soft labels of phase 1.

    Args:
        student: pixels in [0, 1] to logits ``(N, K)``.
        temperature: τ of Eq. 1, both sides. None: 0.3 with ``eq7`` (the paper's), 4 with ``linear``, times τ².
        kd_weight: λ of Eq. 1.
        ce_weight: weight of the cross-entropy.
        cross_entropy: with ground-truth ``labels`` where they exist, with the ``teacher``'s top-1 labels, or ``none``.
        reduction: of the KL over the batch; ``sum`` is the released code's.
        mapping: ``eq7`` reads the transfer set's ``activation``, ``linear`` its ``distance``, see difference 8.
        slope: logits of ``linear`` in the unit of the set, the mean distance to the nearest other class; without a
            transfer set (a loader of your own) in that of the distances given.
        options: those of :class:`DistillationModule`.
    """

    access = "hard"

    def __init__(
        self,
        student: nn.Module,
        temperature: float | None = None,
        kd_weight: float = 1.0,
        ce_weight: float = 1.0,
        cross_entropy: Literal["labels", "teacher", "none"] = "labels",
        reduction: Literal["mean", "sum"] = "mean",
        mapping: Literal["eq7", "linear"] = "eq7",
        slope: float = 3.0,
        **options: Any,  # noqa: ANN401 - DistillationModule's
    ) -> None:
        super().__init__(student, **options)
        self.temperature = temperature if temperature is not None else {"eq7": 0.3, "linear": 4.0}[mapping]
        above_zero(temperature=self.temperature, slope=slope)
        self.mapping, self.slope, self.unit = mapping, slope, 1.0
        self.kd_weight, self.ce_weight = kd_weight, ce_weight
        self.cross_entropy, self.reduction = cross_entropy, reduction

    def setup(self, stage: str) -> None:
        """Take the unit of length from the transfer set; a ValueError where its column is not ``mapping``'s."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, TransferSetDataModule):
            return
        if (data.column == "distance") != (self.mapping == "linear"):
            wanted = "distance" if self.mapping == "linear" else "null (activation)"
            raise ValueError(f"mapping: {self.mapping} needs the data's column: {wanted}, got {data.column}")
        if self.mapping == "linear":
            self.unit = boundary.mean_nearest(*map(data.transfer_set.column, ("distance", "label")))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """L_CE(P_s, y) + λ L_KD(P_t^τ, P_s^τ), Eq. 1 of [Wang2021]_."""
        if batch.answer is None:
            raise ValueError(
                "DB3KD trains on a TransferSetDataModule, whose batches carry the soft labels of phase 1; a loader of "
                "your own has to yield {'image': ..., 'answer': ...}"
            )
        logits, given, scale = self(batch.image), batch.answer, 1.0
        if self.mapping == "linear":
            given, scale = boundary.linear_logits(given / self.unit, self.slope), self.temperature**2
        divergence = kd_divergence(logits, softened(given, self.temperature), self.temperature)
        if self.reduction == "sum":
            scale *= len(logits)
        terms = {"kd": self.kd_weight * scale * divergence}  # Eq. (1), second term
        hard = given.argmax(1) if self.cross_entropy == "teacher" else batch.label
        if self.cross_entropy != "none" and hard is not None and self.ce_weight > 0:
            terms["ce"] = self.ce_weight * F.cross_entropy(logits, hard)  # Eq. (1), first term
        return terms
