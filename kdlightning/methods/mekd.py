"""MEKD: a generator emulates the inverse of the teacher; the student aligns images of logits.

.. [Ma2024] J. Ma, X. Xiang, K. Wang, Y. Wu, Y. Li. Aligning Logits Generatively for Principled Black-Box Knowledge
   Distillation. CVPR 2024, arXiv:2205.10490v2.
.. [Ma2022] J. Ma et al. Mapping Emulation for Knowledge Distillation. arXiv:2205.10490v1.
Reference code: https://github.com/HAIV-Lab/MEKD/tree/72881bc (MIT).

Access: soft or hard labels. Phases: fit MEKDGenerator → predict TeacherAnswers on a GeneratedDataModule → fit MEKD.

Differences from the paper (P) and the released code (C); docs/fidelity.md has the evidence:
1. Queries: a fixed pool of generated images, each asked once, and ``queries`` of phase 1, spread evenly over its steps;
   every one counts. P says 50,000 in all; C asks 15.4 million fresh ones, and in phase 1 one for every image of every
   step (``queries: null``).
2. What the generator receives: centred log-probabilities of the teacher, centred logits of the student, over τ; equal
   to logits up to the constant that softmax drops. C feeds raw logits, which no API answers: ``response: logits`` does
   so with a ``logits_teacher`` whose weights are at hand, for comparison; ``response: released`` comes nearest without,
   the student's raw logits and log-probabilities (hard: one-hot rows as if they were logits).
3. Hard answers become a label of probability ``confidence``, the rest spread evenly.
4. L_IM weighs by the teacher's top probability as printed (hard: 1). C weighs by the *index* of the top class and loses
   the pairing of weight and image by broadcasting: ``information: class_index`` (mean index as the weight).
5. L_G: Eq. 12's sign would push D(G(z)) to 0; non-saturating here and in C.
6. L_F: mean over elements (C); P prints a norm per image, C * H * W times as large. ``l2`` is the mean square (C).
7. KL carries T², so that β means the same at every temperature; P prints T = 1, C multiplies by T = 5.
8. Last generator and last student. C takes the generator of epoch 175 of 200 and the student's best test accuracy.
"""

from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from kdlightning.accounting import AnswerJournal
from kdlightning.accounting.journal import recorded_answers
from kdlightning.data.base import above_zero
from kdlightning.data.generated import check_latent
from kdlightning.functional import gan
from kdlightning.functional.divergence import kd_divergence, softened
from kdlightning.modules.answered import AnsweredModule
from kdlightning.modules.generator import GeneratorModule, grouped
from kdlightning.modules.schedule import schedule
from kdlightning.networks.gan import Critic, Generator
from kdlightning.networks.pretrained import load_network
from kdlightning.teachers import BlackBoxTeacher, SoftLabelTeacher, WhiteBoxTeacher, as_teacher
from kdlightning.types import Answers, Batch, Estimate

_ALL = 2**62


