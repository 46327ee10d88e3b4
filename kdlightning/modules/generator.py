"""Adversarial training of a generator: two networks, two optimisers, the steps written out."""

from collections.abc import Iterable
from itertools import islice
from typing import Any, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from kdlightning.data.generated import check_generator, check_size
from kdlightning.functional import gan
from kdlightning.modules.arguments import check_makers, check_networks, keep_plain_hyperparameters
from kdlightning.modules.base import TaughtModule, prepare_for_two_optimizers
from kdlightning.networks.gan import Critic, Generator, InfoGANCritic
from kdlightning.types import Batch

_LEAST = 2  # images in a batch: batch normalisation needs two


class GeneratorModule(TaughtModule):
    """Trains a generator against a critic on a datamodule's training images; labels are never looked at.

    Every batch one step of the critic, every ``critic_steps`` batches one of the generator, on the same latent vectors.
    Logs ``train/critic``, ``train/generator`` and the terms of a subclass; ends with the generator in ``network/``.

    Args:
        generator: latent vectors ``(N, Z)`` to pixels in [0, 1].
        critic: pixels to one logit.
        objective: see :mod:`kdlightning.functional.gan`.
        critic_steps: critic steps for each generator step; WGAN-GP's 5.
        penalty: weight of the gradient penalty, WGAN-GP's 10; 0 for none.
        code_weight: weight of the latent code's likelihood, InfoGAN's λ; needs an ``InfoGANCritic``.
        generator_optimizer: makes the generator's optimiser.
        critic_optimizer: makes the critic's optimiser.

    Raises:
        ValueError: a code weight without a critic that guesses codes, or codes of another length.
    """

    def __init__(
        self,
        generator: Generator,
        critic: Critic,
        objective: gan.Objective = "nonsaturating",
        critic_steps: int = 1,
        penalty: float = 0.0,
        code_weight: float = 0.0,
        generator_optimizer: OptimizerCallable = torch.optim.Adam,
        critic_optimizer: OptimizerCallable = torch.optim.Adam,
    ) -> None:
        super().__init__()
        check_networks(generator=generator, critic=critic)
        check_makers(generator_optimizer=generator_optimizer, critic_optimizer=critic_optimizer)
        keep_plain_hyperparameters(self)
        self.automatic_optimization = False
        self.generator, self.critic = generator, critic
        self.objective, self.critic_steps = objective, critic_steps
        self.penalty, self.code_weight = penalty, code_weight
        self._generator_optimizer, self._critic_optimizer = generator_optimizer, critic_optimizer
        if code_weight and not isinstance(critic, InfoGANCritic):
            name = type(critic).__name__
            raise ValueError(f"code_weight needs an InfoGANCritic, which guesses latent codes; got {name}")
        latent = generator.latent_dim
        if isinstance(critic, InfoGANCritic) and (codes := critic.code_head.out_features) != latent:
            made = f"the generator's latent vectors have {latent}"
            raise ValueError(f"the critic guesses codes of {codes} dimensions, but {made}")

    def terms(self, fake: Tensor, logit: Tensor, step: int) -> dict[str, Tensor]:
        """What a subclass adds to the generator's loss, already weighted.

        Args:
            fake: generated pixels ``(N, C, H, W)``, part of the graph.
            logit: the critic's logits ``(N,)`` of them.
            step: number of the generator's step in the run, from 0.
        """
        return {}

    @property
    def generator_steps(self) -> int:
        """How many steps the generator makes in the whole run; a ValueError where it has no last epoch."""
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 0 or self.trainer.num_training_batches == float("inf"):
            raise ValueError("a generator's training needs max_epochs and a data set that ends")
        return epochs * int(self.trainer.num_training_batches) // self.critic_steps

    def images_per_step(self) -> list[int]:
        """How many images each of the generator's steps makes, on this process: an epoch's last batch is smaller."""
        loader: Any = self.trainer.train_dataloader
        size, total = int(loader.batch_size), len(loader.sampler)
        sizes = [min(size, total - first) for first in range(0, total, size)][: int(self.trainer.num_training_batches)]
        number = self.generator_steps * self.critic_steps
        return self.made_of(sizes[batch % len(sizes)] for batch in range(number))

    def made_of(self, sizes: Iterable[int]) -> list[int]:
        """How many images each of the generator's steps makes, by the sizes of the batches."""
        return [size if size >= _LEAST else 0 for size in islice(sizes, self.critic_steps - 1, None, self.critic_steps)]

    def setup(self, stage: str) -> None:
        """Refuse, with a ValueError, networks of other images than the data's; let DDP cope with two optimisers."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            check_generator(self.generator, data)
            check_size(self.critic, data)
        prepare_for_two_optimizers(self.trainer)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union
        """The critic's, then the generator's."""
        critic = self._critic_optimizer(self.critic.parameters())
        return [critic, self._generator_optimizer(self.generator.parameters())]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Alg. 1 of a GAN: critic, then generator."""
        critic_optimizer, generator_optimizer = cast(list[Any], self.optimizers())
        real = batch.image
        if len(real) < _LEAST:
            return
        number = self.current_epoch * int(self.trainer.num_training_batches) + batch_idx
        generators_turn = (number + 1) % self.critic_steps == 0
        latent = torch.randn(len(real), self.generator.latent_dim, device=real.device)
        with torch.set_grad_enabled(generators_turn):
            fake = self.generator(latent)

        real_logit, fake_logit = self.critic(real), self.critic(fake.detach())
        loss = gan.critic_loss(real_logit, fake_logit, self.objective)
        if self.penalty:
            loss = loss + self.penalty * gan.gradient_penalty(self.critic, real, fake.detach())
        critic_optimizer.zero_grad()
        self.manual_backward(loss)
        critic_optimizer.step()
        logged = {"critic": loss}

        if generators_turn:
            self.critic.requires_grad_(False)
            logit = self.critic(fake)
            terms = {"generator": gan.generator_loss(logit, self.objective)}
            terms |= self.terms(fake, logit, number // self.critic_steps)
            if self.code_weight and isinstance(self.critic, InfoGANCritic):
                self.critic.code_head.requires_grad_()  # Q plays on the generator's side
                terms["code"] = self.code_weight * gan.code_loss(self.critic.code(fake), latent)
            generator_optimizer.zero_grad()
            critic_optimizer.zero_grad()
            self.manual_backward(torch.stack(list(terms.values())).sum())
            generator_optimizer.step()
            if self.code_weight:
                critic_optimizer.step()
            self.critic.requires_grad_()
            logged |= terms
        self._accumulate(logged)

    @torch.no_grad()
    def sample(self, number: int, seed: int = 0) -> Tensor:
        """Generated pixels ``(number, C, H, W)`` of latent vectors drawn with ``seed``, in eval mode."""
        latent = torch.randn(number, self.generator.latent_dim, generator=torch.Generator().manual_seed(seed))
        training = self.generator.training
        self.generator.eval()
        images = torch.cat([self.generator(part.to(self.device)) for part in latent.split(500)])
        self.generator.train(training)
        return images.float()
