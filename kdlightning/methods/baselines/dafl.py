"""DAFL: the teacher itself is the discriminator of a generator, whose images the student learns from; no data.

.. [Chen2019] H. Chen et al. Data-Free Learning of Student Networks. ICCV 2019, arXiv:1904.01186.
Released code: https://github.com/huawei-noah/Efficient-Computing. Compared in C, the code of MEKD, which follows it:
https://github.com/HAIV-Lab/MEKD/tree/72881bc (MIT), project/DAFL.py.

Access: white box, because gradients pass through the teacher. Phases: fit DAFL.

Differences from the paper (P) and the code of MEKD (C):
1. No image is used: the datamodule gives the number of steps, validation and test. C has 120 steps of 512 images an
   epoch: ``trainer.limit_train_batches=120``.
2. The generator ends in a sigmoid, pixels in [0, 1]. C's ends in tanh and a batch normalisation, in the units of
   normalised images.
3. L_a is a mean over elements (C); P prints a norm per image, as many times as large as there are features.
4. L_ie in natural units: C takes log10, so that its β of 5 is 2.17 here. The mean probabilities are summed as
   logarithms: a class that is never made does not end in NaN.
5. The divergence carries T², and T is 1 unless given (C).
6. The last student. C keeps the best test accuracy.
"""

import math
from typing import Any, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional as F

from kdlightning.data.base import above_zero
from kdlightning.data.generated import check_shape, check_size
from kdlightning.functional.divergence import kd_divergence, softened
from kdlightning.modules.alternating import TwoPlayerModule
from kdlightning.modules.arguments import check_makers, check_networks
from kdlightning.networks.gan import Generator
from kdlightning.teachers import WhiteBoxTeacher, as_teacher
from kdlightning.types import Batch


class DAFL(TwoPlayerModule):
    """Data-free distillation from a white box; any datamodule of the task.

    Args:
        teacher: a white box; with an ``activation_weight`` its network follows timm's conventions.
        student: pixels in [0, 1] to logits ``(N, K)``.
        generator: latent vectors ``(N, Z)`` of any length to pixels; C's has 100 dimensions.
        images_per_step: images generated in each step and process, at least 2.
        one_hot_weight: weight of L_oh.
        activation_weight: α, weight of L_a; 0 reads no features.
        information_weight: β, weight of L_ie.
        temperature: T of the divergence.
        generator_optimizer: makes the generator's optimiser.
        options: those of :class:`DistillationModule`.

    Raises:
        ValueError: too few images for a batch normalisation.
    """

    access = "white"

    def __init__(
        self,
        teacher: WhiteBoxTeacher,
        student: nn.Module,
        generator: Generator,
        images_per_step: int = 512,
        one_hot_weight: float = 1.0,
        activation_weight: float = 0.1,
        information_weight: float = 5.0,
        temperature: float = 1.0,
        generator_optimizer: OptimizerCallable = torch.optim.Adam,
        **options: Any,  # noqa: ANN401 - DistillationModule's
    ) -> None:
        super().__init__(student, **options)
        above_zero(temperature=temperature)
        if images_per_step < 2:
            raise ValueError(f"images_per_step: batch normalisation needs at least 2, got {images_per_step}")
        check_networks(generator=generator)
        check_makers(generator_optimizer=generator_optimizer)
        self.teacher: WhiteBoxTeacher = as_teacher(teacher, WhiteBoxTeacher)
        self.generator, self.images_per_step = generator, images_per_step
        self.one_hot_weight, self.activation_weight = one_hot_weight, activation_weight
        self.information_weight, self.temperature = information_weight, temperature
        self._other_optimizer = generator_optimizer

    @property
    def other(self) -> nn.Module:
        """The generator."""
        return self.generator

    def setup(self, stage: str) -> None:
        """Refuse, with a ValueError, a generator of images of another size than the data set's."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is not None:
            check_size(self.generator, data)

    def check_images(self, batch: Batch) -> None:
        """Refuse, with a ValueError, a generator of images of another shape than the first."""
        super().check_images(batch)
        check_shape(self.generator, batch.image.shape[1:], "the loader")

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The divergence from the teacher on any images; ``answer`` holds its logits where they are known already."""
        with torch.no_grad():
            answer = self.teacher(batch.image) if batch.answer is None else batch.answer
        divergence = kd_divergence(self(batch.image), softened(answer, self.temperature), self.temperature)
        return {"kd": self.temperature**2 * divergence}

    def generator_losses(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The weighted terms L_oh + α L_a + β L_ie of pixels ``(N, C, H, W)``, and the teacher's logits ``(N, K)``."""
        if self.activation_weight:
            features = self.teacher.forward_features(images)
            activation = activation_loss(self.teacher.forward_head(features, pre_logits=True).float())
            logits = self.teacher.forward_head(features)
            terms = {"activation": self.activation_weight * activation}
        else:
            logits, terms = self.teacher(images), {}
        logits = logits.float()
        terms["one_hot"] = self.one_hot_weight * one_hot_loss(logits)
        terms["information"] = self.information_weight * information_entropy_loss(logits)
        return terms, logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The generator's step, then the student's on the same images; the batch's own are not looked at."""
        student_optimizer, generator_optimizer = cast(list[Any], self.optimizers())
        latent = torch.randn(self.images_per_step, self.generator.latent_dim, device=self.device)
        images = self.generator(latent)
        generator_terms, logits = self.generator_losses(images)
        self.update(generator_optimizer, generator_terms)
        index = torch.arange(len(images), device=self.device)
        terms = self.losses(Batch(images.detach(), index, answer=logits.detach()))
        loss = self.update(student_optimizer, terms)
        self._accumulate({**generator_terms, **terms, "loss": loss})
        return loss


def one_hot_loss(logits: Tensor) -> Tensor:
    """L_oh of [Chen2019]_: cross-entropy of logits ``(N, K)`` with their own top class. Images of *some* class."""
    return F.cross_entropy(logits, logits.argmax(1))


def activation_loss(vectors: Tensor) -> Tensor:
    """L_a of [Chen2019]_: minus the mean absolute value of the vectors ``(N, F)`` that the classifier reads."""
    return -vectors.abs().mean()


def information_entropy_loss(logits: Tensor) -> Tensor:
    """L_ie of [Chen2019]_: minus the entropy, in nats, of the mean probabilities. As many images of every class."""
    mean = F.log_softmax(logits, dim=1).logsumexp(0) - math.log(len(logits))
    return (mean.exp() * mean).sum()