class MEKDGenerator(GeneratorModule):
    """Phase 1, ``fit`` on local unlabelled images: "deprivatization", Eqs. 10-13 of [Ma2024]_.

    Answers are journalled: a run that goes on from its last checkpoint asks nothing twice.

    Args:
        generator: latent vectors ``(N, K)`` to pixels; one dimension per class.
        critic: pixels to one logit.
        teacher: answers about generated images; None, or ``alpha`` 0, asks nothing.
        alpha: α of Eq. 13, weight of the information term.
        queries: images asked in the whole phase, spread evenly over the generator's steps; None asks about every one.
        information: the weight of Eq. 10: ``top_probability`` as printed (hard answers: 1), or the released code's
            ``class_index``.
        options: those of :class:`GeneratorModule`.
    """

    def __init__(
        self,
        generator: Generator,
        critic: Critic,
        teacher: BlackBoxTeacher | None = None,
        alpha: float = 0.5,
        queries: int | None = None,
        information: Literal["top_probability", "class_index"] = "top_probability",
        **options: Any,  # noqa: ANN401 - GeneratorModule's
    ) -> None:
        super().__init__(generator, critic, **options)
        kinds = (SoftLabelTeacher, BlackBoxTeacher)
        self.teacher: BlackBoxTeacher | None = as_teacher(teacher, *kinds) if teacher is not None and alpha else None
        self.access = None if self.teacher is None else self.teacher.access
        if queries is not None and queries < 0:
            raise ValueError(f"queries: expected 0 or more images, or None for every generated one, got {queries}")
        self.alpha, self.queries, self.information = alpha, queries, information
        self._journal: AnswerJournal | None = None
        self._plan: list[int] = []
        self._turn, self._left = -1, 0  # the step whose images are asked, and how many more

    def setup(self, stage: str) -> None:
        """Refuse, with a ValueError, a teacher of other classes; count where a kill does not reach, as with answers."""
        if self.teacher is not None:
            self._who = self.teacher.identity["fingerprint"][:8]
            self.teacher.share(Path(self.trainer.default_root_dir) / "queries.meter")
            first = self.trainer.is_global_zero
            kept = self._journalled(self.trainer, 0) if first else None
            channels, size = self.generator.channels, self.generator.image_size
            self.teacher.resume(kept, Answers(0, 0, 0), (channels, size, size))
            self.trainer.strategy.barrier("journals")
        super().setup(stage)
        known = None if self.teacher is None else self.teacher.num_classes
        if known is not None and known != self.generator.latent_dim:
            latent = self.generator.latent_dim
            raise ValueError(f"the teacher has {known} classes, but the generator {latent} dimensions")

    def on_train_start(self) -> None:
        """Refuse, with a ValueError, more queries than the steps make images."""
        self._turn = -1
        if self.teacher is not None and self.queries is not None:
            share = self.share_of(self.global_rank, self.trainer.world_size)
            made = [0, *accumulate(self.images_per_step())]
            if share > made[-1]:
                raise ValueError(
                    f"queries={self.queries}, but the {self.generator_steps} steps of the generator make {made[-1]} "
                    "images per process: train longer, or ask less"
                )
            self._plan = [images * share // max(1, made[-1]) for images in made]

    def share_of(self, rank: int, processes: int) -> int:
        """How many of the ``queries`` are a process's; the first ones take the remainder."""
        queries = self.queries or 0
        return queries // processes + (rank < queries % processes)

    def estimate(self, trainer: L.Trainer, data: Any, done: int = 0) -> Estimate:  # noqa: ANN401 - a datamodule
        """The ``queries`` or, without, every generated image."""
        if self.teacher is None:
            return Estimate(0, 0)
        plan, group = schedule(trainer, data), trainer.accumulate_grad_batches
        sizes, (epochs, rest) = grouped(plan.sizes, group), divmod(plan.batches, max(1, len(plan.sizes)))
        made = self.made_of([*epochs * sizes, *grouped(plan.sizes[:rest], group)])
        before, begun = divmod(done, max(1, len(plan.sizes)))
        steps = (before * len(sizes) + begun // group) // self.critic_steps
        asked, before = plan.processes * sum(made), plan.processes * sum(made[:steps])
        if self.queries is not None:
            shares = [self.share_of(rank, plan.processes) for rank in range(plan.processes)]
            asked, before = self.queries, sum(sum(made[:steps]) * share // max(1, sum(made)) for share in shares)
        kept = before + self._journalled(trainer, done // max(1, len(plan.sizes)))
        return Estimate(asked if plan.certain and trainer.max_steps == -1 else kept, asked, kept)

    def _journalled(self, trainer: L.Trainer, epoch: int) -> int:
        """Answers of an interrupted run that those epochs find which are still to come."""
        assert self.teacher is not None
        who = f"{self.teacher.identity['fingerprint'][:8]}-{self.teacher.access}-epoch-"
        files = (Path(trainer.default_root_dir) / "journal").glob(f"{who}*")
        return sum(recorded_answers(file) for file in files if int(file.name.removeprefix(who).split("-")[0]) >= epoch)

    def on_train_epoch_start(self) -> None:
        """One journal for every epoch: a resume begins at an epoch's start."""
        super().on_train_epoch_start()
        if self.teacher is not None:
            # another teacher's answers are not this one's
            name = f"{self._who}-{self.access}-epoch-{self.current_epoch}-rank-{self.global_rank}"
            self._journal = AnswerJournal(self._journals / name, self.teacher.query, self.teacher.settle)

    def terms(self, fake: Tensor, logit: Tensor, step: int) -> dict[str, Tensor]:
        """α L_IM on the images that are asked at this step, Eqs. 10 and 13 of [Ma2024]_."""
        if self._turn != step:
            self._turn, self._left = step, self.planned(step)
        number = min(len(fake), self._left)
        self._left -= number
        if self._journal is None or not number:
            return {}
        answer = self._journal(fake[:number].detach().float().clamp(0, 1))
        if self.information == "class_index":
            index = (answer.argmax(1) if answer.ndim == 2 else answer).to(logit)
            weight = index.mean().expand(number)
        else:
            weight = answer.amax(1).to(logit) if answer.ndim == 2 else torch.ones_like(logit[:number])
        return {"information": self.alpha * gan.information_loss(logit[:number], weight)}

    def planned(self, step: int) -> int:
        """How many images this process asks at a step of the generator: an even spread that sums to its share."""
        if self._journal is None or self.queries is None:
            return _ALL
        return self._plan[step + 1] - self._plan[step]

    def on_train_epoch_end(self) -> None:
        """Close the epoch's journal."""
        super().on_train_epoch_end()
        if self._journal is not None:
            self._journal.close()

    def on_fit_end(self) -> None:
        """The answers have done their work; the generator knows what it has cost, wherever it is used."""
        self.generator.paid = self.paid
        for file in self._journals.glob(f"*-epoch-*-rank-{self.global_rank}"):
            file.unlink()

    @property
    def _journals(self) -> Path:
        return Path(self.trainer.default_root_dir) / "journal"


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
        response: what the generator receives, see difference 2.
        logits_teacher: whose raw logits ``response: logits`` feeds to the generator; no black box gives them.
        options: those of :class:`AnsweredModule`.

    Raises:
        ValueError: no loss has a weight, no generator at that place, or ``response: logits`` without a teacher, or a
            teacher without it.
    """

    def __init__(
        self,
        student: nn.Module,
        generator: str | Generator,
        distance: Literal["l1", "l2"] = "l1",
        mapping_weight: float = 1.0,
        beta: float = 1.0,
        temperature: float = 5.0,
        kd_temperature: float = 1.0,
        response: Literal["centred", "released", "logits"] = "centred",
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

    @property
    def generator(self) -> Generator:
        """The frozen generator."""
        made: Generator = self._frozen["generator"]
        return made

    def setup(self, stage: str) -> None:
        """Refuse, with a ValueError, a generator of other classes than the data's."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        if data is not None:
            check_latent(self.generator, data)

    def on_fit_start(self) -> None:
        """Move generator and logits' teacher to the student's device."""
        for network in self._frozen.values():
            network.to(self.device)

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
                wanted = self.generator(other / self.temperature)
            made = self.generator(one / self.temperature)
            terms["mapping"] = self.mapping_weight * gan.image_distance(made, wanted, self.distance)  # Eq. (14), L_F
        if self.beta:
            divergence = kd_divergence(student, softened(teacher, self.kd_temperature), self.kd_temperature)
            terms["kl"] = self.beta * self.kd_temperature**2 * divergence  # Eq. (14), second term
        return terms
