"""Shader KD: learn from images that look like nothing, pushed to the teacher's decision boundaries.

.. [Frank2023] L. Frank, J. Davis. Data-Free Knowledge Distillation Using Adversarially Perturbed OpenGL Shader Images.
   2023.
No code is public under the paper's name; a later code of the first author, loganfrank/temp-good-kd (L), has the attack.

Access: white box (input gradients). Phases: fit ShaderKD on a pool: :class:`ShaderDataModule`, or any other.

Differences from the paper (P) and the later code (L):
1. The shader programs are made by a grammar: the paper's 1,089 cannot be had any more.
2. The pool is labelled by the teacher and assigned to target classes once, before training, without augmentation (P
   does not say); a pool that is rendered anew while training goes on, which P has not, before every epoch. A class that
   the teacher never predicts lends no images; the run says which.
3. Order: augmentation (of the datamodule), mixup, attack, filter, divergence (L). Mixup: one coefficient from U(0, 1)
   per image (L; P: "α in U(0,1)"); the target is the first image's (L).
4. Bold Driver: the step grows by 1.1 while the boundary is not crossed and halves on overshoot (L; P does not say).
5. The filter wants the target class and both confidences below the threshold (P); L checks the class only.
6. The loss carries T² (L; P's Eq. 4 does not print it, but says "standard").
7. A step in which fewer than two images survive learns from the mixed images themselves.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.utils.data import Dataset

from kdlightning.data.base import above_zero
from kdlightning.data.sets import ImageSet
from kdlightning.functional.adversarial import border_attack, deeper_attack
from kdlightning.functional.divergence import kd_divergence, softened
from kdlightning.functional.selection import Choice, assign_targets
from kdlightning.modules.selecting import SelectingModule
from kdlightning.teachers import WhiteBoxTeacher, as_teacher
from kdlightning.types import Batch

Part = Literal["post", "pre", "deeper", "mixed", "normal"]


class TargetedImages(Dataset[Batch]):
    """Images with the class that they are to be pushed to, in the place of labels.

    Args:
        images: the pool.
        positions: in the pool ``(N,)``; an image may occur several times.
        targets: classes ``(N,)``.
    """

    def __init__(self, images: ImageSet, positions: Tensor, targets: Tensor) -> None:
        self.images, self.positions, self.targets = images, positions, targets

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, position: int) -> Batch:
        """A batch of one."""
        return self.__getitems__([position])

    def __getitems__(self, positions: list[int]) -> Batch:
        """One batch."""
        rows = torch.as_tensor(positions)
        return self.images.__getitems__(self.positions[rows].tolist())._replace(label=self.targets[rows])

    def retarget(self, position: Tensor, label: Tensor, num_classes: int, generator: torch.Generator) -> None:
        """Images at positions ``(M,)`` now have the labels ``(M,)``: where that is one's target, draw another."""
        known = torch.full((len(self.images),), -1)
        known[position] = label
        clash = (known[self.positions] == self.targets).nonzero()[:, 0]
        other = torch.randint(1, num_classes, (len(clash),), generator=generator)
        self.targets[clash] = (self.targets[clash] + other) % num_classes


