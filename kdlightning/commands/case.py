"""A user's own case: what was told of it, and what its folder, its teacher and its student say themselves."""

import importlib
import inspect
import json
import os
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn

from kdlightning import networks
from kdlightning.commands.hints import nearest
from kdlightning.data import ImageFolderDataModule
from kdlightning.data.archives import read_file
from kdlightning.data.classes import check_order
from kdlightning.data.decoding import opened
from kdlightning.data.web import list_pool
from kdlightning.networks import load_network
from kdlightning.networks.statistics import NAMED
from kdlightning.remote import RemoteHardLabelTeacher, RemoteSoftLabelTeacher, RemoteTeacherError, RemoteTopKTeacher
from kdlightning.remote.credentials import check_url

Shape = tuple[int, int, int]
Answers = Literal["soft", "hard", "topk", "words"]  # probabilities, labels, scores of some classes, words of a chat

_NAMES = [cls.__name__ for cls in NAMED]
_BEST = 5  # classes of a top-k answer
_SEEN = 512  # pixels at which a chat model is shown larger images
_SAMPLE = 100  # images that are opened, to see how large and how colourful they are
_MEMORY = 2**30  # bytes; see kdlightning.data.base
_GUESS = (
    "What a request and an answer of this API look like stands below at `teacher`, as a guess: edit it, and try it "
    "on one image: `kdlightning teacher try` takes this file."
)


class CaseError(ValueError):
    """What is missing or does not fit together, in a sentence, with the option that mends it."""


