"""A student that ends in its teacher's classifier, with a connector between the two."""

import logging
from typing import Any, Literal, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import Conv2dNormActivation

from kdlightning.networks.base import Network
from kdlightning.networks.rehearsal import untouched
from kdlightning.networks.statistics import count_parameters

_log = logging.getLogger(__name__)

_WARNED = 1.5  # times as large as the student was

Features = Literal["auto", "map", "vector"]


class SharedClassifierNetwork(Network):
    """A student's body, a connector, and a frozen classifier that a teacher has learnt.

    .. [Tang2023] J. Tang et al. Distribution Shift Matters for Knowledge Distillation with Webly Collected Images.
       ICCV 2023, Sec. 3.3.
    .. [Chen2022] D. Chen et al. Knowledge Distillation with the Reused Teacher Classifier (SimKD). CVPR 2022.

    With ``map_size`` the last maps meet: 1x1, 3x3 and 1x1 convolutions with BN and ReLU make the student's map as wide
    as the teacher's, at half that width in between [Chen2022]_; a larger map is averaged down to the teacher's size;
    the classifier reads the mean of the map. Without it, the vectors before the classifiers meet, and the connector is
    one linear layer. What the student had in place of these, its own classifier and for maps its neck, is dropped.

    Args:
        student: with timm's ``forward_features``, ``forward_head`` and ``get_classifier``, and the attributes
            ``in_channels`` and ``image_size`` (any network of the package, ``TimmNetwork``, ``Adapter``); a ValueError
            without them, or without a map where one is wanted.
        num_features: channels of the teacher's map, or length of its vector.
        num_classes: K.
        map_size: height and width of the teacher's last map; None for vectors.
        connect: with a connector also where the student is as wide as the teacher already.
        activation: a ReLU after the linear connector; networks of earlier versions have one. Many of its units died.
    """

    def __init__(
        self,
        student: nn.Module,
        num_features: int,
        num_classes: int,
        map_size: int | None = None,
        connect: bool = False,
        activation: bool = False,
    ) -> None:
        size: Any = student
        if not hasattr(student, "in_channels") or not hasattr(student, "image_size"):
            lacks = f"{type(student).__name__} does not say the size of its images (in_channels, image_size)"
            raise ValueError(f"{lacks}: wrap it in kdlightning.networks.Adapter")
        super().__init__(num_classes, size.in_channels, size.image_size, num_features)
        self.student, self.map_size = student, map_size
        self.arguments = {
            "num_features": num_features, "num_classes": num_classes, "map_size": map_size, "connect": connect,
            "activation": activation,
        }  # fmt: skip
        width = _width(student, map_size is not None)
        self.connector: nn.Module = nn.Identity()
        if connect or width != num_features:
            linear = nn.Linear(width, num_features)  # also where convolutions follow: random numbers stay the same
            self.connector = nn.Sequential(linear, nn.ReLU(inplace=True)) if activation else linear
            if map_size:
                half = num_features // 2
                shapes = ((width, half, 1), (half, half, 3), (half, num_features, 1))
                self.connector = nn.Sequential(*(layer for shape in shapes for layer in Conv2dNormActivation(*shape)))
        _drop(student, size.get_classifier())
        if map_size:
            _drop(student, getattr(student, "neck", None))
        self.classifier = nn.Linear(num_features, num_classes)

    @classmethod
    def of(cls, student: nn.Module, teacher: Any, features: Features = "auto", connect: bool = False) -> Self:  # noqa: ANN401
        """A student for this teacher, with its classifier, frozen.

        Args:
            student: see the class.
            teacher: a classifier with timm's methods, which stays as it is.
            features: what is to meet: last maps, vectors, or ``auto``: maps if the teacher's vector is the mean of its
                map, so that the classifier can read the student's likewise; vectors otherwise.
            connect: see the class.

        Raises:
            TypeError: the teacher's classifier is no linear layer.
            ValueError: maps asked for, from a teacher whose vector is not the mean of its map.
        """
        classifier = teacher.get_classifier()
        if not isinstance(classifier, nn.Linear):
            raise TypeError(f"expected a teacher that ends in torch.nn.Linear, got {type(classifier).__name__}")
        own = count_parameters(student)
        images = _images(student)
        with untouched(teacher):
            teacher.eval()
            last = teacher.forward_features(images)
            vector = teacher.forward_head(last, pre_logits=True)
        pooled = last.ndim == 4 and last.shape[:2] == vector.shape
        pooled = pooled and torch.allclose(last.mean((2, 3)), vector, atol=1e-4)
        if features == "map" and not pooled:
            needed = "features=map needs a teacher whose classifier reads the mean of its last map"
            shapes = f"{tuple(last.shape[1:])} and its vector {tuple(vector.shape[1:])}"
            raise ValueError(f"{needed}; this one's map is {shapes}: use vector")
        size = last.shape[-1] if pooled and features != "vector" else None
        network = cls(student, vector.shape[1], len(classifier.weight), size, connect)
        bias = torch.zeros(network.num_classes) if classifier.bias is None else classifier.bias
        network.classifier.load_state_dict({"weight": classifier.weight, "bias": bias})
        network.classifier.requires_grad_(False)
        if (grown := count_parameters(network)) > _WARNED * own:
            _log.warning(
                "%s grows from %s to %s parameters by a connector to the teacher's %s features and its classifier; "
                "features=vector makes the connector one linear layer",
                *(type(student).__name__, f"{own:,}", f"{grown:,}", f"{vector.shape[1]:,}"),
            )
        return network

    def forward_features(self, x: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)`` in [0, 1] → map ``(N, F, h, w)`` or vector ``(N, F)`` after the connector."""
        inner: Any = self.student
        last: Tensor = inner.forward_features(x)
        if self.map_size is None:
            last = inner.forward_head(last, pre_logits=True)
        elif last.shape[-1] > self.map_size:
            last = F.adaptive_avg_pool2d(last, self.map_size)
        return cast(Tensor, self.connector(last))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """What ``forward_features`` returned → logits ``(N, K)``, or the vector that the classifier reads."""
        vector = features.mean((2, 3)) if self.map_size else features
        return vector if pre_logits else cast(Tensor, self.classifier(vector))


def _images(network: Any) -> Tensor:  # noqa: ANN401 - any classifier
    shape = (4, network.in_channels, network.image_size, network.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def _width(student: Any, maps: bool) -> int:  # noqa: ANN401 - any classifier
    """Channels of the last map, or length of the vector."""
    with untouched(student):
        last = student.eval().forward_features(_images(student))
        features = last if maps else student.forward_head(last, pre_logits=True)
    if maps and features.ndim != 4:
        given = f"{type(student).__name__} has no last map, forward_features gives {tuple(features.shape)}"
        raise ValueError(f"{given}: use features=vector")
    return int(features.shape[1])


def _drop(student: nn.Module, part: nn.Module | None) -> None:
    """Put nothing in the place of a part that is not used: it would count in the student's size."""
    for parent in list(student.modules()):
        for name, child in parent.named_children():
            if child is part:
                setattr(parent, name, nn.Identity())