class ShaderKD(SelectingModule):
    """Distillation from adversarially perturbed images of a pool.

    A step learns from up to four images for each one attacked. So an ablation without the attack takes a batch four
    times as large, and four times ``per_class``, to have as many images a step and as many steps.

    Args:
        teacher: a white box; gradients reach its input.
        student: pixels in [0, 1] to logits ``(N, K)``.
        per_class: N_i, images that are assigned to every class; None: as many as the pool has, divided by K, of which
            less than a half are different ones then: ``selection.jsonl`` tells how many are ``drawn`` and ``distinct``.
        parts: what the student learns from: ``post`` and ``pre``, the images just behind and before the boundary;
            ``deeper``, both a step further into their classes; ``mixed``, the images that were attacked; ``normal``,
            those before mixup. Without the first three nothing is attacked.
        mixup: mix each image with another one before the attack.
        attack_normal: attack the images before mixup, too.
        filtered: leave out images whose attack did not end as it should.
        epsilon: of the border attack, in 1/255.
        step: its first step, in 1/255.
        iterations: its most iterations.
        threshold: the highest confidence of both images of a pair.
        random_start: uniform perturbation to begin with, in 1/255 (PGD).
        deeper_epsilon: of the deeper attack, a single step, in 1/255.
        temperature: T, of both sides; the divergence carries T².
        optimizer: see :class:`DistillationModule`.
        options: the others of :class:`DistillationModule`.

    Raises:
        ValueError: nothing to learn from.
    """

    access = "white"
    renews = True  # images of a pool that is online

    def __init__(
        self,
        teacher: WhiteBoxTeacher,
        student: nn.Module,
        per_class: int | None = None,
        parts: Sequence[Part] = ("post", "pre", "deeper"),
        mixup: bool = True,
        attack_normal: bool = False,
        filtered: bool = True,
        epsilon: float = 10.0,
        step: float = 1.0,
        iterations: int = 12,
        threshold: float = 0.95,
        random_start: float = 0.0,
        deeper_epsilon: float = 1.0,
        temperature: float = 20.0,
        optimizer: OptimizerCallable = torch.optim.SGD,
        **options: Any,  # noqa: ANN401 - DistillationModule's
    ) -> None:
        super().__init__(student, optimizer, **options)
        above_zero(temperature=temperature)
        if not parts:
            raise ValueError("parts: expected at least one of post, pre, deeper, mixed and normal")
        self.teacher: WhiteBoxTeacher = as_teacher(teacher, WhiteBoxTeacher)
        self.per_class, self.parts, self.mixup = per_class, tuple(parts), mixup
        self.attack_normal, self.filtered, self.temperature = attack_normal, filtered, temperature
        self.attack: dict[str, Any] = {"epsilon": epsilon / 255, "step": step / 255, "iterations": iterations}
        self.attack |= {"threshold": threshold, "random_start": random_start / 255}
        self.deeper_epsilon = deeper_epsilon / 255

    def setup(self, stage: str) -> None:
        """Targets are drawn once, or before every epoch from a pool that changes."""
        self.every_epoch = getattr(getattr(self.trainer, "datamodule", None), "online", False)
        super().setup(stage)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Have a pool that is online render, and the teacher look at the new images."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if not self.every_epoch:
            return
        position = data.renew()
        self.watched["renewed"] = torch.tensor(float(len(position)))
        if len(position):
            with torch.no_grad():
                images = self._targeted.images.__getitems__(position.tolist()).image.to(self.device).float().div_(255)
                label = self.teacher(images).argmax(1).cpu()
            self._targeted.retarget(position, label, data.num_classes, self._draws)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """T² KL on what the attack has made of a batch whose labels are targets: Sec. 3.3 of [Frank2023]_."""
        images = self.training_images(batch)
        with torch.no_grad():
            target = self.teacher(images)
        divergence = kd_divergence(self(images), softened(target, self.temperature), self.temperature)
        return {"kd": self.temperature**2 * divergence}

    def training_images(self, batch: Batch) -> Tensor:
        """What the student learns from in this step ``(M, C, H, W)``, in [0, 1].

        Logs M as ``images``, which share of the attacks ended as they should (``survived``), and of how many of these
        the image before the boundary is the one that the attack began at (``unmoved``): the step is too large then.
        """
        if batch.label is None:
            raise ValueError("ShaderKD needs a target class for every image: fit it on a pool, by Trainer.fit")
        mixed = mix(batch.image) if self.mixup else batch.image
        found: dict[str, Tensor] = {"mixed": mixed, "normal": batch.image}
        if {"post", "pre", "deeper"} & set(self.parts):
            images, targets = mixed, batch.label
            if self.attack_normal:
                images, targets = torch.cat([images, batch.image]), targets.repeat(2)
            pairs = border_attack(self.teacher, images, targets, **self.attack)
            kept = pairs.success if self.filtered else torch.ones_like(pairs.success)
            self.watched["survived"] = pairs.success.float().mean()
            self.watched["unmoved"] = (pairs.pre == images).flatten(1).all(1)[kept].float().mean().nan_to_num()
            found |= {"post": pairs.post[kept], "pre": pairs.pre[kept]}
            if "deeper" in self.parts:
                edge = torch.cat([found["post"], found["pre"]])
                classes = torch.cat([pairs.post_class[kept], pairs.pre_class[kept]])
                size = self.deeper_epsilon
                found["deeper"] = (
                    deeper_attack(self.teacher, edge, classes, epsilon=size, step=size) if len(edge) else edge
                )
        learnt = torch.cat([found[part] for part in self.parts])
        learnt = learnt if len(learnt) > 1 else mixed
        self.watched["images"] = torch.tensor(float(len(learnt)))
        return learnt

    def selected(self) -> Dataset[Batch]:
        """The pool's images with their targets, D_K of Eqs. 1-3 of [Frank2023]_."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.select()
        predicted = self._predicted
        per_class = self.per_class or max(1, len(predicted) // data.num_classes)
        self._draws = torch.Generator().manual_seed(data.seed + 1_000_003 * self.current_epoch * self.every_epoch)
        assigned = assign_targets(predicted, data.num_classes, per_class, self._draws)
        if self.facts:  # else nothing was chosen anew
            self.facts |= {"drawn": len(assigned[0]), "distinct": len(assigned[0].unique())}
        self._targeted = TargetedImages(data.train_set, *assigned)
        return self._targeted

    def scores(self, images: Tensor, first: int) -> Tensor:
        """The teacher's class."""
        label: Tensor = self.teacher(images).argmax(1, keepdim=True)
        return label.float()

    def choose(self, scores: Tensor) -> Choice:
        """All of them: targets are assigned afterwards."""
        self._predicted = scores[:, 0].long().cpu()
        return Choice(torch.ones_like(self._predicted, dtype=torch.bool), self._predicted)


def mix(images: Tensor) -> Tensor:
    """Every image with another one of the batch, in a proportion from U(0, 1) of its own."""
    share = torch.rand(len(images), 1, 1, 1, device=images.device, dtype=images.dtype)
    return share * images + (1 - share) * images[torch.randperm(len(images), device=images.device)]
