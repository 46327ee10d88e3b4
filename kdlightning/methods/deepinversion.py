"""DeepInversion: images out of a network's weights, of a class each, by gradients to the pixels; a data-free baseline.

.. [Yin2020] H. Yin et al. Dreaming to Distill: Data-Free Knowledge Transfer via DeepInversion. CVPR 2020,
   arXiv:1912.08795.
.. [Frank2023] L. Frank, J. Davis. Data-Free Knowledge Distillation Using Adversarially Perturbed OpenGL Shader Images.
   2023.
Reference code: https://github.com/NVlabs/DeepInversion/blob/abafd38e/cifar10/deepinversion_cifar10.py (not for
commercial use: read for facts, nothing copied).

Access: white box (input gradients, BatchNorm statistics), and no image. Phases: predict DeepInversion on a
NoiseDataModule → fit AnsweredKD, or another method on given answers, on a NoiseDataModule with the set as path.

Differences from the paper (P) and the released code for CIFAR-10 (C); docs/method-shaderkd.md has the evidence:
1. Image number i is made for class i mod K (C), so that every batch has all classes; P does not say.
2. Starts are the data module's noise, in [0, 1] and rounded, and pixels stay in [0, 1]; C: normalised pixels, not
   bounded. The learning rate is in pixel units, and falls to 0; C: constant.
3. The last images are kept. C means to keep those of the lowest loss, but refers to a tensor that goes on changing.
4. The set is made before training, and answered once; P's Adaptive DeepInversion goes on with a student that has been
   trained: ``student`` is that student, one set after the other.
5. The competition is the Jensen-Shannon divergence (P, Eqs. 8-9); C has clamped it and swapped its arguments.
6. The ℓ2 term is the batch's mean of norms; C: a norm over the batch, of weight 0.
7. α_f is 10; C: 100, for 2,000 steps of ResNet-34.
"""

import hashlib
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from kdlightning.data.base import ImageDataModule
from kdlightning.data.generated import NoiseDataModule
from kdlightning.functional.inversion import InversionWeights, Norm, invert, normalised_layers
from kdlightning.modules.labelling import LabellingModule, Predict
from kdlightning.networks.pretrained import fingerprint
from kdlightning.teachers import WhiteBoxTeacher, as_teacher
from kdlightning.types import Batch


