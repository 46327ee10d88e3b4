"""Which images of a pool to learn from, by what a teacher and its student say of them: KD³'s and shader KD's rules.

.. [Tang2023] J. Tang, S. Chen, G. Niu, M. Sugiyama, C. Gong. Distribution Shift Matters for Knowledge Distillation with
   Webly Collected Images. ICCV 2023.
.. [Frank2023] L. Frank, J. Davis. Data-Free Knowledge Distillation Using Adversarially Perturbed OpenGL Shader Images.
   2023.
Reference code of KD³: https://github.com/tangjialiang97/KD3 (no licence: read for facts, nothing copied).
"""

import math
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor

Mapping = Literal["linear", "convex"]


class Choice(NamedTuple):
    """What is said of a pool of M images.

    Attributes:
        mask: bool ``(M,)``: chosen.
        label: predicted class ``(M,)``, int64.
        confidence: its probability ``(M,)``, where the choice rests on it.
        teacher_alone: whether the teacher has chosen alone, for want of sure predictions.
    """

    mask: Tensor
    label: Tensor
    confidence: Tensor | None = None
    teacher_alone: bool = False


def student_weight(progress: float) -> float:
    """α(t), the student's weight in the combined prediction, Eq. 4 of [Tang2023]_.

    With the progress t / I, the share of the training that is over, exp(-5 (2 t / I - 1)²) in the first half, 1 in the
    second. A ValueError outside [0, 1].
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress: expected a share of the training from 0 to 1, got {progress}")
    return math.exp(-5 * (2 * progress - 1) ** 2) if progress <= 0.5 else 1.0  # Eq. (4)


def combine(p_teacher: Tensor, p_student: Tensor, alpha: float) -> Tensor:
    """(1 - α) of the teacher's and α of the student's probabilities ``(N, K)``, Eq. 3 of [Tang2023]_."""
    return (1 - alpha) * p_teacher + alpha * p_student  # Eq. (3)


def class_thresholds(count: Tensor, threshold: float = 0.95, mapping: Mapping = "linear") -> Tensor:
    """How sure a prediction must be, class by class, Eqs. 6-7 of [Tang2023]_: less for classes that are predicted less.

    Args:
        count: how many images of the whole pool are predicted to be of each class ``(K,)``.
        threshold: V_th.
        mapping: ``linear``, V_th n / max n, as printed; ``convex``, V_th q / (2 - q) with q = n / max n, as released.

    Returns:
        float32 ``(K,)``, in [0, V_th]; a ValueError of no image at all, or if V_th is outside [0, 1].
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold: expected a probability, got {threshold}")
    most = count.max()
    if most <= 0:
        raise ValueError("class_thresholds needs the counts of at least one image, all of them are 0")
    frequency = count.float() / most  # Eq. (7)
    return threshold * (frequency if mapping == "linear" else frequency / (2 - frequency))  # Eq. (6)


def select(confidence: Tensor, label: Tensor, threshold: float = 0.95, mapping: Mapping = "linear") -> Tensor:
    """Which images of a pool belong, bool ``(N,)``, Eqs. 5-8 of [Tang2023]_.

    Those whose combined prediction's top probability ``(N,)`` is above the threshold (see :func:`class_thresholds`) of
    its class ``(N,)``, int64.
    """
    return confidence > class_thresholds(torch.bincount(label), threshold, mapping)[label]  # Eq. (8)


def top_predictions(p_teacher: Tensor, p_student: Tensor, alpha: float) -> Tensor:
    """Top probability and class of the teacher's and of the combined prediction, ``(N, 4)``: Eqs. 3 and 5."""
    pair = (p_teacher, combine(p_teacher, p_student, alpha))
    return torch.cat([torch.stack(torch.max(p, 1), 1).float() for p in pair], 1)  # Eq. (5)


def choose(
    predictions: Tensor, threshold: float = 0.95, mapping: Mapping = "linear", least_share: float = 0.01
) -> Choice:
    """Which images of a pool are learnt from, Eqs. 5-8 of [Tang2023]_.

    By the combined prediction of :func:`top_predictions` ``(M, 4)``; by the teacher's where that chooses less than
    ``least_share`` of the pool.
    """
    alone, combined = (
        Choice(select(p, label.long(), threshold, mapping), label.long(), p, teacher_alone)
        for p, label, teacher_alone in ((*predictions[:, :2].T, True), (*predictions[:, 2:].T, False))
    )
    return alone if combined.mask.sum() < least_share * len(predictions) else combined


