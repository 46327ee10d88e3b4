"""MEKD: a generator makes images of answers, the teacher's and the student's, which the student aligns.

.. [Ma2024] J. Ma, X. Xiang, K. Wang, Y. Wu, Y. Li. Aligning Logits Generatively for Principled Black-Box Knowledge
   Distillation. CVPR 2024, arXiv:2205.10490v2.
.. [Ma2022] J. Ma et al. Mapping Emulation for Knowledge Distillation. arXiv:2205.10490v1.
Reference code: https://github.com/HAIV-Lab/MEKD/tree/72881bc (MIT).

Access: soft, top-k or hard labels. Phases: fit MEKDGenerator → predict TeacherAnswers on a GeneratedDataModule → fit
MEKD.

Differences from the paper (P) and the released code (C); docs/fidelity.md has the evidence:
1. Queries: a fixed pool of generated images, each asked once, and ``queries`` of phase 1, spread evenly over its steps;
   every one counts. P says 50,000 in all; C asks 15.4 million fresh ones, and in phase 1 one for every image of every
   step (``queries: null``). What is asked is rounded to 1/255, as in an image file.
2. What the generator receives: centred log-probabilities of the teacher, centred logits of the student, over τ; equal
   to logits up to the constant that softmax drops. C feeds raw logits, which no API answers: ``response: logits`` does
   so with a ``logits_teacher`` whose weights are at hand, for comparison; ``response: released`` comes nearest without,
   the student's raw logits and log-probabilities (hard: one-hot rows as if they were logits). P calls G the teacher's
   inverse, but nothing ties an entry of z to a class: G of an answer shows its class no more often than by chance.
   ``response: aligned``, which P and C do not have, maps answers to latent vectors first, by least squares on the pool,
   whose pairs of both are paid already.
3. Hard answers become a label of probability ``confidence``, the rest spread evenly.
4. L_IM weighs by the teacher's top probability as printed. A hard answer's weight is 1 whatever it says, so that
   nothing is asked for it. C weighs by the *index* of the top class and loses the pairing of weight and image by
   broadcasting: ``information: class_index`` (mean index as the weight).
5. L_G: Eq. 12's sign would push D(G(z)) to 0; non-saturating here and in C.
6. L_F: mean over elements (C); P prints a norm per image, C * H * W times as large. ``l2`` is the mean square (C).
7. KL carries T², so that β means the same at every temperature; P prints T = 1, C multiplies by T = 5.
8. Last generator and last student. C takes the generator of epoch 175 of 200 and the student's best test accuracy.
"""

from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F

from kdlightning.data.base import above_zero
from kdlightning.data.generated import GeneratedDataModule, check_latent
from kdlightning.functional import gan
from kdlightning.functional.divergence import centred, kd_divergence, softened
from kdlightning.functional.topk import top_class
from kdlightning.modules.answered import AnsweredModule
from kdlightning.modules.asked import AskingGeneratorModule
from kdlightning.networks.gan import Critic, Generator
from kdlightning.networks.pretrained import fingerprint, load_network
from kdlightning.teachers import BlackBoxTeacher, SoftLabelTeacher, WhiteBoxTeacher, as_teacher
from kdlightning.teachers.outcomes import answered
from kdlightning.types import Batch