class DeepInversion(LabellingModule):
    """``predict`` on a ``NoiseDataModule``: as many images as it has, each optimised from its noise.

    A batch (the source's ``eval_batch_size``) is optimised as a whole, because its statistics are: use one that has
    every class many times. It is what an interrupted run goes on with, and its result depends on ``seed`` and its
    number alone. Columns of the transfer set: ``image`` (uint8), ``answer`` (the teacher's probabilities of it),
    ``label`` (their largest), ``target`` (the class that it was made for), ``loss`` (the last one of its batch),
    ``queries`` (0: a white box is not asked).

    Without BatchNorm layers that term is absent: a warning and the manifest (``batch_norm_layers: 0``) say so.

    Args:
        teacher: the network to invert.
        output: directory of the transfer set.
        iterations: steps of Adam.
        learning_rate: its rate at the beginning, in pixel units.
        batch_norm_weight: α_f of [Yin2020]_.
        first_layer: multiplier of the first BatchNorm layer's term.
        variation_weight: α_tv.
        variation: which norm total variation takes.
        norm_weight: α_ℓ2.
        competition_weight: α_c; needs a student.
        student: a network that should not agree yet about the images (Adaptive DeepInversion).
        jitter: every step sees the images rolled by up to so many pixels.
        flip: and mirrored, every second time.
        seed: owner of the rolls and mirrors.

    Raises:
        ValueError: a number out of range, or one of competition and student without the other.
    """

    teacher: WhiteBoxTeacher

    columns = ("image", "answer", "label", "target", "loss")

    def __init__(
        self,
        teacher: WhiteBoxTeacher,
        output: str,
        iterations: int = 2000,
        learning_rate: float = 0.1,
        batch_norm_weight: float = 10.0,
        first_layer: float = 1.0,
        variation_weight: float = 2.5e-5,
        variation: Norm = "l2",
        norm_weight: float = 3e-8,
        competition_weight: float = 0.0,
        student: WhiteBoxTeacher | None = None,
        jitter: int = 2,
        flip: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(as_teacher(teacher, WhiteBoxTeacher), output)
        if iterations < 1 or learning_rate <= 0 or jitter < 0:
            raise ValueError(
                "expected at least 1 iteration, a learning rate above 0 and a jitter of at least 0 pixels, got "
                f"iterations={iterations}, learning_rate={learning_rate}, jitter={jitter}"
            )
        if (competition_weight > 0) != (student is not None):
            raise ValueError(
                f"competition needs a student and a weight above 0, got competition_weight={competition_weight} and "
                f"{'no student' if student is None else 'a student'}"
            )
        self.student = None if student is None else as_teacher(student, WhiteBoxTeacher)
        self.seed = seed
        weights = (batch_norm_weight, first_layer, variation_weight, norm_weight, competition_weight)
        self.weights = InversionWeights(*weights)
        self.options: dict[str, Any] = {"iterations": iterations, "learning_rate": learning_rate}
        self.options |= {"variation": variation, "jitter": jitter, "flip": flip}

    def setup(self, stage: str) -> None:
        """Refuse, with a TypeError, data that are not noise; with a ValueError, a network of other classes."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, NoiseDataModule):
            name = type(self).__name__
            raise TypeError(f"{name} starts from noise: use a NoiseDataModule, not {type(data).__name__}")
        for network in self.inverted():
            with torch.no_grad():
                pixels = torch.zeros(1, data.channels, data.image_size, data.image_size, device=self.device)
                known = network.to(self.device)(pixels).shape[1]
            if known != data.num_classes:
                task = f"the data set {data.name} has {data.num_classes}"
                raise ValueError(f"the network has {known} classes, but {task}")
            if self.weights.batch_norm and not normalised_layers(network):
                rank_zero_warn(
                    f"{network.identity['name']} has no BatchNorm layer with running statistics: it is inverted "
                    "without that term, and the images will look less like its training images"
                )

    def inverted(self) -> list[WhiteBoxTeacher]:
        """The networks to invert."""
        return [self.teacher]

    def settings(self) -> dict[str, Any]:
        """Adds the batch, which is optimised as a whole, and the student's weights."""
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        student = {} if self.student is None else {"student": fingerprint(self.student.network)}
        return {**super().settings(), "batch_size": data.eval_batch_size, **student}

    def questions(self, data: Any, rows: int) -> tuple[int, int]:  # noqa: ANN401 - a datamodule
        """None: a white box is not asked."""
        return 0, 0

    def prepare(self, data: ImageDataModule) -> None:
        """Remember what rows of this data set need."""
        self.num_classes: int = data.num_classes

    def write(self, batch: Batch) -> None:
        """Make the images of a batch, and write them as one shard: nothing is asked that a journal could keep."""
        rows = self.label(batch, self.teacher)
        self.writer.write({"index": batch.index, **rows})
        self.rows_done += len(batch.index) * self.trainer.world_size

    def label(self, batch: Batch, predict: Predict) -> dict[str, Tensor]:
        """Images of a batch, and what the teacher says about them as they are written."""
        image, loss = self.inversion(self.teacher, batch, self.student)
        answer = predict(image.float() / 255).float().softmax(1)
        return {
            "image": image,
            "answer": answer,
            "label": answer.argmax(1),
            "target": batch.index % self.num_classes,
            "loss": loss,
            "queries": torch.zeros_like(batch.index),
        }

    def inversion(
        self, network: WhiteBoxTeacher, batch: Batch, student: nn.Module | None = None
    ) -> tuple[Tensor, Tensor]:
        """A network's images ``(N, C, H, W)``, uint8, from a batch of noise; its last loss, repeated ``(N,)``."""
        draws = hashlib.sha256(f"{self.seed}:{int(batch.index[0])}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(draws[:4], "little"))
        with torch.inference_mode(False), torch.enable_grad():  # predict runs without a graph
            start, targets = batch.image.float().clone(), (batch.index % self.num_classes).clone()
            images, loss = invert(network, start, targets, generator, self.weights, student=student, **self.options)
        return (images * 255).round().to(torch.uint8), loss.expand(len(start)).clone()

    def facts(self, rows: dict[str, Tensor]) -> dict[str, Any]:
        """What the teacher sees in its images."""
        return {
            "num_classes": self.num_classes,
            "class_histogram": torch.bincount(rows["label"], minlength=self.num_classes).tolist(),
            "kept_class": round(float((rows["label"] == rows["target"]).float().mean()), 4),
            "mean_top_probability": round(float(rows["answer"].amax(1).mean()), 4),
            "mean_loss": round(float(rows["loss"].mean()), 4),
            "batch_norm_layers": len(normalised_layers(self.teacher)),
        }