def agreement_weights(student: Tensor, teacher: Tensor, form: Literal["printed", "released"] = "printed") -> Tensor:
    """Weights ``(N,)``, without gradient, of the images in the feature alignment, Eq. 9 of [Tang2023]_.

    Of both networks' logits ``(N, K)``: as printed, 1 - sigmoid(L1 distance of the *probabilities*), in [0.119, 0.5],
    large where both agree; as released, sigmoid(L2 distance of the *logits*), in [0.5, 1), large where they do not.
    """
    with torch.no_grad():
        if form == "printed":
            distance = (student.softmax(1) - teacher.softmax(1)).abs().sum(1)
            return 1 - distance.sigmoid()  # Eq. (9)
        return cast(Tensor, (student - teacher).norm(dim=1).sigmoid())


def mix_distribution(images: Tensor, partner: Tensor, coefficient: Tensor) -> Tensor:
    """Images with the mean and the spread of a mixture with another image's, Eqs. 11-12 of [Tang2023]_.

    Statistics are those of every channel of every image over its pixels, as in the released code. The partners are
    the other images' positions in the batch ``(N,)``, a permutation; the coefficient λ ``(N,)`` says how much of an
    image's own statistics stays. ``(N, C, H, W)`` to ``(N, C, H, W)``, not clamped.
    """
    mean = images.mean(dim=(2, 3), keepdim=True)
    spread = (images.var(dim=(2, 3), keepdim=True) + 1e-6).sqrt()  # above 0 for a constant image, too
    own = coefficient[:, None, None, None]
    gamma = own * spread + (1 - own) * spread[partner]  # Eq. (11)
    beta = own * mean + (1 - own) * mean[partner]
    return gamma * (images - mean) / spread + beta  # Eq. (12)


def contrastive_loss(
    one: Tensor, other: Tensor, temperature: float = 0.3, form: Literal["printed", "ntxent"] = "printed"
) -> Tensor:
    """Two views of an image should be closer than two images, Eqs. 15-16 of [Tang2023]_, averaged over the batch.

    Args:
        one: embeddings of the images ``(N, D)``; normalised here.
        other: embeddings of their perturbed views ``(N, D)``.
        temperature: τ.
        form: ``printed``: the denominator has the other images' perturbed views only; ``ntxent``: all views of all
            images but the one compared, in both directions, as released (SimCLR's NT-Xent).

    Returns:
        A scalar, in nats; a ValueError of fewer than two images.
    """
    if len(one) < 2:
        raise ValueError(f"a contrastive loss compares images: expected at least 2, got {len(one)}")
    one, other = (torch.nn.functional.normalize(view, dim=1) for view in (one, other))  # Eqs. (13)-(14)
    if form == "printed":
        similarity = (one @ other.T).float() / temperature
        positive = similarity.diagonal()
        itself = torch.eye(len(one), dtype=torch.bool, device=one.device)
        negatives = similarity.masked_fill(itself, -math.inf).logsumexp(dim=1)
        return (negatives - positive).mean()  # Eq. (15)
    views = torch.cat([one, other])
    similarity = ((views @ views.T).float() / temperature).fill_diagonal_(-math.inf)
    partner = torch.arange(len(views), device=one.device).roll(len(one))
    return torch.nn.functional.cross_entropy(similarity, partner)


def assign_targets(
    predicted: Tensor, num_classes: int, per_class: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images to push into each class, Eqs. 1-3 of [Frank2023]_: none of them is predicted to be of it already.

    A class's images come in equal numbers from every other class that the teacher predicts at all; where one has too
    few, and for what does not divide evenly, they are drawn from the rest of all others. Only where all images of other
    classes together are too few is an image drawn twice for a class. An image may stand for several classes.

    Of the teacher's classes ``(M,)``, int64, of all images, and N_i, the number of images per class.

    Returns:
        Positions ``(N,)`` and target classes ``(N,)``, class by class; a class has none if all images are predicted to
        be of it.
    """
    order = torch.randperm(len(predicted), generator=generator)
    positions, targets, shuffled = [order[:0]], [order[:0]], predicted[order]
    present = [k for k in range(num_classes) if (shuffled == k).any()]
    for target in range(num_classes):
        others = [k for k in present if k != target]
        if not others:
            continue
        even, found = per_class // len(others), [order[shuffled == k] for k in others]
        found = [images[torch.randperm(len(images), generator=generator)] for images in found]  # Eq. (2)
        rest = torch.cat([images[even:] for images in found])
        rest = rest[torch.randperm(len(rest), generator=generator)]
        whole = torch.cat([*(images[:even] for images in found), rest])
        mine = whole.repeat(-(-per_class // len(whole)))[:per_class]
        positions.append(mine)
        targets.append(torch.full_like(mine, target))  # Eq. (3): predicted[mine] != target
    return torch.cat(positions), torch.cat(targets)