class MEKDGenerator(AskingGeneratorModule):
    """Phase 1, ``fit`` on local unlabelled images: "deprivatization", Eqs. 10-13 of [Ma2024]_.

    The information term is L_G again, weighted by image: without a teacher all queries are left for the pool.

    Args:
        generator: latent vectors ``(N, K)`` to pixels; one dimension per class.
        critic: pixels to one logit.
        teacher: answers about generated images; None (recommended), or ``alpha`` 0, asks nothing, and so does a teacher
            of hard labels: every weight is 1 then.
        alpha: α of Eq. 13, weight of the information term.
        information: the weight of Eq. 10: ``top_probability`` as printed, or the released code's ``class_index``.
        options: those of :class:`AskingGeneratorModule`.
    """

    def __init__(
        self,
        generator: Generator,
        critic: Critic,
        teacher: BlackBoxTeacher | None = None,
        alpha: float = 0.5,
        information: Literal["top_probability", "class_index"] = "top_probability",
        **options: Any,  # noqa: ANN401 - AskingGeneratorModule's
    ) -> None:
        given = None
        if teacher is not None and alpha:
            given = as_teacher(teacher, SoftLabelTeacher, BlackBoxTeacher)
        # a hard answer weighs 1, whatever it says
        sure = given is not None and given.access == "hard" and information == "top_probability"
        super().__init__(generator, critic, None if sure else given, **options)
        self.alpha, self.information, self._sure = alpha, information, sure
        if given is not None and self.objective == "wasserstein":
            told = "log D of Eq. 10 needs a critic that answers a probability, which that of a Wasserstein GAN does not"
            rank_zero_warn(f"{told}: give alpha=0.0, or no teacher, to leave the information term out")

    def terms(self, fake: Tensor, logit: Tensor, step: int) -> dict[str, Tensor]:
        """α L_IM on the images that are asked at this step, Eqs. 10 and 13 of [Ma2024]_."""
        if self._sure:
            return {"information": self.alpha * gan.information_loss(logit, torch.ones_like(logit))}
        answer = self.ask(fake, step)
        if answer is None or not (kept := answered(answer)).any():
            return {}
        logit, answer = logit[: len(answer)][kept], answer[kept]
        if self.information == "class_index":
            index = top_class(answer, topk=self.access == "topk").to(logit)
            weight = index.mean().expand(len(answer))
        else:
            weight = (answer[:, 0] if self.access == "topk" else answer.amax(1)).to(logit)
        return {"information": self.alpha * gan.information_loss(logit, weight)}


