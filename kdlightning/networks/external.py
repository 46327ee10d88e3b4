"""Classifiers of timm, of torchvision and of the user, made to take pixels in [0, 1] of any size."""

import logging
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models import VGG, AlexNet, EfficientNet, MobileNetV3, ResNet

from kdlightning.networks.base import ChannelValues, Network
from kdlightning.networks.pretrained import name_of, without_wrappers

_log = logging.getLogger(__name__)


class _External(Network):
    """Resizes images to ``input_size``, repeats a grey channel to ``wanted_channels``, then normalises."""

    architecture: str
    _bare: dict[str, str]  # from the names of the bare classifier's tensors to their names here
    _sized = True  # by the user

    def __init__(self, wanted: int, size: int | None, classes: int, in_channels: int, *own: int, **values: Any) -> None:  # noqa: ANN401
        super().__init__(classes, wanted, *own, **values)
        if in_channels not in (1, wanted):
            raise ValueError(f"{type(self).__name__} expected in_channels 1 or {wanted}, got {in_channels}")
        self.in_channels, self.wanted_channels, self.input_size = in_channels, wanted, size

    def preprocess(self, x: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)`` in [0, 1], grey or of the wanted channels → what the classifier inside wants."""
        size, wanted = self.input_size, f"pixels (N, {self.wanted_channels}, H, W) or (N, 1, H, W)"
        if x.ndim != 4 or x.shape[1] not in (1, self.wanted_channels):
            raise ValueError(f"{type(self).__name__} expected {wanted}, got {tuple(x.shape)}")
        if size is not None and x.shape[2:] != (size, size):
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        return cast(Tensor, self.normalize(x.expand(-1, self.wanted_channels, -1, -1)))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401
        """Load its own state, or that of the bare classifier as it was trained elsewhere; see ``nn.Module``.

        Says to which size images go, where nobody has given the one that such weights were trained at.

        A RuntimeError, with ``strict``, for tensors of other names or shapes; a ValueError for a whole checkpoint.
        """
        own, state_dict = self.state_dict(), without_wrappers(state_dict)
        if not state_dict.keys() <= own.keys() and state_dict.keys() & self._bare.keys():
            kept = {name: own[name] for name in own.keys() - set(self._bare.values())}
            state_dict = kept | {self._bare.get(name, name): tensor for name, tensor in state_dict.items()}
            if not self._sized:
                told = "give input_size if these weights were trained at another size"
                _log.warning("%s resizes images to %s pixels: %s", self.architecture, self.input_size, told)
        return super().load_state_dict(state_dict, strict, assign)

    def _remember(self, **init_args: object) -> None:
        """Correct what a reload will pass: it needs the structure, and must not download weights again."""
        config, self.settled = self._hub_mixin_config, init_args
        if isinstance(config, dict):
            config.update({name: value for name, value in init_args.items() if name in config})


class _Wrapper(_External):
    """The features are those of a classifier that follows timm's convention."""

    inner: ClassVar[str]  # the attribute that holds it

    def forward_features(self, x: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)`` in [0, 1] → the classifier's features: a map, or tokens ``(N, L, F)``."""
        return cast(Tensor, self._method("forward_features")(self.preprocess(x)))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features → logits ``(N, K)``, or the vector ``(N, num_features)`` before the classifier's last layer."""
        return cast(Tensor, self._method("forward_head")(features, pre_logits=pre_logits))

    def get_classifier(self) -> nn.Module:
        """The layer that turns the vector ``(N, num_features)`` into logits ``(N, K)``."""
        return cast(nn.Module, self._method("get_classifier")())

    def _method(self, name: str) -> Any:  # noqa: ANN401  (a method of a foreign module)
        inner = getattr(self, self.inner)
        method = getattr(inner, name, None)
        if method is None:
            methods = "forward_features(x), forward_head(features, pre_logits=False) and get_classifier()"
            remedy = "as timm's networks have them; a torchvision network gets them from TorchvisionNetwork"
            lacks = f"{type(inner).__name__} has no {name}; methods that read features need"
            raise TypeError(f"{lacks} {methods}, {remedy}")
        return method


