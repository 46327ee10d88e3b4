"""What every network of the package is: pixels in [0, 1] in, logits out, normalisation inside."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from kdlightning.networks.pretrained import load_network, save_network, without_wrappers

ChannelValues = Sequence[float] | None


class Normalize(nn.Module):
    """``(x - mean) / std`` per channel, in pixel units, inside the network: callers only deal with pixels in [0, 1].

    A ValueError if the lengths differ or a standard deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or min(std) <= 0:
            raise ValueError(f"expected as many means as positive standard deviations, got {list(mean)}, {list(std)}")
        for name, values in (("mean", mean), ("std", std)):  # persistent: in the weights file and the fingerprint
            self.register_buffer(name, torch.tensor([float(value) for value in values]).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)`` in [0, 1] → the same shape, normalised."""
        return (x - self.mean) / self.std


class Network(nn.Module, PyTorchModelHubMixin, library_name="kdlightning"):
    """Classifier: pixels ``(N, C, H, W)`` in [0, 1] → logits ``(N, K)``.

    A subclass calls this constructor, then sets three modules or overrides the methods that use them::

        pixels → normalize → body → feature map → neck → vector (N, num_features) → classifier → logits

    The methods follow timm's convention, so that methods which read features work with timm's networks too.
    A subclass whose constructor takes only JSON-able arguments can be saved and loaded without further words.

    Args:
        num_classes: number of logits, K.
        in_channels: channels of the pixels, C.
        image_size: height and width of the square images it is meant for. Networks that flatten their last
            map (``fixed_size``) take no other; the rest pool, and take others too.
        num_features: length of the vector that the classifier reads.
        mean: channel means to subtract from the pixels; None, with ``std`` None, for no normalisation.
        std: channel standard deviations to divide by; a ValueError if there are not C of both, or neither.
    """

    fixed_size: ClassVar[bool] = False
    body: nn.Module
    neck: nn.Module
    classifier: nn.Module

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        num_features: int,
        *,
        mean: ChannelValues = None,
        std: ChannelValues = None,
    ) -> None:
        super().__init__()
        self.num_classes, self.num_features = num_classes, num_features
        self.in_channels, self.image_size = in_channels, image_size
        self.normalize: nn.Module = nn.Identity()
        if mean is not None and std is not None and len(mean) == in_channels:
            self.normalize = Normalize(mean, std)
        elif mean is not None or std is not None:
            raise ValueError(f"expected mean and std with {in_channels} values each, got {mean} and {std}")

    def preprocess(self, x: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)`` in [0, 1], normalised; a ValueError if the network takes no such shape."""
        name, size = type(self).__name__, self.image_size
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            wanted = f"{name} expected pixels (N, {self.in_channels}, H, W), got {tuple(x.shape)}"
            raise ValueError(f"{wanted}; set in_channels to what the images have")
        if self.fixed_size and x.shape[2:] != (size, size):
            got = f"{name} was built for images of {size} x {size} pixels, got {x.shape[2]} x {x.shape[3]}"
            raise ValueError(f"{got}; set image_size to what the images have")
        return cast(Tensor, self.normalize(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)`` in [0, 1] → last feature map ``(N, F, h, w)``; in some a vector."""
        return cast(Tensor, self.body(self.preprocess(x)))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:  # timm's signature
        """The last feature map → logits ``(N, K)``, or the vector ``(N, num_features)`` that the classifier reads."""
        vector = self.neck(features)
        return cast(Tensor, vector if pre_logits else self.classifier(vector))

    def get_classifier(self) -> nn.Module:
        """The layer that turns the vector ``(N, num_features)`` into logits ``(N, K)``."""
        return self.classifier

    def forward(self, x: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)`` in [0, 1] → logits ``(N, K)``."""
        return self.forward_head(self.forward_features(x))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401
        """See ``nn.Module``; also the state of the network in ``DataParallel``, DDP or ``torch.compile``.

        A ValueError for a whole checkpoint, which has a state among other things.
        """
        if inside := [name for name, value in state_dict.items() if isinstance(value, Mapping)]:
            told = f"expected tensors by their names, got {', '.join(map(repr, state_dict))}"
            raise ValueError(f"{told}: this is a checkpoint, give what it has under {' or '.join(map(repr, inside))}")
        return super().load_state_dict(without_wrappers(state_dict), strict, assign)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, revision: str | None = None) -> Self:  # type: ignore[override]
        """`load_network`, and a TypeError if the result is not of this class (``Network`` accepts all)."""
        network = load_network(source, revision=revision)
        if not isinstance(network, cls):
            raise TypeError(f"{source} holds a {type(network).__name__}, not a {cls.__name__}")
        return network

    def _save_pretrained(self, save_directory: Path) -> None:
        # The hub's save_pretrained and push_to_hub come through here and mean to overwrite.
        save_network(self, save_directory, overwrite=True)


@torch.no_grad()
def penultimate_features(network: nn.Module, images: Tensor, device: torch.device | str) -> Tensor:
    """What a classifier's last layer reads: float32 ``(N, F)``, on the device.

    The network, with timm's ``forward_features`` and ``forward_head``, is in eval mode and on the device; the images
    ``(N, C, H, W)``, uint8 or float in [0, 1], are anywhere.
    """
    timm: Any = network
    parts = []
    for part in images.split(500):
        pixels = part.to(device)
        pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels
        parts.append(timm.forward_head(timm.forward_features(pixels), pre_logits=True))
    return torch.cat(parts).float()
