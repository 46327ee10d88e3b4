"""Images pushed to a classifier's decision boundaries along its gradient: the two attacks of shader KD.

Every function takes ``logits_of: Callable[[Tensor], Tensor]``, pixels in [0, 1] ``(M, C, H, W)`` to logits ``(M, K)``,
normalisation included, in any floating dtype: probabilities and losses are computed in float32 at least, so that
autocast inside it is fine. A callable cannot be asked for its mode: that it is in eval, where an image's logits depend
on no other image, is the caller's duty; then neither do the attack's results, but for rounding (a random start, which
is drawn for the batch, excepted). Gradients reach the pixels only: no parameter's ``.grad`` is touched. Works under
``no_grad``; cannot work under ``inference_mode``, which records no graph.

.. [Frank2023] L. Frank, J. Davis. Data-Free Knowledge Distillation Using Adversarially Perturbed OpenGL Shader Images.
   2023.
.. [Kurakin2017] A. Kurakin, I. Goodfellow, S. Bengio. Adversarial Examples in the Physical World. arXiv:1607.02533.
.. [Madry2018] A. Madry et al. Towards Deep Learning Models Resistant to Adversarial Attacks. ICLR 2018,
   arXiv:1706.06083.
Reference code of a later project: https://github.com/loganfrank/temp-good-kd (no licence: read for facts, nothing
copied). From there, because [Frank2023]_ does not say: the Bold Driver's factors, 1.1 and 0.5.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Logits = Callable[[Tensor], Tensor]


class BorderPairs(NamedTuple):
    """The last two images of every attack, on two sides of a decision boundary where it succeeded.

    Where it did not, they are the last image tried and the one that its step began at; for an image that the
    classifier puts in the target class already, twice the start. [Frank2023]_ filters by ``success``; the filter of
    the later code, which does not look at the threshold, is ``(post_class == target) & (pre_class != target)``.
    """

    post: Tensor  #: ``(N, C, H, W)`` in [0, 1], after the boundary
    pre: Tensor  #: ``(N, C, H, W)`` in [0, 1], one step before
    #: bool ``(N,)``: ``post`` is of the target class, ``pre`` is not, both top probabilities are under the threshold
    success: Tensor
    iterations: Tensor  #: steps taken ``(N,)``, int64; the images asked are N + their sum
    post_class: Tensor  #: the classifier's classes of ``post`` ``(N,)``, int64
    pre_class: Tensor  #: those of ``pre``


class _Seen(NamedTuple):
    """What the classifier says of images, with the way back to their gradient."""

    images: Tensor
    label: Tensor
    confidence: Tensor
    loss: Tensor

    def sign(self) -> Tensor:
        """The signs of each image's gradient of its own loss; frees the graph, so only once."""
        (gradient,) = torch.autograd.grad(self.loss, self.images)
        return gradient.sign_()


class _Climb(NamedTuple):
    """The unfinished images of :func:`border_attack`: ``x`` is where they are, what follows it was seen there."""

    row: Tensor
    target: Tensor
    lower: Tensor
    upper: Tensor
    step: Tensor
    x: Tensor
    sign: Tensor
    label: Tensor
    confidence: Tensor

    def keep(self, position: Tensor) -> "_Climb":
        """Only the images at these positions."""
        return _Climb(*(field.index_select(0, position) for field in self))


