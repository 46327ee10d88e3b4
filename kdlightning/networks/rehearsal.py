"""A network is tried once, when it comes in: before an image is paid for, a step is made or a request is answered."""

import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kdlightning.networks.pretrained import fingerprint, name_of

Answer = TypeVar("Answer")


def freeze(network: nn.Module) -> str | None:
    """Make a network one that only answers: eval mode, no gradient to its weights.

    An exported program has no modes and stays as it was exported. A ValueError for layers that have no weights yet.

    Returns:
        The fingerprint of weights that are not in float32: a rehearsal may convert them.
    """
    evaluate(network)
    if lazy := [name for name, tensor in network.named_parameters() if is_lazy(tensor)]:
        untrained = f"{lazy[0]} has no weights before the network has seen an image"
        raise ValueError(f"{name_of(network)} is no trained network: {untrained}")
    for parameter in network.parameters():  # TorchScript's modules have no requires_grad_ of their own
        parameter.requires_grad_(False)
    return fingerprint(network) if _other_dtypes(network) else None


def rehearse_teacher(
    network: nn.Module, shape: Sequence[int], device: torch.device | str = "cpu", *, channels_last: bool = False
) -> int:
    """Let a frozen network answer two images ``(C, H, W)``: K.

    Statistics, modes and random state stay as they are. Weights in another precision become float32 if the network does
    not take float32 images otherwise. A network that gives its logits as ``logits`` beside
    other things gives them alone from now on. Warns of probabilities.

    Args:
        network: it moves to the device.
        shape: of an image.
        device: where it will answer.
        channels_last: convert it to this layout, which is faster for convolutions, if it can answer then.

    Raises:
        ValueError: it does not take the images, gives anything but finite logits ``(N, K)``, or is a program
            exported while it was training.
    """
    who, images = f"the teacher {name_of(network)}", trial_images(shape, device)
    network.to(device)
    if _other_dtypes(network):
        try:
            _answer(network, images, who)
        except ValueError:
            network.float()
    if channels_last and (classes := in_channels_last(network, lambda: rehearse_teacher(network, shape, device))):
        return classes
    with untouched(network):
        before = [tensor.clone() for tensor in network.buffers()]
        logits = _logits(network, images, who)
        if not evaluate(network):
            same = all(map(torch.equal, before, network.buffers()))
            if not same or not torch.allclose(logits, _logits(network, images, who), 1e-3, 1e-4):
                raise ValueError(f"{who} was exported while it was training: export it after network.eval()")
    _warn_of_probabilities(logits, who)
    return logits.shape[1]


def in_channels_last(network: nn.Module, trial: Callable[[], Answer]) -> Answer | None:
    """Put a network in the layout that is faster for convolutions, on CPU and GPU alike, if it passes a trial in it.

    Returns:
        What the trial gave; None where it failed, such as by ``view()`` of a map: the layout is what it was.
    """
    tensors = chain(network.parameters(), network.buffers())
    layout = [(tensor, tensor.data) for tensor in tensors if tensor.ndim in (4, 5)]
    try:
        network.to(memory_format=torch.channels_last)
        return trial()
    except (RuntimeError, ValueError):
        for tensor, own in layout:
            tensor.data = own
        return None


def rehearse_student(network: nn.Module, shape: Sequence[int], device: torch.device | str = "cpu") -> tuple[int, int]:
    """Let a network answer two images ``(C, H, W)`` as it will when it is tested and when it is trained.

    Lazy layers get their weights, and convolutions the layout that is faster for them, if it can be trained so.
    Everything else is as for `rehearse_teacher`.

    Returns:
        K, and the fewest images in a batch that it can be trained on: batch normalisation may need two.

    Raises:
        ValueError: it does not take the images, gives anything but finite logits ``(N, K)``, or cannot be trained.
    """
    who, images = f"the student {name_of(network)}", trial_images(shape, device)
    network.to(device)
    if any(is_lazy(tensor) for tensor in network.parameters()):
        modes = {module: module.training for module in network.modules()}
        _answer(network.eval(), images, who)  # draws from the random state as any new layer does
        for module, training in modes.items():
            module.training = training
    trial = partial(_rehearsed, network, images, who)
    return in_channels_last(network, partial(trial, backward=True)) or trial()


def _rehearsed(network: nn.Module, images: Tensor, who: str, backward: bool = False) -> tuple[int, int]:
    """What `rehearse_student` says; a RuntimeError for gradients that a layout does not allow."""
    with untouched(network):
        try:
            network.train()
        except NotImplementedError as error:
            told = "an exported program has no training mode"
            raise ValueError(f"{who} cannot be trained: {told}; give the module that it was made of") from error
        trained = _logits(network, images, who)
        if backward and (learning := [one for one in network.parameters() if one.requires_grad]):
            with torch.enable_grad():
                torch.autograd.grad(_alone(network, (), network(images)).sum(), learning, allow_unused=True)
        try:
            _answer(network, images[:1], who)
            least = 1
        except ValueError:
            least = 2
        logits = _logits(network.eval(), images, who)
    if trained.shape != logits.shape:
        raise ValueError(f"{who} gives {_told(trained)} in training, {_told(logits)} otherwise: expected the same")
    _warn_of_probabilities(logits, who)
    return logits.shape[1], least