class TimmNetwork(_Wrapper):
    """A classifier of timm with its own normalisation and input size; needs ``pip install timm``.

    Args:
        name: timm's name, such as ``resnet18`` or ``vit_tiny_patch16_224.augreg_in21k``.
        num_classes: number of logits; a pretrained head of another size is replaced.
        pretrained: download timm's weights. Not repeated when a saved network is loaded.
        in_channels: channels of the pixels, 3, or 1 for grey images, which are repeated.
        image_size: height and width of the images it is meant for; default ``input_size``. Others work.
        input_size: height and width that images are resized to (bilinear, antialiased); default timm's own.
        mean: channel means; default timm's own.
        std: channel standard deviations; default timm's own.
        model_args: further arguments of ``timm.create_model``, JSON-able.
    """

    inner = "model"

    def __init__(
        self,
        name: str,
        num_classes: int = 10,
        pretrained: bool = False,
        in_channels: int = 3,
        image_size: int | None = None,
        *,
        input_size: int | None = None,
        mean: ChannelValues = None,
        std: ChannelValues = None,
        model_args: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import timm
        except ImportError as error:
            raise ImportError("TimmNetwork needs timm: pip install timm") from error
        arguments = dict(model_args or {})
        model: Any = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, **arguments)
        own, features = model.pretrained_cfg, model.head_hidden_size
        size: int = input_size or arguments.get("img_size") or own["input_size"][-1]
        mean, std = list(mean or own["mean"]), list(std or own["std"])
        wanted = arguments.get("in_chans", 3)
        super().__init__(wanted, size, num_classes, in_channels, image_size or size, features, mean=mean, std=std)
        self._remember(pretrained=False, input_size=size, mean=mean, std=std)
        self.architecture, self.model, self._sized = name, model, input_size is not None or "img_size" in arguments
        self._bare = {inner: f"model.{inner}" for inner in model.state_dict()}


class TorchvisionNetwork(_External):
    """A classifier of torchvision with its own normalisation and input size.

    ResNet, VGG, AlexNet, MobileNet-V3 and EfficientNet give feature maps; of the others, ``forward_features``
    gives the vector that the last linear layer reads.

    Args:
        name: torchvision's name, such as ``resnet18``, of a model that ends in a linear layer; else a ValueError.
        num_classes: number of logits; a pretrained last layer of another size is replaced.
        weights: name of weights to download (not again when a saved network is loaded), such as ``DEFAULT``.
        in_channels: channels of the pixels, 3, or 1 for grey images, which are repeated.
        image_size: height and width of the images it is meant for; default ``input_size``. Others work.
        input_size: height and width that images are resized to (bilinear, antialiased); default that of the weights.
        mean: channel means; default those of the weights.
        std: channel standard deviations; default those of the weights.
        model_args: further arguments of the model's constructor, JSON-able.
    """

    def __init__(
        self,
        name: str,
        num_classes: int = 10,
        weights: str | None = None,
        in_channels: int = 3,
        image_size: int | None = None,
        *,
        input_size: int | None = None,
        mean: ChannelValues = None,
        std: ChannelValues = None,
        model_args: Mapping[str, Any] | None = None,
    ) -> None:
        if name not in torchvision.models.list_models(module=torchvision.models):
            raise ValueError(f"torchvision has no classifier {name!r}; torchvision.models.list_models() names them")
        choices = torchvision.models.get_model_weights(name)
        if weights is not None and weights not in choices.__members__:
            raise ValueError(f"{name} has no weights {weights!r}, only {', '.join(choices.__members__)}")
        own = choices[weights or "DEFAULT"].transforms()
        size: int = input_size or own.crop_size[0]
        mean, std = list(mean or own.mean), list(std or own.std)
        arguments = dict(model_args or {})
        if weights is None:
            arguments["num_classes"] = num_classes
        if name in ("googlenet", "inception_v3"):
            arguments.setdefault("aux_logits", False)  # classifiers beside the classifier
        model = torchvision.models.get_model(name, weights=weights, **arguments)
        bare = {id(tensor): inner for inner, tensor in model.state_dict(keep_vars=True).items()}
        body, neck, classifier = _split(model)
        if classifier.out_features != num_classes:
            last, classifier = classifier, nn.Linear(classifier.in_features, num_classes)
            for old, new in ((last.weight, classifier.weight), (last.bias, classifier.bias)):
                bare[id(new)] = bare.pop(id(old))
        features = classifier.in_features
        super().__init__(3, size, num_classes, in_channels, image_size or size, features, mean=mean, std=std)
        self._remember(weights=None, input_size=size, mean=mean, std=std)
        self.architecture, self._sized = name, input_size is not None
        self.body, self.neck, self.classifier = body, neck, classifier
        own = self.state_dict(keep_vars=True).items()
        self._bare = {bare[id(tensor)]: here for here, tensor in own if id(tensor) in bare}