@contextmanager
def _said(option: str) -> Iterator[None]:
    try:
        yield
    except (AttributeError, ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        raise CaseError(f"{option}: {error}") from error


@dataclass(frozen=True)
class Case:
    """What a user tells of a case."""

    teacher: Literal["api", "network", "weights"]  # network: a saved one as a black box; weights: one to be opened
    place: str  # the model's address, or the directory (or Hugging Face id) of a saved network
    student: str  # a class of kdlightning.networks, a name of timm's or torchvision's, or a class's dotted path
    images: str  # the task's own, as a folder or a zip; none; or web:DIR, collected from elsewhere, unlabelled
    answers: Answers = "soft"
    labels: bool = False  # whether the class folders of the own images are their labels
    budget: int | None = None  # the most images that the teacher may answer; None for one whose weights are there
    key_env: str | None = None  # environment variable that holds the API's key
    classes: int | Sequence[str] | None = None  # K, or the classes' names, where nothing else tells them
    shape: Shape | None = None  # (C, H, W), where it should not follow from images, teacher and student
    output: str = ""  # directory of everything that runs write
    model: str | None = None  # of a chat model that answers in words, as its server names it

    def __post_init__(self) -> None:
        if self.teacher != "weights" and (self.budget is None or self.budget < 1):
            raise CaseError(f"--budget: expected the most images that the teacher may answer, got {self.budget}")
        if self.key_env and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", self.key_env) and self.key_env not in os.environ:
            raise CaseError("--key-env takes the name of an environment variable, such as TEACHER_KEY, never the key")
        if self.answers == "words" and not (self.teacher == "api" and self.model and self.images != "none"):
            raise CaseError(
                "--answers words is of a chat model behind an API that is shown your images: expected --teacher api, "
                "--url of the server up to its version, such as https://api.openai.com/v1, --model and --images"
            )
        if "{" in self.place + self.images + self.output or "}" in self.place + self.images + self.output:
            raise CaseError("paths and addresses with braces cannot stand in a recipe: rename, or link to them")


Access = Literal["Soft", "TopK", "Hard"]


@dataclass(frozen=True)
class _Teacher:
    protocol: Literal["local", "open", "json", "chat"] = "local"
    url: str = ""  # of the server, with the open (inference) protocol
    model: str = ""  # its name there
    network: nn.Module | None = None  # if it is here
    classes: int | None = None
    class_names: Sequence[str] | None = None  # in its order
    shape: Shape | None = None
    notes: tuple[str, ...] = ()  # sentences for the reader of the recipe


@dataclass(frozen=True)
class _Images:
    number: int = 0  # without those of folders of their own for validation and test; or files of a pool
    channels: int = 0
    side: int = 0
    names: Sequence[str] = ()  # of the classes
    train: str = "."
    val: str | None = None
    test: str | None = None


@dataclass(frozen=True, kw_only=True)
class Facts(_Teacher, _Images):
    """What is known after a look; names of Case's are not repeated."""

    source: Literal["own", "web", "none"]
    access: Access  # how the teacher is asked
    num_classes: int
    image_size: int  # height and width
    student: str  # as YAML
    root: str  # of the images
    named: Sequence[str] = ()  # the class folders in the teacher's order, where they sort otherwise
    num_val: float = 0.1  # share of the own images to train on that is kept for validation
    held_out: float = 0.05  # share of a pool that students are tested on

    @property
    def kind(self) -> str:
        """The class of such a teacher, without what stands before it for one on a server."""
        return "TopKTeacher" if self.access == "TopK" else f"{self.access}LabelTeacher"

    @property
    def k(self) -> int:
        """The most classes of a top-k answer."""
        return min(_BEST, self.num_classes)

    @property
    def teacher_size(self) -> int | None:
        """The edge length at which a chat model is shown images, where they are larger than the student's."""
        return min(_SEEN, self.side) if self.protocol == "chat" and self.side > self.image_size else None

    @property
    def numbered(self) -> str:
        """The classes with their indices, the first of many."""
        more = f", … {self.num_classes - 1} {self.names[-1]}" if self.num_classes > 20 else ""
        return ", ".join(f"{index} {name}" for index, name in enumerate(self.names[:20])) + more

    @property
    def in_memory(self) -> bool:
        """Whether a transfer set needs to be told that its images fit."""
        return self.number * self.channels * self.image_size**2 > _MEMORY // 2


def look(case: Case) -> Facts:
    """Look at the images, the teacher and the student; asks the teacher nothing but, over HTTP, what it is.

    Raises:
        CaseError: something is not there, does not fit, or cannot be known and was not told.
    """
    root = "" if case.images == "none" else case.images.removeprefix("web:")
    if root and not Path(root).expanduser().exists():
        raise CaseError(f"--images: there is no {root}; expected a folder, none, or web:DIR for images from elsewhere")
    accesses: dict[str, Access] = {"soft": "Soft", "topk": "TopK"}
    access: Access = "Soft" if case.teacher == "weights" else accesses.get(case.answers, "Hard")
    teacher = _api(case, access) if case.teacher == "api" else _local(case.place)
    images = _Images() if not root else _own(root, labels=case.labels) if root == case.images else _pool(root)
    given = [] if isinstance(case.classes, int) else list(case.classes or ())
    if given and images.names and given != list(images.names):
        raise CaseError(f"--classes: the class folders are {list(images.names)}, in this order; leave the names out")
    if case.answers == "words" and not (images.names or given):
        raise CaseError("--classes: the names of the classes, which the model has to say, are told by no folder")
    classes = {
        f"{root} has {len(images.names)} class folders": len(images.names),
        f"the teacher answers {teacher.classes} classes": teacher.classes,
        f"--classes says {case.classes}": case.classes if isinstance(case.classes, int) else len(given),
    }
    told = {text: number for text, number in classes.items() if number}
    if len(set(told.values())) > 1:
        raise CaseError(f"{' but '.join(told)}: they have to be the same classes in the same order")
    if not told:
        raise CaseError("--classes: how many classes the teacher has is told by neither it nor the images")
    num_classes = next(iter(told.values()))
    channels, size = _shape(case, teacher, images)
    known: dict[str, Any] = vars(teacher) | vars(images) | {"channels": channels}
    known["names"] = images.names or given or [str(index) for index in range(num_classes)]
    known["named"] = _in_order(teacher.class_names, known["names"], "--images" if images.names else "--classes")
    known["names"] = known["named"] or known["names"]
    return Facts(
        source="none" if not root else "own" if root == case.images else "web", access=access, num_classes=num_classes,
        image_size=size, student=_student(case.student, num_classes, channels, size), root=root, **known,
    )  # fmt: skip


def _in_order(theirs: Sequence[str] | None, ours: Sequence[str], option: str) -> Sequence[str]:
    """The class folders as the teacher numbers them, where they sort otherwise; else none."""
    try:
        check_order(theirs, ours, "the data")
    except ValueError as error:
        if theirs is not None and option == "--images" and sorted(theirs) == sorted(ours):
            return theirs
        raise CaseError(f"{option}: {error}") from error
    return ()


def has_class_folders(images: str) -> bool:
    """Whether own images lie in several class folders, perhaps below ``train``."""
    for train in ("train", "."):
        with suppress(OSError, ValueError):
            if len(ImageFolderDataModule(images, 1, train=train, test=None).class_names) > 1:
                return True
    return False


def _own(root: str, *, labels: bool) -> _Images:
    """A folder or zip with ``train/<class>`` and perhaps ``val`` and ``test``, with ``<class>`` alone, or flat."""
    parts: dict[str, str] = {}
    for name in ("train", "valid", "val", "test") if labels else ():  # val is preferred to valid
        with suppress(OSError, ValueError):
            ImageFolderDataModule(root, 1, train=name, test=None)
            parts["val" if name == "valid" else name] = name
    train, val, test = parts.get("train", "."), parts.get("val"), parts.get("test")
    if train == ".":
        val = test = None
    elif test is None:  # ImageNet's: what is called val is all that there is to test on
        val, test = None, val
    try:
        found = ImageFolderDataModule(root, 1, train=train, test=None, num_classes=None if labels else 1)
        listed = [name for name, _ in found.files.images(train, found.class_names if labels else None)]
    except (OSError, ValueError) as error:
        hint = "; if it has no class folders, say --labels no" if labels else ""
        raise CaseError(f"--images: {error}{hint}") from error
    if len(listed) < 10:
        raise CaseError(f"--images: {root} has {len(listed)} images, which is too few to train and test on")
    channels, side = _sample(found.files.read, listed)
    classes: Sequence[str] = found.class_names if labels else []
    return _Images(len(listed), channels, side, classes, train, val, test)


def _pool(root: str) -> _Images:
    """Anything that WebDataModule reads; what is in archives is counted, not looked at."""
    listed = list_pool(Path(root).expanduser()).names
    if not listed:
        raise CaseError(f"--images: {root} has no files")
    plain = [file for file, member in listed if not member]
    channels, side = _sample(lambda file: read_file(Path(file)), plain)
    return _Images(len(listed), channels, side)


def _sample(read: Callable[[str], bytes], listed: Sequence[str]) -> tuple[int, int]:
    """Channels, and the median short side, of images that are taken evenly; colour and 0 if none can be read."""
    grey, sides = True, []
    for name in listed[:: max(1, len(listed) // _SAMPLE)]:
        with (
            suppress(OSError, SyntaxError, ValueError, Image.DecompressionBombError),
            opened(BytesIO(read(name))) as image,
        ):
            sides.append(min(image.size))
            if grey and image.mode not in ("1", "L", "LA"):
                pixels = np.asarray(image.convert("RGB")).astype(int)
                grey = bool(np.ptp(pixels, 2).max() <= 2)  # two levels: JPEG rounds
    return (1 if grey and sides else 3), int(statistics.median(sides or [0]))


def _local(place: str) -> _Teacher:
    with _said("--network"):
        network = load_network(place)
    told: Any = network
    shape = None
    if hasattr(network, "in_channels") and hasattr(network, "image_size"):
        shape = (int(told.in_channels), int(told.image_size), int(told.image_size))
    classes, names = (getattr(network, told, None) for told in ("num_classes", "class_names"))
    return _Teacher(network=network, classes=classes, class_names=names, shape=shape)


def _api(case: Case, access: Access) -> _Teacher:
    """What the server tells of itself, if it speaks the Open Inference Protocol and can be asked now."""
    if urlsplit(case.place).query:
        raise CaseError("--url: parameters after '?' may hold a key, and end up in logs; give the address without them")
    with _said("--url"):
        check_url(case.place, secret=case.key_env is not None)
    if case.answers == "words":
        if case.place.rstrip("/").endswith("/completions"):
            raise CaseError("--url: give the address up to its version, such as http://127.0.0.1:8000/v1")
        return _Teacher("chat", case.place, str(case.model))
    found = re.fullmatch(r"(.+?)/v2/models/([^/]+)(?:/infer)?/?", case.place)
    if found is None:
        if urlsplit(case.place).path.strip("/") in ("", "v2"):
            raise CaseError(f"--url: give the address of the model: {case.place.rstrip('/')}/v2/models/NAME")
        return _Teacher("json", notes=(_GUESS,))
    plain = _Teacher("open", found[1], found[2])
    if case.key_env and not os.environ.get(case.key_env):
        return replace(plain, notes=(f"The server was not looked at: {case.key_env} is not set.",))
    kinds: dict[Access, Any] = {"Soft": RemoteSoftLabelTeacher, "Hard": RemoteHardLabelTeacher}
    kind = kinds.get(access, RemoteTopKTeacher)
    outputs, best = "index" if access == "Hard" else "probabilities", {"k": _BEST} if access == "TopK" else {}
    try:
        served = kind(found[1], found[2], outputs, api_key_env=case.key_env, ledger=None, **best)
    except (ImportError, RemoteTeacherError) as error:
        return replace(plain, notes=(f"The server was not looked at: {error}",))
    except ValueError as error:
        raise CaseError(f"--url: {error}") from error
    return replace(plain, classes=served.num_classes, shape=served.image_shape)


def _shape(case: Case, teacher: _Teacher, images: _Images) -> tuple[int, int]:
    """Channels and size: as told, else the teacher's, else the images', not above what the student is made for."""
    resizes = isinstance(teacher.network, (networks.TimmNetwork, networks.TorchvisionNetwork))
    shape = case.shape
    if shape is None and teacher.shape and not (resizes and images.side):
        grey_too = resizes or isinstance(teacher.network, networks.Adapter)
        shape = (images.channels if grey_too and images.channels else teacher.shape[0], *teacher.shape[1:])
    elif shape is None:
        if not images.side:
            raise CaseError("--shape: how large the teacher's images are is told by neither it nor images: give C H W")
        size = min(images.side, teacher.shape[1] if teacher.shape else 64 if case.student in _NAMES else 224)
        shape = (images.channels, size, size)
    channels, height, width = shape
    if height != width or channels not in (1, 3):
        raise CaseError(f"--shape: expected square images, grey (1) or in colour (3), got {list(shape)}")
    if teacher.network is not None:
        with _said(f"--shape: the teacher does not take images of {list(shape)}"):
            _shown_black(teacher.network, channels, height)
    return channels, height


def _shown_black(network: nn.Module, channels: int, size: int) -> None:
    with torch.no_grad():
        network(torch.zeros(1, channels, size, size))


def _student(name: str, num_classes: int, channels: int, size: int) -> str:
    """The student as YAML; it is built once, and shown a black image."""
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_channels": channels, "image_size": size}
    path, kind = _find_student(name)
    if kind in (networks.TimmNetwork, networks.TorchvisionNetwork):
        arguments = {"name": name, **arguments}
    elif path != kind.__name__:  # the user's own
        arguments = {key: value for key, value in arguments.items() if key in inspect.signature(kind).parameters}
    with _said(f"--student: {name} cannot be built for {arguments}"):
        _shown_black(kind(**arguments).eval(), channels, size)
    listed = ", ".join(f"{key}: {json.dumps(value)}" for key, value in arguments.items())
    return f"{{class_path: {path}, init_args: {{{listed}}}}}"


def _find_student(name: str) -> tuple[str, Any]:
    """The class path and the class of a network of the package, of timm, of torchvision, or of the user."""
    if name in _NAMES:
        return name, getattr(networks, name)
    timm: Any = None
    known, there = [], False
    with suppress(ImportError):
        timm = importlib.import_module("timm")
        known, there = timm.list_models(), timm.is_model(name.partition(".")[0])
    theirs = torchvision.models.list_models(module=torchvision.models)
    if there or name in theirs:
        found = networks.TimmNetwork if there else networks.TorchvisionNetwork
        return found.__name__, found
    module, _, attribute = name.rpartition(".")
    if module:
        with _said(f"--student: {name} cannot be imported"):
            return name, getattr(importlib.import_module(module), attribute)
    near = nearest(name, [*_NAMES, *theirs, *known], 3, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else "`kdlightning networks` lists those of the package"
    absent = " (timm's names need timm: pip install timm)" if timm is None else ""
    raise CaseError(f"--student: there is no network {name!r}{absent}; {hint}")
