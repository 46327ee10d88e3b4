"""KD³: learn from images of the web, of which few are about the task, under a distribution shift.

.. [Tang2023] J. Tang, S. Chen, G. Niu, M. Sugiyama, C. Gong. Distribution Shift Matters for Knowledge Distillation with
   Webly Collected Images. ICCV 2023.
Reference code: https://github.com/tangjialiang97/KD3 (no licence: read for facts, nothing copied).

Access: white box (logits, features and the classifier's weights). Phases: fit KD3 on a pool.

Differences from the paper (P) and the released code (R):
1. The pool is scored before every epoch (R; P says "dynamically"), on the images themselves, without augmentation; R
   takes one randomly augmented view and trains on another.
2. Probabilities are combined (P); R combines logits.
3. α(t) reaches 1 in the middle of the training (P); R's is slower and jumps (exp(-5 ((e + 1) / 160 - 1)²) up to epoch
   120 of 240). t is the epoch.
4. Thresholds grow linearly with a class's count (P); ``mapping="convex"`` is R's.
5. Eq. 9 on probabilities, small where student and teacher disagree (P, which leaves open whether N(x) are probabilities
   or logits); ``weighting="released"`` is R's sigmoid of the logits' distance, large where they disagree.
6. H_mse is the mean over all elements of the last maps after the student's connector (R), or of the vectors where the
   teacher's classifier does not read the mean of its map, as LeNet-5's.
7. A connector only where widths differ: P's sizes (11.17 M for ResNet-18) have none, R always has one. It is part of
   the student, counted in its size and kept. For vectors, which R has none for, it is linear.
8. L_mdcl as printed excludes the positive pair from the denominator; ``contrastive="ntxent"`` is R's SimCLR loss. Both
   are means over the batch, not sums (R).
9. The student's 128-dimensional head reads the vector that the shared classifier reads; R's reads the one before the
   connector. L_mdcl^T trains the teacher's head and nothing that the student learns from, since the teacher is frozen:
   it is left out.
10. δ of Beta(δ, δ) is 0.1 (R; P does not say). λ is drawn per image, statistics are per image and channel (R).
11. α of Eq. 18 is 0.01 (P); R's default is 0.001.
12. Where less than ``least_share`` of the pool are chosen, the teacher alone chooses in that epoch, with a warning:
   from a student that is not trained far enough at half time almost nothing is chosen, and it never recovers.
13. t / I is the share of the training that is over, by epochs or by steps, whichever end it first.
14. The last student. R keeps the best test accuracy.
"""

from typing import Any, Literal, cast

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F

from kdlightning.data.base import above_zero, at_least
from kdlightning.functional.divergence import kd_divergence
from kdlightning.functional.selection import (
    Choice,
    Mapping,
    agreement_weights,
    choose,
    class_thresholds,
    contrastive_loss,
    mix_distribution,
    student_weight,
    top_predictions,
)
from kdlightning.modules.arguments import check_networks
from kdlightning.modules.base import run_seed
from kdlightning.modules.schedule import progress
from kdlightning.modules.selecting import SelectingModule
from kdlightning.networks.pretrained import name_of
from kdlightning.networks.shared import Features, SharedClassifierNetwork
from kdlightning.teachers import WhiteBoxTeacher, as_teacher
from kdlightning.types import Batch