class MEKD(AnsweredModule):
    """Phase 2, ``fit`` on an answered pool: images of logits are aligned, Eq. 14 of [Ma2024]_.

    On a ``TransferSetDataModule`` of real local images this is Eq. 8 of [Ma2022]_.

    Args:
        student: pixels in [0, 1] to logits ``(N, K)``.
        generator: directory of phase 1's generator, or the generator; it stays frozen.
        distance: L_F: ``l1`` mean absolute, ``l2`` mean squared difference of pixels.
        mapping_weight: weight of L_F; 0 leaves plain distillation on the pool.
        beta: β, weight of the divergence.
        temperature: τ, what the generator's input is divided by.
        kd_temperature: T of the divergence.
        response: what the generator receives, see difference 2; ``aligned`` on a ``GeneratedDataModule`` only.
        logits_teacher: whose raw logits ``response: logits`` feeds to the generator; no black box gives them.
        options: those of :class:`AnsweredModule`.

    Raises:
        ValueError: no loss has a weight, no generator at that place, or ``response: logits`` without a teacher, or a
            teacher without it.

    Attributes:
        alignment: of ``response: aligned``, the map ``(K + 1, K)`` from centred logits over τ and a 1 to latent
            vectors; fitted once when a fit starts, and part of its checkpoints.
    """

    alignment: Tensor

    def __init__(
        self,
        student: nn.Module,
        generator: str | Generator,
        distance: Literal["l1", "l2"] = "l1",
        mapping_weight: float = 1.0,
        beta: float = 1.0,
        temperature: float = 5.0,
        kd_temperature: float = 1.0,
        response: Literal["centred", "aligned", "released", "logits"] = "centred",
        logits_teacher: WhiteBoxTeacher | None = None,
        **options: Any,  # noqa: ANN401 - AnsweredModule's
    ) -> None:
        super().__init__(student, **options)
        above_zero(temperature=temperature, kd_temperature=kd_temperature)
        if not mapping_weight and not beta:
            raise ValueError("mapping_weight and beta are both 0: nothing would be learnt")
        if (response == "logits") != (logits_teacher is not None):
            raise ValueError("response='logits' and a logits_teacher belong together: give both, or neither")
        made = generator if isinstance(generator, Generator) else load_network(generator)
        if not isinstance(made, Generator):
            raise ValueError(f"generator: {generator} holds a {type(made).__name__}, not a generator")
        # in a dictionary: neither the checkpoint nor the optimiser nor .train() should know them
        self._frozen: dict[str, Any] = {"generator": made.requires_grad_(False).eval()}
        if logits_teacher is not None:
            self._frozen["teacher"] = as_teacher(logits_teacher, WhiteBoxTeacher)
        self.distance, self.mapping_weight, self.beta = distance, mapping_weight, beta
        self.temperature, self.kd_temperature = temperature, kd_temperature
        self.response = response
        if response == "aligned":
            self.register_buffer("alignment", torch.full((made.latent_dim + 1, made.latent_dim), torch.nan))

    @property
    def generator(self) -> Generator:
        """The frozen generator."""
        made: Generator = self._frozen["generator"]
        return made

    def setup(self, stage: str) -> None:
        """Refuse, with a ValueError, a generator of other classes than the data's or, aligned, another than theirs."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is not None:
            check_latent(self.generator, data)
        if stage == "fit" and self.response == "aligned":
            source = data.transfer_set.manifest["source"] if isinstance(data, GeneratedDataModule) else {}
            if source.get("generator") != fingerprint(self.generator):
                pairs = "response='aligned' pairs answers with the latent vectors of their images"
                raise ValueError(f"{pairs}: give a GeneratedDataModule whose images this generator has made")

    def on_fit_start(self) -> None:
        """Move generator and logits' teacher to the student's device; fit the alignment, unless a checkpoint has it."""
        for network in self._frozen.values():
            network.to(self.device)
        if self.response == "aligned" and not self.alignment.isfinite().all():
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            self.align(data.answered.answer, data.latents())

    def align(self, given: Tensor, latent: Tensor) -> None:
        """Fit the map from answers to latent vectors, both ``(M, K)``, by least squares; the shortest of several."""
        nobody = torch.zeros_like(latent, device=given.device)  # a rest that is ignored has no student yet: it is even
        vectors = centred(self.probabilities(given, nobody).double().log()) / self.temperature
        solution = torch.linalg.lstsq(_with_one(vectors).cpu(), latent.double().cpu(), driver="gelsd").solution
        self.alignment.copy_(solution)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """L_F + β L_KL, Eq. 14 of [Ma2024]_."""
        logits, answer = self.responses(batch)
        student, teacher = self.vectors(logits, answer)
        terms = {}
        if self.mapping_weight:
            if self.response == "released":
                one, other = logits, self.answers(batch) if self.access == "hard" else answer.log()
            elif self.response == "logits":
                with torch.no_grad():
                    one, other = logits, self._frozen["teacher"](batch.image)
            else:
                one, other = student, teacher
            with torch.no_grad():
                wanted = self.generator(self.latent(other))
            made = self.generator(self.latent(one))
            terms["mapping"] = self.mapping_weight * gan.image_distance(made, wanted, self.distance)  # Eq. (14), L_F
        if self.beta:
            divergence = kd_divergence(student, softened(teacher, self.kd_temperature), self.kd_temperature)
            terms["kl"] = self.beta * self.kd_temperature**2 * divergence  # Eq. (14), second term
        return terms

    def latent(self, vectors: Tensor) -> Tensor:
        """What the generator receives of logits, both ``(N, K)``: these over τ or, aligned, their latent vectors."""
        scaled = vectors / self.temperature
        return _with_one(scaled) @ self.alignment.to(scaled) if self.response == "aligned" else scaled


def _with_one(vectors: Tensor) -> Tensor:
    return F.pad(vectors, (0, 1), value=1.0)
