"""What the published architectures share: options, named sizes, stages, and how they end."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from kdlightning.networks.base import ChannelValues, Network

Block = Callable[[int, int, int], nn.Module]  # of the channels before and after it and its stride


class Architecture(Network):
    """A published classifier at any width.

    The constructor of a family takes what is its own and ``**options``, which are these, `Network`'s but for the width;
    its signature tells all. A named size is the family with some options fixed, which it does not take, or with other
    ``defaults``::

        class ResNet8(CIFARResNet, depth=8): ...

    Args:
        width: multiplier of all channels and hidden units.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        width: float = 1.0,
        *,
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size, 0, mean=mean, std=std)
        self.width = width

    def __init_subclass__(cls, defaults: Mapping[str, Any] | None = None, **fixed: Any) -> None:  # noqa: ANN401
        """Give the constructor its whole signature: the Hub's mixin records by it, and the command line asks it."""
        told = list(inspect.signature(cls.__init__).parameters.values())
        own = [one for one in told if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        passes_on = any(one.kind is one.VAR_KEYWORD for one in told)
        if passes_on:
            inherited = inspect.signature(super(cls, cls).__init__).parameters.values()
            own += [one for one in inherited if one.name not in {parameter.name for parameter in own}]
        if passes_on or fixed or defaults:
            cls.__init__ = _constructor(cls.__init__, own, defaults or {}, fixed)  # type: ignore[method-assign]
        super().__init_subclass__()

    def scaled(self, channels: int) -> int:
        """Number of channels or units at the width multiplier, at least one."""
        return max(1, round(channels * self.width))

    def end(self, num_features: int, *hidden: nn.Module) -> None:
        """Set neck and classifier: mean of the last map, hidden layers, a linear layer that reads ``num_features``."""
        self.num_features = num_features
        self.neck = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *hidden)
        self.classifier = nn.Linear(num_features, self.num_classes)


def _constructor(
    build: Callable[..., None], told: list[inspect.Parameter], defaults: Mapping[str, Any], fixed: Mapping[str, Any]
) -> Callable[..., None]:
    """A constructor that takes what it is told to take, by position or by name, and builds with the fixed besides."""
    free = sorted((one for one in told if one.name not in fixed), key=lambda one: one.kind)  # those by position first
    parameters = [one.replace(default=defaults.get(one.name, one.default)) for one in free]
    signature = inspect.Signature(parameters, return_annotation=None)

    def __init__(*args: Any, **options: Any) -> None:  # noqa: ANN401, N807
        given = signature.bind(*args, **options)
        given.apply_defaults()
        build(**given.arguments, **fixed)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return __init__


def stages(block: Block, before: int, widths: Sequence[int], depths: Sequence[int]) -> nn.Sequential:
    """Stages of so many channels and blocks; every stage but the first halves the map."""
    made = nn.Sequential()
    for after, depth in zip(widths, depths, strict=True):
        made.append(nn.Sequential(*stage(block, before, after, depth, 2 if len(made) else 1)))
        before = after
    return made


def stage(block: Block, before: int, after: int, depth: int, stride: int) -> list[nn.Module]:
    """The blocks of one stage: the first changes the channels and has the stride."""
    return [block(before, after, stride), *(block(after, after, 1) for _ in range(depth - 1))]