class KD3(SelectingModule):
    """Knowledge Distillation between Different Distributions, on any pool: :class:`WebDataModule`, ``UnionDataModule``.

    Args:
        teacher: a white box that ends in a linear layer and follows timm's conventions.
        student: likewise; it becomes a :class:`SharedClassifierNetwork`, with the teacher's classifier.
        selection: which images an epoch trains on: by the ``combined`` predictions of teacher and student (Eq. 3), the
            ``teacher``'s or the ``student``'s. And references: as many ``random`` ones, drawn anew in every epoch, as
            the teacher would choose; ``all``; or the ``oracle``'s, those that show one of the task's classes.
        threshold: V_th of Eq. 6.
        selection_temperature: T of the teacher's softmax in the selection; the paper has 1.
        mapping: of class counts to thresholds, ``linear`` or ``convex``: see difference 4.
        least_share: of the pool, below which the teacher alone chooses; 0 for never.
        images_per_epoch: exactly so many, all chosen ones equally often but for one, so that all selections make the
            same number of steps; None for every chosen image once.
        classifier: ``shared``, the teacher's, frozen; or an own one that learns the teacher's ``one-hot`` or ``soft``
            predictions (Table 2's "no classifier sharing").
        features: what is aligned: see :class:`SharedClassifierNetwork`.
        connect: with a connector also where widths are equal.
        weighting: of the images in the alignment: ``printed`` or ``released``, see difference 5, or ``none``.
        contrastive_weight: α of Eq. 18; 0 for none.
        contrastive: form of L_mdcl: see difference 8.
        temperature: τ of L_mdcl.
        delta: δ of the Beta distribution of λ.
        perturbation: a transform of images in [0, 1] in MixDistribution's place, drawn for each image; of a batch at
            once if it says ``per_image``, as the :class:`~kdlightning.data.augmentation.Mixup` of Table 2's "no MD".
        embedding: length of the embeddings in L_mdcl.
        options: those of :class:`DistillationModule`; the optimiser is also the head's.

    Raises:
        TypeError: a teacher without a linear classifier, or a network that does not follow timm's conventions.
        ValueError: a student without a size or a map; once trained, an ``oracle`` of a pool that does not know what its
            images show.
    """

    access = "white"
    student: SharedClassifierNetwork

    def __init__(
        self,
        teacher: WhiteBoxTeacher,
        student: nn.Module,
        selection: Literal["combined", "teacher", "student", "random", "all", "oracle"] = "combined",
        threshold: float = 0.95,
        selection_temperature: float = 1.0,
        mapping: Mapping = "linear",
        least_share: float = 0.01,
        images_per_epoch: int | None = None,
        classifier: Literal["shared", "one-hot", "soft"] = "shared",
        features: Features = "auto",
        connect: bool = False,
        weighting: Literal["printed", "released", "none"] = "printed",
        contrastive_weight: float = 0.01,
        contrastive: Literal["printed", "ntxent"] = "printed",
        temperature: float = 0.3,
        delta: float = 0.1,
        perturbation: nn.Module | None = None,
        embedding: int = 128,
        **options: Any,  # noqa: ANN401 - DistillationModule's
    ) -> None:
        check_networks(student=student)
        teacher = as_teacher(teacher, WhiteBoxTeacher)
        shared = SharedClassifierNetwork.of(student, teacher, features, connect)
        super().__init__(shared, **options)
        above_zero(temperature=temperature, selection_temperature=selection_temperature)
        at_least(1, images_per_epoch=images_per_epoch)
        self.teacher, self.selection, self.classifier = teacher, selection, classifier
        self.threshold, self.mapping, self.least_share = threshold, mapping, least_share
        self.selection_temperature, self.images_per_epoch = selection_temperature, images_per_epoch
        self.weighting, self.contrastive_weight, self.contrastive = weighting, contrastive_weight, contrastive
        self.temperature, self.delta, self.perturbation = temperature, delta, perturbation
        if classifier != "shared":
            shared.classifier = nn.Linear(shared.num_features, shared.num_classes)
        # it is not kept
        self.head = nn.Linear(shared.num_features, embedding) if contrastive_weight else nn.Identity()
        self._teacher_says: dict[int, Tensor] = {}

    @property
    def student_name(self) -> str:
        """The network that the connector and the teacher's classifier were added to."""
        return name_of(self.student.student)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """L_wfa + α L_mdcl, Eq. 18 of [Tang2023]_; with an own classifier, its term."""
        ours, theirs = self.student.forward_features(batch.image), self.teacher_features(batch.image)
        logits, target = self.student.forward_head(ours), self.teacher_logits(theirs)
        error = F.mse_loss(ours, _like(theirs, ours), reduction="none").flatten(1).mean(1)
        weight = 1.0 if self.weighting == "none" else agreement_weights(logits, target, self.weighting)
        terms = {"alignment": (weight * error).mean()}  # Eq. (10)
        if self.classifier == "one-hot":
            terms["classifier"] = F.cross_entropy(logits, target.argmax(1))
        if self.classifier == "soft":
            terms["classifier"] = kd_divergence(logits, target.log_softmax(1), 1.0)
        if self.contrastive_weight and len(batch.image) > 1:
            views = (ours, self.student.forward_features(self.perturbed(batch.image)))
            first, second = (self.head(self._vector(view)) for view in views)
            loss = contrastive_loss(first, second, self.temperature, self.contrastive)  # Eq. (17), the student's half
            terms["contrastive_student"] = self.contrastive_weight * loss
        return terms

    def perturbed(self, images: Tensor) -> Tensor:
        """The images in another distribution: MixDistribution, Eqs. 11-12 of [Tang2023]_, or the ``perturbation``."""
        if self.perturbation is not None:
            if getattr(self.perturbation, "per_image", False):
                return cast(Tensor, self.perturbation(images))
            return torch.stack([self.perturbation(image) for image in images])
        partner = torch.randperm(len(images), device=images.device)
        coefficient = torch.distributions.Beta(self.delta, self.delta).sample((len(images),)).to(images)
        return mix_distribution(images, partner, coefficient)

    @torch.no_grad()
    def teacher_features(self, images: Tensor) -> Tensor:
        """The teacher's last map, or its vector where vectors are aligned; no gradient."""
        features: Tensor = self.teacher.forward_features(images)
        return features if self.student.map_size else self.teacher.forward_head(features, pre_logits=True)

    @torch.no_grad()
    def teacher_logits(self, features: Tensor) -> Tensor:
        """The teacher's logits ``(N, K)`` of its features."""
        logits: Tensor = self.teacher.get_classifier()(self._vector(features))
        return logits

    def scores(self, images: Tensor, first: int) -> Tensor:
        """Top probability and class, the teacher's and the combined prediction's: Eqs. 3 and 5 of [Tang2023]_."""
        if first not in self._teacher_says:  # the same in every epoch
            softened = self.teacher(images).float() / self.selection_temperature
            self._teacher_says[first] = softened.softmax(1).cpu()
        p_teacher = self._teacher_says[first].to(images.device)
        return top_predictions(p_teacher, self(images).float().softmax(1) if self.alpha else p_teacher, self.alpha)

    @property
    def alpha(self) -> float:
        """α(t), the student's weight in this epoch's predictions; 0 where it is not asked."""
        if self.selection == "combined":
            if (over := progress(self.trainer)) is None:
                raise ValueError("KD3: α(t) needs the end of the training: set trainer.max_epochs or trainer.max_steps")
            return student_weight(over)
        return float(self.selection == "student")

    def choose(self, scores: Tensor) -> Choice:
        """Confident images by their class's threshold, Eqs. 6-8 of [Tang2023]_, or what ``selection`` says."""
        chosen = choose(scores, self.threshold, self.mapping, self.least_share)
        mask = chosen.mask
        if self.selection == "all":
            mask = torch.ones_like(mask)
        elif self.selection == "oracle":
            mask = self._truth().to(mask.device) >= 0
        elif self.selection == "random":
            generator = torch.Generator().manual_seed(run_seed(self.current_epoch, 0) + 1)
            drawn = torch.randperm(len(mask), generator=generator)[: int(mask.sum())]
            mask = torch.zeros_like(mask).index_fill(0, drawn.to(mask.device), True)
        elif chosen.teacher_alone and self.alpha:
            rank_zero_warn(
                f"the predictions of epoch {self.current_epoch} choose less than least_share={self.least_share} of "
                f"{len(mask)} images: the student is sure of nothing yet, the teacher alone chooses"
            )
        return chosen._replace(mask=mask)

    def select(self) -> Tensor:
        """Positions in the pool, ``images_per_epoch`` of them if that is given."""
        positions = super().select()
        if self.images_per_epoch is None:
            return positions
        generator = torch.Generator().manual_seed(run_seed(self.current_epoch, 0) + 2)
        positions = positions[torch.randperm(len(positions), generator=generator)]
        return positions.repeat(-(-self.images_per_epoch // len(positions)))[: self.images_per_epoch]

    def describe(self, choice: Choice) -> dict[str, Any]:
        """Adds ``alpha``, ``teacher_alone`` and ``unfiltered``.

        The last is the share of the chosen whose class is predicted so rarely that its threshold is below 1 / K: all
        of them pass, however unsure.
        """
        thresholds = class_thresholds(torch.bincount(choice.label), self.threshold, self.mapping)
        unfiltered = thresholds[choice.label[choice.mask]] < 1 / self.student.num_classes
        own = {"alpha": round(self.alpha, 6), "teacher_alone": choice.teacher_alone}
        return {**super().describe(choice), **own, "unfiltered": round(float(unfiltered.float().mean()), 6)}

    def _truth(self) -> Tensor:
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if getattr(data, "truth", None) is None:
            told = "expected a pool that knows what its images show, such as BlendedDataModule or a labelled"
            raise ValueError(f"selection=oracle: {told} UnionDataModule, got a {type(data).__name__}")
        truth: Tensor = data.truth
        return truth

    def trained(self) -> list[nn.Parameter]:
        """The student, without a shared classifier, and its head."""
        return [p for p in (*self.student.parameters(), *self.head.parameters()) if p.requires_grad]

    def description(self, name: str) -> dict[str, Any]:
        """Of the whole student: body, connector and classifier."""
        inner = super().description(name)
        if name != "student" or not inner:
            return {}
        shared = self.student
        return {
            "class_path": "kdlightning.networks.SharedClassifierNetwork",
            "init_args": {**shared.arguments, "student": inner},
        }

    def _vector(self, features: Tensor) -> Tensor:
        """What the classifier reads of features of either network."""
        return self.student.forward_head(features, pre_logits=True)


def _like(theirs: Tensor, ours: Tensor) -> Tensor:
    """The teacher's map, averaged down to the student's size where that is smaller."""
    if theirs.ndim == 4 and theirs.shape[-1] > ours.shape[-1]:
        return F.adaptive_avg_pool2d(theirs, ours.shape[-1])
    return theirs
