"""The distances between a teacher's answer and a student's, once for the whole package.

.. [Hinton2015] G. Hinton, O. Vinyals, J. Dean. Distilling the Knowledge in a Neural Network. arXiv:1503.02531.
.. [Zhao2022] B. Zhao, Q. Cui, R. Song, Y. Qiu, J. Liang. Decoupled Knowledge Distillation. CVPR 2022, arXiv:2203.08679.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

_UNEQUAL = "student logits {} and teacher log-probabilities {} must have the same shape (N, K)"


def softened(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of logits ``(N, K)`` at a temperature T > 0, in float32 or better.

    Half precision ends at 65,504: divided by a small T, its logits would be infinite.
    """
    return F.log_softmax((logits if logits.dtype == torch.float64 else logits.float()) / temperature, dim=1)


def log_softened(probabilities: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of a teacher at a temperature, from its probabilities alone.

    Log-probabilities equal logits up to a constant per row, which softmax drops, so ``log_softmax(log p / T)`` is
    exactly ``log_softmax(logits / T)``. Of ``(N, K)``, rows that sum to 1; zeros are raised to the smallest normal
    float, so that an API that rounds to zero stays finite.
    """
    return softened(probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log(), temperature)


def kd_divergence(student_logits: Tensor, teacher_log_probabilities: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence from teacher to student, mean over the batch, *without* a factor T².

    KL(p || q) = sum_k p_k (log p_k - log q_k), with q = softmax(student_logits / T) at T > 0. Both are ``(N, K)``,
    else a ValueError, and the teacher's softened already (see :func:`log_softened`).

    Returns:
        A scalar. Multiply by T² to keep gradients comparable over temperatures, Sec. 2 of [Hinton2015]_.
    """
    if student_logits.shape != teacher_log_probabilities.shape:
        raise ValueError(_UNEQUAL.format(tuple(student_logits.shape), tuple(teacher_log_probabilities.shape)))
    student = softened(student_logits, temperature)
    return F.kl_div(student, teacher_log_probabilities, reduction="batchmean", log_target=True)


def smoothed_labels(answer: Tensor, confidence: float) -> Tensor:
    """One-hot rows ``(N, K)`` as probabilities: the class gets ``confidence``, the others share the rest evenly.

    A ValueError if that does not make the label the likeliest class, or leaves nothing for the others.
    """
    classes = answer.shape[1]
    if not 1 / classes < confidence < 1:
        raise ValueError(f"confidence: expected more than 1/{classes} and less than 1, got {confidence}")
    return answer * confidence + (1 - answer) * ((1 - confidence) / (classes - 1))


def centred(logits: Tensor) -> Tensor:
    """Logits ``(N, K)`` without their row's mean.

    Logits and the log-probabilities of the same distribution differ by a constant per row: centred, they are equal.
    """
    return logits - logits.mean(dim=1, keepdim=True)


def centred_log_probabilities(probabilities: Tensor, floor: float = 1e-7) -> Tensor:
    """``log p - mean(log p)``: the centred logits ``(N, K)`` behind probabilities ``(N, K)``.

    Probabilities below the floor are raised to it: an API rounds, and log 0 is not finite.
    """
    return centred(probabilities.clamp_min(floor).log())


def decoupled_divergence(
    student_logits: Tensor, teacher_log_probabilities: Tensor, target: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """KL(p || q) of every image in two parts, Sec. 3.1 of [Zhao2022]_: ``KL = TCKD + (1 - p_target) NCKD``.

    Arguments as for :func:`kd_divergence`, of at least two classes (else a ValueError), and class indices ``(N,)``.

    Returns:
        TCKD ``(N,)``, the divergence of (target, not target); and NCKD ``(N,)``, that of the other classes among
        themselves. Both *without* a factor T².
    """
    if student_logits.shape != teacher_log_probabilities.shape or student_logits.shape[1] < 2:
        shapes = tuple(student_logits.shape), tuple(teacher_log_probabilities.shape)
        raise ValueError(_UNEQUAL.format(*shapes) + ", with at least two classes")
    own = F.one_hot(target, student_logits.shape[1]).bool()

    def decoupled(log_probabilities: Tensor) -> tuple[Tensor, Tensor]:
        others = log_probabilities[~own].view(len(own), -1)  # without the target, whose share of them is no number
        rest = others.logsumexp(1)
        return torch.stack([log_probabilities[own], rest], 1), others - rest[:, None]

    binary_p, others_p = decoupled(teacher_log_probabilities)
    binary_q, others_q = decoupled(softened(student_logits, temperature))
    tckd = (binary_p.exp() * (binary_p - binary_q)).sum(1)
    nckd = (others_p.exp() * (others_p - others_q)).sum(1)
    return tckd, nckd
