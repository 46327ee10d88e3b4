"""Knockoff Nets: which images of a pool to ask under a budget, at random or by a policy that learns what pays off.

.. [Orekondy2019] T. Orekondy, B. Schiele, M. Fritz. Knockoff Nets: Stealing Functionality of Black-Box Models.
   CVPR 2019. arXiv:1812.02766.
Reference code: https://github.com/tribhuvanesh/knockoffnets/tree/eaa8acbf (read for facts, nothing copied).

Access: soft, top-k or hard labels. Phases: predict KnockoffSelection → fit, with a method that trains on answers.

Differences from the paper (P) and the released code (C):
1. C has the random strategy only (its ``adaptive.py`` draws at random too); the adaptive one follows P.
2. Actions: P's policy walks down a hierarchy of the pool's classes; here it is one softmax over groups (P's control
   without hierarchy). Groups are the pool's labels, or k-means clusters of its pixels where there are none.
3. P draws, asks and updates step by step. Here a round of images is drawn from one policy, and the updates of its
   images are summed.
4. An image is asked once; a group that has no image left is drawn no more.
5. Every reward is rescaled to [0, 1] by the smallest and the largest value of the past images, and compared with their
   mean; the images of the round count as past.
6. The student is trained on all answers so far, for ``epochs`` passes after each round, with a new optimiser.
7. Of hard labels the certainty is always 1, so this reward says nothing. Of the best classes alone the rewards see the
   others even.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn
from torch.nn import functional as F

from kdlightning.data.base import at_least
from kdlightning.functional.topk import TopK, spread
from kdlightning.modules.rounds import RoundsModule
from kdlightning.teachers import BlackBoxTeacher

Reward = Literal["certainty", "diversity", "loss"]

_SIDE = 16  # k-means sees images of at most this many pixels a side


class KnockoffSelection(RoundsModule):
    """Asks ``queries`` images of the pool once.

    The transfer set's ``index`` is the image's index in the datamodule; ``group`` (int64, adaptive only) is the action
    that drew it.

    Args:
        teacher: who answers.
        output: directory of the transfer set.
        queries: images asked in all, at most as many as the pool has.
        strategy: ``random`` asks a random subset; ``adaptive`` follows a gradient bandit over groups of the pool.
        student: the knockoff whose ``loss`` is a reward: pixels in [0, 1] to logits ``(N, K)``. Only needed for that.
        num_groups: clusters of the pool's pixels; None takes the pool's labels as groups.
        rewards: which of the paper's rewards are summed, see :func:`reward_terms`.
        round_size: images drawn before the policy is updated.
        step_size: α of the policy's update; None for 1 / N(z), the number of times that a group has been drawn.
        window: Δ, the past images that rewards are compared with.
        options: those of :class:`RoundsModule`.

    Raises:
        ValueError: no reward, the ``loss`` reward without a student, or a number below 1.
    """

    def __init__(
        self,
        teacher: BlackBoxTeacher,
        output: str,
        queries: int,
        strategy: Literal["random", "adaptive"] = "random",
        student: nn.Module | None = None,
        num_groups: int | None = 20,
        rewards: Sequence[Reward] = ("certainty", "diversity", "loss"),
        round_size: int = 100,
        step_size: float | None = None,
        window: int = 500,
        **options: Any,  # noqa: ANN401 - RoundsModule's
    ) -> None:
        super().__init__(teacher, output, queries, student, **options)
        at_least(1, num_groups=num_groups, round_size=round_size, window=window)
        if strategy == "adaptive" and not rewards:
            raise ValueError("the adaptive strategy needs a reward: certainty, diversity or loss")
        if strategy == "adaptive" and "loss" in rewards and student is None:
            raise ValueError("the reward 'loss' is a student's: give a student, or rewards without it")
        self.strategy, self.num_groups, self.rewards = strategy, num_groups, tuple(rewards)
        self.round_size, self.step_size, self.window = round_size, step_size, window

    def begin(self) -> dict[str, Tensor]:
        """The groups and a uniform policy, if adaptive; a ValueError where images or labels do not suffice."""
        number = len(self.pool.index)
        if number < self.queries:
            raise ValueError(f"queries={self.queries}, but the pool has {number} images, each asked once")
        if self.strategy == "random":
            return {}
        group = self._groups()
        groups = int(group.max()) + 1
        return {
            "group": group,
            "preference": torch.zeros(groups),
            "count": torch.zeros(groups, dtype=torch.int64),
            "reward": torch.empty(0, len(self.rewards)),
            "answer": torch.empty(0, self.num_classes),
        }

    def choose(self, number: int, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """A random subset, or images of groups that the policy draws."""
        generator = torch.Generator().manual_seed(self.round_seed(number))
        order = torch.randperm(len(self.pool.index), generator=generator)
        if self.strategy == "random":
            return {"index": self.pool.index[order[: self.queries]]}
        asked = rows["index"] if rows else torch.empty(0, dtype=torch.int64)
        order = order[~torch.isin(self.pool.index[order], asked)]
        group, preference = self.state["group"], self.state["preference"]
        left = [order[group[order] == z].tolist() for z in range(len(preference))]
        positions = []
        for _ in range(min(self.round_size, self.queries - len(asked))):
            empty = torch.tensor([not images for images in left])
            policy = preference.masked_fill(empty, -torch.inf).softmax(0)  # π_t(z)
            positions.append(left[int(torch.multinomial(policy, 1, generator=generator))].pop())
        chosen = torch.tensor(positions)
        return {"index": self.pool.index[chosen], "group": group[chosen]}

    def pixels(self, chosen: dict[str, Tensor]) -> Tensor:
        """Images of the pool."""
        return self.pool.image[self.positions(chosen["index"])]

    def learn(self, number: int, chosen: dict[str, Tensor], rows: dict[str, Tensor]) -> None:
        """Update the policy by the rewards of a round, then train the student."""
        here = torch.searchsorted(rows["index"], chosen["index"])
        answer = rows["answer"][here]
        p_teacher = answer if answer.ndim == 2 else F.one_hot(answer, self.num_classes).float()
        if self.partial:
            known = {name: rows[name][here] for name in ("answer", "classes", "rest")}
            p_teacher = spread(TopK.of_columns(known), torch.zeros(self.num_classes))
        logits = self.student_logits(rows["image"][here]) if "loss" in self.rewards else None

        kept = max(self.window, len(p_teacher))
        self.state["answer"] = torch.cat([self.state["answer"], p_teacher])[-kept:]
        terms = reward_terms(p_teacher, self.state["answer"].mean(0), logits)
        new = torch.stack([terms[name] for name in self.rewards], dim=1)
        self.state["reward"] = torch.cat([self.state["reward"], new])[-kept:]
        reward = rescale(self.state["reward"]).sum(1)
        group, preference, count = chosen["group"], self.state["preference"], self.state["count"]
        self.state["count"] = count = count + torch.bincount(group, minlength=len(count))
        advantage = reward[-len(new) :] - reward.mean()
        self.state["preference"] = update_policy(preference, count, group, advantage, self.step_size)
        if logits is not None:
            super().learn(number, chosen, rows)

    def facts(self, rows: dict[str, Tensor]) -> dict[str, Any]:
        """Adds the last policy, and how many images each group has given."""
        facts = {**super().facts(rows), "strategy": self.strategy}
        if self.strategy == "adaptive":
            groups = len(self.state["preference"])
            facts["group_histogram"] = torch.bincount(rows["group"], minlength=groups).tolist()
            facts["policy"] = [round(value, 4) for value in self.state["preference"].softmax(0).tolist()]
        return facts

    def _groups(self) -> Tensor:
        """The group of every image of the pool ``(N,)``, int64."""
        if self.num_groups is None:
            if self.pool.label is None:
                raise ValueError("the pool has no labels to take for groups: give num_groups, for clusters of pixels")
            return self.pool.label
        if self.num_groups > len(self.pool.index):
            raise ValueError(f"num_groups={self.num_groups}, but the pool has {len(self.pool.index)} images")
        small = F.adaptive_avg_pool2d(self.pool.image.float() / 255, min(_SIDE, *self.pool.image.shape[-2:]))
        clusters = KMeans(self.num_groups, n_init=1, random_state=self.seed).fit_predict(small.flatten(1).numpy())
        return torch.from_numpy(clusters).long()


def reward_terms(p_teacher: Tensor, mean: Tensor, logits: Tensor | None) -> dict[Reward, Tensor]:
    """The three rewards of [Orekondy2019]_'s adaptive strategy, each ``(N,)``.

    Args:
        p_teacher: the teacher's probabilities ``(N, K)``.
        mean: their mean over the past images ``(K,)``.
        logits: the student's logits ``(N, K)``, before it has learnt of these images; None leaves out ``loss``.

    Returns:
        ``certainty``, the margin between the two top probabilities; ``diversity``, how much more than so far is said
        of the classes; ``loss``, the student's cross-entropy in nats.
    """
    top = p_teacher.topk(2, dim=1).values
    terms: dict[Reward, Tensor] = {
        "certainty": top[:, 0] - top[:, 1],
        "diversity": (p_teacher - mean).clamp_min(0).sum(1),
    }
    if logits is not None:
        terms["loss"] = F.cross_entropy(logits, p_teacher, reduction="none")
    return terms


def rescale(values: Tensor) -> Tensor:
    """Columns of ``(N, M)`` rescaled to [0, 1]; a constant column becomes 0."""
    low, high = values.amin(0), values.amax(0)
    return (values - low) / torch.where(high > low, high - low, 1.0)


def update_policy(
    preference: Tensor, count: Tensor, group: Tensor, advantage: Tensor, step_size: float | None = None
) -> Tensor:
    """One step of the gradient bandit for every image of a round, summed.

    H(z) grows by α (r − r̄)(1 − π(z)) for the group that was drawn, and falls by α (r − r̄) π(z) for the others.

    Args:
        preference: H, ``(Z,)``; the policy that drew the images is its softmax.
        count: N(z), ``(Z,)``: how often each group has been drawn, this round included.
        group: the groups drawn ``(N,)``, int64.
        advantage: r − r̄ ``(N,)`` of the images.
        step_size: α; None for 1 / N(z) of the group that was drawn.

    Returns:
        H of the next round, ``(Z,)``.
    """
    alpha = 1 / count[group] if step_size is None else torch.full_like(advantage, step_size)
    direction = F.one_hot(group, len(preference)) - preference.softmax(0)
    return preference + (alpha * advantage) @ direction