def border_attack(
    logits_of: Logits,
    images: Tensor,
    target: Tensor,
    *,
    epsilon: float = 10 / 255,
    step: float = 1 / 255,
    iterations: int = 12,
    threshold: float = 0.95,
    grow: float = 1.1,
    shrink: float = 0.5,
    random_start: float = 0.0,
) -> BorderPairs:
    """Just across the boundary into the target class: the first attack of [Frank2023]_, Sec. 3.3.

    Targeted L∞ BIM [Kurakin2017]_ with a step size of each image's own, led by a Bold Driver: while the new image is
    not of the target class it is accepted and the step grows; once it is, either it and its predecessor are both unsure
    enough, and the pair is kept, or the step is taken back and shrinks. Pixels stay in the ball around the given
    image and in [0, 1] at once; nothing else limits the step. Images of the target class from the start never
    succeed, and take no step.

    A step costs an image one forward and one backward: the forward that judges it has the graph for the next step, an
    image that was taken back has its gradient still, and finished images leave the batch. (Batch sizes therefore
    vary: with ``torch.backends.cudnn.benchmark`` every new one is tuned anew, leave it off.)

    Args:
        logits_of: pixels ``(M, C, H, W)`` to logits ``(M, K)``; a network in eval mode.
        images: ``(N, C, H, W)`` in [0, 1], float32 or float64.
        target: class indices to end in ``(N,)``, int64.
        epsilon: radius of the L∞ ball.
        step: first step size.
        iterations: most steps per image, those taken back included.
        threshold: what the top probability of both images must be below; above 1 for no such condition.
        grow: factor of the step after one that did not cross.
        shrink: factor of the step after one that was taken back.
        random_start: start at a uniform distance up to this in every pixel, within the ball (PGD [Madry2018]_); drawn
            from torch's global generator.

    Returns:
        The pairs, in the order of the images.

    Raises:
        RuntimeError: under ``torch.inference_mode``.
        ValueError: images, targets or settings that are not as above.
    """
    _require_attackable(images, target)
    if step <= 0 or iterations < 1 or threshold <= 0 or grow < 1 or not 0 < shrink < 1:
        expected = "step > 0, iterations >= 1, threshold > 0, grow >= 1 and 0 < shrink < 1"
        got = f"{step}, {iterations}, {threshold}, {grow} and {shrink}"
        raise ValueError(f"border_attack expected {expected}, got {got}")
    if random_start < 0:
        raise ValueError(f"random_start: expected a distance, got {random_start}")
    images = images.detach()
    lower, upper = _box(images, epsilon)
    x = images.clone()
    if random_start > 0:
        noise = torch.rand(images.shape, device=images.device, dtype=images.dtype)
        x = noise.mul_(2).sub_(1).mul_(random_start).add_(images).clamp_(lower, upper)
    none = torch.zeros_like(target)
    seen = _look(logits_of, x, target)
    pairs = BorderPairs(x.clone(), x.clone(), none.bool(), none, seen.label.clone(), seen.label.clone())
    outside = torch.nonzero(seen.label != target).squeeze(1)
    if len(outside) == 0:
        return pairs
    row, size = torch.arange(len(x), device=x.device), x.new_full((len(x), 1, 1, 1), step)
    now = _Climb(row, target, lower, upper, size, x, seen.sign(), seen.label, seen.confidence).keep(outside)
    for turn in range(1, iterations + 1):
        new = torch.addcmul(now.x, now.sign, now.step, value=-1).clamp_(now.lower, now.upper)
        seen = _look(logits_of, new, now.target)
        crossed = seen.label == now.target  # (1)
        success = crossed & (seen.confidence < threshold) & (now.confidence < threshold)  # (2), (3)
        leaving = torch.nonzero(success | (turn == iterations)).squeeze(1)
        row = now.row[leaving]
        pairs.post[row], pairs.pre[row] = seen.images.detach()[leaving], now.x[leaving]
        pairs.post_class[row], pairs.pre_class[row] = seen.label[leaving], now.label[leaving]
        pairs.success[row], pairs.iterations[row] = success[leaving], turn
        if len(leaving) == len(success):
            break
        now = _move(now, seen, crossed & ~success, grow, shrink)
        if len(leaving):
            now = now.keep(torch.nonzero(~success).squeeze(1))
    return pairs