class Adapter(_Wrapper):
    """The user's own classifier: normalised images in, logits out.

    ``forward_features`` and ``forward_head`` are the classifier's own, by timm's convention; without them it
    can be a teacher that answers, and a student of methods that need no features.

    `save_network` must be able to build the classifier again. It can if the classifier is a `Network` or
    another ``PyTorchModelHubMixin``; otherwise give it the description that a config holds::

        save_network(adapter, path, init_args={
            "network": {"class_path": "my_package.MyNet", "init_args": {"depth": 3}}, "num_classes": 10
        })

    Args:
        network: maps normalised images ``(N, C, H, W)`` to logits ``(N, K)``.
        num_classes: number of logits, K.
        mean: channel means to subtract from the pixels; None if the classifier takes pixels in [0, 1].
        std: channel standard deviations to divide by.
        size: height and width that images are resized to (bilinear, antialiased); None to leave them.
        in_channels: channels that the classifier takes; if several, grey images are repeated.
        image_size: height and width of the images it is meant for; default ``size``, or 32.
    """

    inner = "network"

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        mean: ChannelValues = None,
        std: ChannelValues = None,
        size: int | None = None,
        *,
        in_channels: int = 3,
        image_size: int | None = None,
    ) -> None:
        get_classifier = getattr(network, "get_classifier", None)  # without timm's convention there are 0 features
        features = int(getattr(get_classifier(), "in_features", 0)) if callable(get_classifier) else 0
        own = image_size or size or 32
        super().__init__(in_channels, size, num_classes, in_channels, own, features, mean=mean, std=std)
        self.architecture, self.network = name_of(network), network
        self._bare = {inner: f"network.{inner}" for inner in network.state_dict()}

    def forward(self, x: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)`` in [0, 1] → logits ``(N, K)``."""
        return cast(Tensor, self.network(self.preprocess(x)))


def _split(model: nn.Module) -> tuple[nn.Module, nn.Module, nn.Linear]:
    """Cut a torchvision classifier into body, neck and last linear layer, without hooks."""
    if isinstance(model, ResNet):
        *body, pool, classifier = model.children()
        return nn.Sequential(*body), nn.Sequential(pool, nn.Flatten()), cast(nn.Linear, classifier)
    if isinstance(model, VGG | AlexNet | MobileNetV3 | EfficientNet):
        *hidden, classifier = model.classifier
        neck = nn.Sequential(model.avgpool, nn.Flatten(), *hidden)
        return model.features, neck, cast(nn.Linear, classifier)
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"{type(model).__name__} does not end in a linear layer; wrap it in an Adapter instead")
    parent, _, leaf = linear[-1].rpartition(".")
    classifier = model.get_submodule(linear[-1])
    setattr(model.get_submodule(parent), leaf, nn.Identity())
    return model, nn.Identity(), cast(nn.Linear, classifier)