def looks_like_probabilities(logits: Tensor) -> bool:
    """Whether all rows ``(N, K)`` are probabilities, which a softmax would flatten."""
    return logits.shape[1] > 1 and bool((logits >= 0).all()) and bool(((logits.sum(dim=1) - 1).abs() < 1e-4).all())


@contextmanager
def untouched(network: nn.Module) -> Iterator[None]:
    """Without gradients; afterwards modes, buffers and the random state are what they were."""
    modes = {module: module.training for module in network.modules()}
    own = [(module, name, value) for module in modes for name, value in module._buffers.items() if value is not None]
    buffers = [(module, name, value, value.clone()) for module, name, value in own]
    devices = {tensor.device for tensor in chain(network.parameters(), network.buffers()) if tensor.is_cuda}
    python = random.getstate()
    try:
        with torch.random.fork_rng(sorted(devices, key=str)), torch.no_grad():
            yield
    finally:
        random.setstate(python)
        for module, training in modes.items():
            module.training = training
        for module, name, value, before in buffers:
            value.copy_(before)
            if not isinstance(module, torch.jit.ScriptModule):
                module._buffers[name] = value


def evaluate(network: nn.Module) -> bool:
    """Eval mode; False of an exported program, which has no modes and stays as it was exported."""
    try:
        network.eval()
    except NotImplementedError:
        return False
    return True


def _other_dtypes(network: nn.Module) -> set[torch.dtype]:
    tensors = chain(network.parameters(), network.buffers())
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()} - {torch.float32}


def trial_images(shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """The two images ``(C, H, W)`` that a network is tried on: noise, always the same."""
    return torch.rand((2, *shape), generator=torch.Generator().manual_seed(1_000_003)).to(device)


def _answer(network: nn.Module, images: Tensor, who: str) -> Any:  # noqa: ANN401 - whatever a network gives
    try:
        with torch.no_grad():
            return network(images)
    except Exception as error:
        dtypes = _other_dtypes(network)
        reason = f"{error}".strip() or type(error).__name__
        if dtypes:
            stored = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            reason += f" (it has weights in {stored}, images are float32: give network.float())"
        raise ValueError(f"{who} does not take images of shape {tuple(images.shape[1:])}: {reason}") from error


def _logits(network: nn.Module, images: Tensor, who: str) -> Tensor:
    """The logits, checked; where they come among other things, they come alone from now on."""
    answer = _answer(network, images, who)
    if not isinstance(answer, Tensor) and isinstance(found := _alone(network, (), answer), Tensor):
        if getattr(answer, "aux_logits", getattr(answer, "aux_logits1", None)) is not None:
            beside = "which nothing trains here: leave them out, in torchvision by aux_logits=False"
            warnings.warn(f"{who} has auxiliary classifiers, {beside}", stacklevel=3)
        network.register_forward_hook(_alone)
        answer = found
    if wrong := _objection(answer, len(images)):
        raise ValueError(f"{who}: expected logits (N, K), got {_told(answer)} for {len(images)} images; {wrong}")
    logits: Tensor = answer.float()
    if not logits.amax(dim=1).isfinite().all():  # one class may well be impossible
        raise ValueError(f"{who} gives logits that are NaN or infinite: are its weights whole?")
    return logits


def _alone(_: nn.Module, __: Any, answer: Any) -> Any:  # noqa: ANN401 - a forward hook
    """The logits of Hugging Face's outputs, of torchvision's Inception and GoogLeNet in training, and of dicts."""
    found = answer.get("logits") if isinstance(answer, Mapping) else getattr(answer, "logits", None)
    return answer if found is None else found


def _objection(answer: Any, number: int) -> str | None:  # noqa: ANN401 - whatever a network gives
    """What to do about an answer that is no logits; None for logits."""
    if not isinstance(answer, Tensor):
        return "wrap it in a module whose forward returns the logits alone"
    if not answer.is_floating_point():
        return "return the logits whose argmax these are"
    if answer.numel() == number and answer.ndim in (1, 2):
        return "a single logit z answers one class: for two classes return torch.cat([torch.zeros_like(z), z], 1)"
    if answer.ndim > 2:
        return "these are features: a classifier pools them and ends in a linear layer"
    return None if answer.ndim == 2 and len(answer) == number else "return one row for each image"


def _told(answer: Any) -> str:  # noqa: ANN401 - whatever a network gives
    if isinstance(answer, Tensor):
        kind = "" if answer.is_floating_point() else f"{answer.dtype} ".removeprefix("torch.")
        return f"{kind}{tuple(answer.shape)}"
    names = f" with {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else ""
    number = f" of {len(answer)}" if isinstance(answer, (tuple, list)) else ""
    return f"a {type(answer).__name__}{number}{names}"


def _warn_of_probabilities(logits: Tensor, who: str) -> None:
    """Log-probabilities are logits: a softmax leaves them as they are."""
    if looks_like_probabilities(logits):
        told = "each row of its answers is non-negative and sums to 1, and a second softmax would flatten them"
        remedy = "leave the softmax out, or answer log(p)"
        warnings.warn(f"{who} seems to answer probabilities p, not logits: {told}; {remedy}", stacklevel=3)