def _move(now: _Climb, seen: _Seen, back: Tensor, grow: float, shrink: float) -> _Climb:
    """Accept the images just seen, but for those to be taken back ``(M,)``, whose gradient is known."""
    undo = torch.nonzero(back).squeeze(1)
    size = torch.where(back[:, None, None, None], now.step * shrink, now.step * grow)
    if len(undo) == len(back):
        return now._replace(step=size)
    fields = [seen.images.detach(), seen.sign(), seen.label, seen.confidence]
    if len(undo):  # in place: nothing else reads these, their graph is gone
        for field, before in zip(fields, (now.x, now.sign, now.label, now.confidence), strict=True):
            field.index_copy_(0, undo, before[undo])
    return _Climb(now.row, now.target, now.lower, now.upper, size, *fields)


def deeper_attack(
    logits_of: Logits,
    images: Tensor,
    target: Tensor | None = None,
    *,
    epsilon: float = 1 / 255,
    step: float = 1 / 255,
    steps: int = 1,
) -> Tensor:
    """Deeper into the class an image is in, no threshold: the second attack of [Frank2023]_, Sec. 3.3.

    Plain targeted L∞ BIM with a constant step [Kurakin2017]_: ``steps`` forwards and backwards, no judgement. An image
    whose loss has underflowed to 0 has no gradient and stays. For the pairs of :func:`border_attack`, one call::

        deeper_attack(logits_of, torch.cat([pairs.post, pairs.pre]), torch.cat([pairs.post_class, pairs.pre_class]))

    Arguments as there; without a target ``(N,)`` images go towards the classes that the classifier gives them now, at
    no further cost. Pixels stay in [0, 1] and in the L∞ ball of radius epsilon around the images.

    Returns:
        ``(N, C, H, W)``, a new tensor.

    Raises:
        RuntimeError: under ``torch.inference_mode``.
        ValueError: images, targets or settings that are not as above.
    """
    _require_attackable(images, target)
    if step <= 0 or steps < 1:
        raise ValueError(f"deeper_attack expected step > 0 and steps >= 1, got {step} and {steps}")
    lower, upper = _box(images.detach(), epsilon)
    x = images.detach().clone()
    for _ in range(steps if len(x) else 0):
        seen = _look(logits_of, x, target)
        target = seen.label if target is None else target
        x = torch.add(x, seen.sign(), alpha=-step).clamp_(lower, upper)
    return x


def _look(logits_of: Logits, images: Tensor, target: Tensor | None) -> _Seen:
    """One forward with a graph to the pixels; the loss is towards the target, or towards the class seen."""
    leaf = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = logits_of(leaf)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        log_p = logits.log_softmax(1)
        label = logits.argmax(1)
        # a sum, not a mean: every image has its own gradient, and in half precision it does not vanish in a large batch
        loss = F.nll_loss(log_p, label if target is None else target, reduction="sum")
    return _Seen(leaf, label, log_p.detach().amax(1).exp(), loss)


def _box(images: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Lower and upper ends of the pixels: the ball and [0, 1] at once."""
    if epsilon < 0:
        raise ValueError(f"epsilon: expected the radius of a ball, got {epsilon}")
    return (images - epsilon).clamp_(min=0), (images + epsilon).clamp_(max=1)


def _require_attackable(images: Tensor, target: Tensor | None) -> None:
    if torch.is_inference_mode_enabled():
        why = "an attack needs gradients, which torch.inference_mode records nowhere"
        raise RuntimeError(f"{why}: use torch.no_grad instead (of a Lightning Trainer: inference_mode: false)")
    if images.ndim != 4 or images.dtype not in (torch.float32, torch.float64):
        got = f"expected images (N, C, H, W) in float32 or float64, got {tuple(images.shape)} in {images.dtype}"
        raise ValueError(f"{got}; 16 bits do not hold steps of 1/255, autocast belongs inside logits_of")
    if target is not None and (target.shape != images.shape[:1] or target.dtype != torch.int64):
        got = f"{tuple(target.shape)} in {target.dtype}"
        raise ValueError(f"expected class indices ({len(images)},) in int64, got {got}")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError("expected pixels in [0, 1]; normalisation is the network's first layer, inside logits_of")
