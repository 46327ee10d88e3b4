"""The distances between a teacher's answer and a student's, once for the whole package.

.. [Hinton2015] G. Hinton, O. Vinyals, J. Dean. Distilling the Knowledge in a Neural Network. arXiv:1503.02531.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def log_softened(probabilities: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of a teacher at a temperature, from its probabilities alone.

    Log-probabilities equal logits up to a constant per row, which softmax drops, so
    ``log_softmax(log p / T)`` is exactly ``log_softmax(logits / T)``.

    Args:
        probabilities: class probabilities ``(N, K)``, rows sum to 1. Zeros are raised to the smallest normal
            float, so that an API that rounds to zero stays finite.
        temperature: T > 0.

    Returns:
        Log-probabilities ``(N, K)``.
    """
    tiny = torch.finfo(probabilities.dtype).tiny
    return F.log_softmax(probabilities.clamp_min(tiny).log() / temperature, dim=1)


def kd_divergence(student_logits: Tensor, teacher_log_probabilities: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence from teacher to student, mean over the batch, *without* a factor T².

    KL(p || q) = sum_k p_k (log p_k - log q_k), with q = softmax(student_logits / T).

    Args:
        student_logits: ``(N, K)``.
        teacher_log_probabilities: ``(N, K)``, already softened (see :func:`log_softened`).
        temperature: T > 0 of the student's side.

    Returns:
        A scalar. Multiply by T² to keep gradients comparable over temperatures, Sec. 2 of [Hinton2015]_.

    Raises:
        ValueError: the two shapes differ.
    """
    if student_logits.shape != teacher_log_probabilities.shape:
        raise ValueError(
            f"student logits {tuple(student_logits.shape)} and teacher log-probabilities "
            f"{tuple(teacher_log_probabilities.shape)} must have the same shape (N, K)"
        )
    student = F.log_softmax(student_logits / temperature, dim=1)
    return F.kl_div(student, teacher_log_probabilities, reduction="batchmean", log_target=True)
