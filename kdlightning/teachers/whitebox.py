"""A teacher whose weights are there: frozen, always in eval mode, but gradients may reach its input."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor, nn

from kdlightning.networks.pretrained import fingerprint, load_network, name_of
from kdlightning.networks.rehearsal import evaluate, freeze, rehearse_teacher


class WhiteBoxTeacher(nn.Module):
    """A frozen classifier that discloses logits, features and input gradients.

    It has no state of its own: checkpoints of what it teaches hold none of its weights.

    Args:
        network: directory (or Hugging Face id) of a saved network, or the network itself: any classifier that
            takes pixels in [0, 1] and, where a method reads features, follows timm's ``forward_features``,
            ``forward_head`` and ``get_classifier``.

    Raises:
        FileNotFoundError: there is no saved network at that place.
    """

    access = "white"

    def __init__(self, network: str | Path | nn.Module) -> None:
        super().__init__()
        self.network = network if isinstance(network, nn.Module) else load_network(network)
        self._stored = freeze(self.network)
        self.num_classes: int | None = getattr(self.network, "num_classes", None)
        self.class_names: Sequence[str] | None = getattr(self.network, "class_names", None)
        nn.Module.register_state_dict_post_hook(self, _forget)
        nn.Module.register_load_state_dict_pre_hook(self, _remember)
        self._source = type(network).__name__ if isinstance(network, nn.Module) else str(network)

    @property
    def identity(self) -> dict[str, str]:
        """Where the network came from, its class, its access and the fingerprint of its weights."""
        return {
            "network": self._source,
            "name": name_of(self.network),
            "access": self.access,
            "fingerprint": self._stored or fingerprint(self.network),
        }

    def rehearse(self, shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        """Try the network on two images ``(C, H, W)``: K is known then.

        A ValueError if it does not take them or does not answer logits: see :mod:`kdlightning.networks.rehearsal`.
        """
        self.num_classes = rehearse_teacher(self.network, shape, device)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, so that no running statistic ever moves."""
        self.training = False
        evaluate(self.network)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(N, K)`` of pixels ``(N, C, H, W)`` in [0, 1]."""
        return cast(Tensor, self.network(images))

    def forward_features(self, images: Tensor) -> Tensor:
        """The last feature map, by timm's convention.

        Raises:
            TypeError: the network does not follow it.
        """
        return self._timm("forward_features")(images)

    def forward_head(self, features: Tensor, *, pre_logits: bool = False) -> Tensor:
        """Logits ``(N, K)`` of features, or with ``pre_logits`` the vector before the classifier."""
        return self._timm("forward_head")(features, pre_logits=pre_logits)

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return cast(nn.Module, self._timm("get_classifier")())

    def _timm(self, name: str) -> Callable[..., Tensor]:
        method: Callable[..., Tensor] | None = getattr(self.network, name, None)
        if method is None:
            raise TypeError(
                f"{type(self.network).__name__} has no {name}: this method reads features, which needs a network "
                "with timm's interface (any timm classifier, or kdlightning.networks.TorchvisionNetwork)"
            )
        return method


def _forget(_: nn.Module, state: dict[str, Tensor], prefix: str, *__: object) -> None:
    """Keep a teacher's tensors out of a state dict."""
    for name in [name for name in state if name.startswith(prefix)]:
        del state[name]


def _remember(teacher: WhiteBoxTeacher, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Let a state dict without them be loaded strictly: the teacher's tensors stay as they are."""
    for name, tensor in teacher.network.state_dict().items():
        state.setdefault(f"{prefix}network.{name}", tensor)
