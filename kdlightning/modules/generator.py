"""Adversarial training of a generator: two networks, two optimisers, the steps written out."""

from collections.abc import Iterable, Sequence, Sized
from itertools import islice
from typing import Any, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from kdlightning.data.generated import check_generator, check_shape, check_size
from kdlightning.functional import gan
from kdlightning.modules.arguments import check_makers, check_networks, keep_plain_hyperparameters
from kdlightning.modules.steps import OwnSteps
from kdlightning.networks.gan import Critic, Generator, InfoGANCritic
from kdlightning.types import Batch

_LEAST = 2  # images in a batch: batch normalisation needs two


class GeneratorModule(OwnSteps):
    """Trains a generator against a critic on a datamodule's training images; labels are never looked at.

    Every batch one step of the critic, every ``critic_steps`` batches one of the generator, on the same latent vectors;
    with the trainer's ``accumulate_grad_batches`` a step is on so many batches.
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
        self.generator, self.critic = generator, critic
        self.objective, self.critic_steps = objective, critic_steps
        self.penalty, self.code_weight = penalty, code_weight
        self._generator_optimizer, self._critic_optimizer = generator_optimizer, critic_optimizer
        self._parts: list[Tensor] = []  # the batches of a step
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
        return epochs * self._groups // self.critic_steps

    @property
    def _groups(self) -> int:
        """The critic's steps in an epoch."""
        return -(-int(self.trainer.num_training_batches) // self.batches_a_step)

    def images_per_step(self) -> list[int]:
        """How many images each of the generator's steps makes, on this process: an epoch's last batch is smaller."""
        loader: Any = self.trainer.train_dataloader
        if not getattr(loader, "batch_size", None) or not isinstance(loader.sampler, Sized):
            told = "a DataLoader with a batch_size, of a data set that has a length"
            raise ValueError(f"{type(self).__name__} spreads its queries over all batches: expected {told}")
        size, total = int(loader.batch_size), len(loader.sampler)
        sizes = [min(size, total - first) for first in range(0, total, size)][: int(self.trainer.num_training_batches)]
        groups = grouped(sizes, self.batches_a_step)
        number = self.generator_steps * self.critic_steps
        return self.made_of(groups[group % len(groups)] for group in range(number))

    def made_of(self, sizes: Iterable[int]) -> list[int]:
        """How many images each of the generator's steps makes, by the sizes of the critic's steps."""
        return list(islice(sizes, self.critic_steps - 1, None, self.critic_steps))

    def setup(self, stage: str) -> None:
        """Refuse, with a ValueError, networks of other images than the data's."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if data is not None:
            check_generator(self.generator, data)
            check_size(self.critic, data)

    def check_images(self, batch: Batch) -> None:
        """Refuse, with a ValueError, networks of images of another shape than the first."""
        super().check_images(batch)
        for network in (self.generator, self.critic):
            check_shape(network, batch.image.shape[1:], "the loader")

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's union
        """The critic's, then the generator's."""
        critic = self._critic_optimizer(self.critic.parameters())
        return [critic, self._generator_optimizer(self.generator.parameters())]

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Alg. 1 of a GAN: critic, then generator; each steps once on all batches of a step."""
        if len(batch.image) >= _LEAST:
            self._parts.append(batch.image)
        if not self.ends_step or not self._parts:
            return
        parts, self._parts = self._parts, []
        shares = [len(part) / sum(map(len, parts)) for part in parts]
        number = self.current_epoch * self._groups + batch_idx // self.batches_a_step
        generators_turn = (number + 1) % self.critic_steps == 0
        latents = [torch.randn(len(part), self.generator.latent_dim, device=part.device) for part in parts]
        critic_optimizer, generator_optimizer = cast(list[Any], self.optimizers())
        terms: dict[str, Tensor] = {}

        critic_optimizer.zero_grad()
        for real, latent, share in zip(parts, latents, shares, strict=True):
            with torch.set_grad_enabled(generators_turn and len(parts) == 1):
                fake = self.generator(latent)
            real_logit, fake_logit = self.critic(real), self.critic(fake.detach())
            loss = gan.critic_loss(real_logit, fake_logit, self.objective)
            if self.penalty:
                loss = loss + self.penalty * gan.gradient_penalty(self.critic, real, fake.detach())
            self._backward({"critic": loss}, share, terms)
        self.clipped_step(critic_optimizer)

        if generators_turn:
            generator_optimizer.zero_grad()
            critic_optimizer.zero_grad()
            for latent, share in zip(latents, shares, strict=True):
                fake = fake if len(parts) == 1 else self.generator(latent)  # the graph of one part at a time
                self._backward(self._generator_terms(fake, latent, number // self.critic_steps), share, terms)
            self.clipped_step(generator_optimizer)
            if self.code_weight:
                self.clipped_step(critic_optimizer)
        self._accumulate(terms)

    def _generator_terms(self, fake: Tensor, latent: Tensor, step: int) -> dict[str, Tensor]:
        self.critic.requires_grad_(False)
        logit = self.critic(fake)
        self.critic.requires_grad_()
        terms = {"generator": gan.generator_loss(logit, self.objective), **self.terms(fake, logit, step)}
        if self.code_weight and isinstance(self.critic, InfoGANCritic):
            # Q plays on the generator's side, and so do the features that it shares with D
            terms["code"] = self.code_weight * gan.code_loss(self.critic.code(fake), latent)
        return terms

    def _backward(self, losses: dict[str, Tensor], share: float, logged: dict[str, Tensor]) -> None:
        """The gradients of a part that is so large a share of a step; its losses are added to what is logged."""
        if share != 1:
            losses = {name: share * loss for name, loss in losses.items()}
        self.manual_backward(torch.stack(list(losses.values())).sum())
        for name, loss in losses.items():
            logged[name] = logged[name] + loss.detach() if name in logged else loss.detach()

    @torch.no_grad()
    def sample(self, number: int, seed: int = 0) -> Tensor:
        """Generated pixels ``(number, C, H, W)`` of latent vectors drawn with ``seed``, in eval mode."""
        latent = torch.randn(number, self.generator.latent_dim, generator=torch.Generator().manual_seed(seed))
        training = self.generator.training
        self.generator.eval()
        images = torch.cat([self.generator(part.to(self.device)) for part in latent.split(500)])
        self.generator.train(training)
        return images.float()


def grouped(sizes: Sequence[int], number: int) -> list[int]:
    """Images of each step, of so many batches, of an epoch; batches too small for a batch normalisation have none."""
    used = [size if size >= _LEAST else 0 for size in sizes]
    return [sum(used[first : first + number]) for first in range(0, len(used), number)]
