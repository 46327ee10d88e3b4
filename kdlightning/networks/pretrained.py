"""The one place that loads or saves weights.

A saved network is a directory of two files: ``model.safetensors``, and ``config.json`` with the constructor's
arguments at the top level (the Hugging Face Hub's convention) next to ``class_path``, ``fingerprint``,
``kdlightning_version``, ``facts`` (its name, its classes and what it does to pixels) and ``notes``. Nothing is pickled.
"""

import hashlib
import inspect
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import huggingface_hub
import torch
from huggingface_hub import PyTorchModelHubMixin
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from kdlightning import __version__
from kdlightning.networks.building import build, constructor_of, without_downloads

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FILES = (WEIGHTS, CONFIG)
_WRAPPED = ("module.", "_orig_mod.")
RESERVED = ("class_path", "fingerprint", "kdlightning_version", "facts", "notes")


def unwrapped(network: nn.Module) -> nn.Module:
    """The network itself, without ``torch.compile`` and without the copies of ``DataParallel`` or DDP around it."""
    while True:
        copies = isinstance(network, nn.DataParallel | DistributedDataParallel)
        inner = getattr(network, "module" if copies else "_orig_mod", None)  # the latter of torch.compile
        if inner is None:
            return network
        network = inner


def without_wrappers(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state whose names begin as a wrapper's do (``module.``, ``_orig_mod.``), by the names of the network itself."""
    kept = dict(state)
    while kept and (prefix := next((one for one in _WRAPPED if all(name.startswith(one) for name in kept)), None)):
        kept = {name.removeprefix(prefix): tensor for name, tensor in kept.items()}
    return kept


def fingerprint(network: nn.Module) -> str:
    """SHA-256 (64 hexadecimal digits) of parameters' and persistent buffers' names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(unwrapped(network).state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def name_of(network: nn.Module) -> str:
    """What tables call a network: its ``architecture`` (timm's and torchvision's own name of it), or its class."""
    network = unwrapped(network)
    told = getattr(network, "architecture", getattr(network, "original_name", None))  # the latter of TorchScript
    return told if isinstance(told, str) else type(network).__name__


def save_network(
    network: nn.Module,
    path: str | Path,
    *,
    class_path: str | None = None,
    init_args: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    notes: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a network to a directory that `load_network` and ``Network.from_pretrained`` read, and return its path.

    The files appear complete or not at all. Other files in the directory stay.

    Args:
        network: any module. A `Network` remembers how it was constructed; another module needs ``init_args``. What is
            compiled, or in ``DataParallel`` or DDP, is saved as the network inside.
        path: the directory; its parents are made.
        class_path: dotted path of its class (the default), or of a function annotated to return a module.
        init_args: constructor arguments, JSON-able; a module among them is given as
            ``{"class_path": ..., "init_args": {...}}``. Default: what the network remembers.
        class_names: of its K classes, in order. Default: its own ``class_names``, as `load_network` sets them.
        notes: anything JSON-able worth keeping next to the weights.
        overwrite: replace different weights that are already there.

    Raises:
        FileExistsError: if the directory holds different weights and ``overwrite`` is false.
        ValueError: if the class or its arguments cannot be recorded, or build a network of another shape.
    """
    path, network = Path(path), unwrapped(network)
    digest = fingerprint(network)
    text = _describe(network, class_path, init_args, class_names, notes, digest)
    if not overwrite and any((path / name).exists() for name in FILES):
        try:
            present = _read_config(path)["fingerprint"]
        except (FileNotFoundError, ValueError):
            present = None
        if present != digest:
            raise FileExistsError(f"{path} holds different weights; choose another path or pass overwrite=True")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        # Copies, because the format refuses tensors that share memory (tied weights).
        state = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
        save_file(state, temporary / WEIGHTS)
        (temporary / CONFIG).write_text(text, encoding="utf-8")
        if path.is_dir():
            for name in FILES:
                (temporary / name).replace(path / name)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def check_saving(
    network: nn.Module, *, class_path: str | None = None, init_args: Mapping[str, Any] | None = None
) -> None:
    """Raise what `save_network` would, before the network is worth saving; writes nothing."""
    _describe(unwrapped(network), class_path, init_args, None, None, "")


def load_network(source: str | Path, *, revision: str | None = None) -> nn.Module:
    """Build a saved network and load its weights: in eval mode, on the CPU.

    Args:
        source: a directory written by `save_network`, or a repository ``owner/name`` on the Hugging Face Hub;
            the latter is asked only if no local directory is called ``owner``, or ``revision`` is given.
        revision: branch, tag or commit on the Hub.

    Raises:
        FileNotFoundError: if there is no such directory, repository or file.
        ValueError: if a file is damaged, or the weights are not those that the configuration describes, or the class
            that it names is not installed, nor imported, nor in a place that the user has named.
        TypeError: if the configuration names something that is no module.
    """
    directory = _locate(source, revision)
    config = _read_config(directory)
    state = load_state(directory)
    init_args = {key: value for key, value in config.items() if key not in RESERVED}
    network = build({"class_path": config["class_path"], "init_args": init_args})
    for name, own in network.state_dict(keep_vars=True).items():
        if name in state and own.is_floating_point() and own.dtype != state[name].dtype:
            own.data = own.data.to(state[name].dtype)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{directory / WEIGHTS} does not fit {config['class_path']}: {error}") from error
    found = fingerprint(network)
    if found != config["fingerprint"]:
        told = f"fingerprint {found[:16]}, expected {config['fingerprint'][:16]}"
        remedy = "restore or write the directory again"
        raise ValueError(f"the weights in {directory} are not those that were saved: {told}; {remedy}")
    cast(Any, network).class_names = config.get("facts", {}).get("class_names")
    return network.eval()


def notes(path: str | Path) -> dict[str, Any]:
    """What was noted next to the weights by `save_network`, perhaps nothing; a FileNotFoundError without a network."""
    return dict(_read_config(Path(path)).get("notes", {}))


def load_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of the one in a directory written by `save_network`.

    A FileNotFoundError if there is no such file, a ValueError if it is damaged.
    """
    path = Path(path)
    file = _existing(path / WEIGHTS if path.is_dir() else path)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}); restore it or write it again") from error


def push_network(path: str | Path, repo_id: str, *, private: bool = True) -> str:
    """Upload the two files in a directory written by `save_network` to the Hugging Face Hub: address of the commit.

    The repository ``owner/name`` is made, private unless told otherwise, if it does not exist. A FileNotFoundError if
    the directory is not a saved network.
    """
    path = Path(path)
    for name in FILES:
        _existing(path / name)
    api = huggingface_hub.HfApi()
    api.create_repo(repo_id, private=private, exist_ok=True)
    told = f"Upload a network saved by kdlightning {__version__}"
    return str(api.upload_folder(repo_id=repo_id, folder_path=path, allow_patterns=[*FILES], commit_message=told))


def _describe(
    network: nn.Module,
    class_path: str | None,
    init_args: Mapping[str, Any] | None,
    class_names: Sequence[str] | None,
    notes: Mapping[str, Any] | None,
    digest: str,
) -> str:
    """What ``config.json`` holds; a ValueError if that would not build the network."""
    spec = _spec(network, class_path, init_args)
    _require_same_shapes(network, spec)
    taken = sorted(set(spec["init_args"]) & set(RESERVED))
    if taken:
        raise ValueError(f"{spec['class_path']} has arguments named {taken}, which {CONFIG} uses itself; rename them")
    about = {"class_path": spec["class_path"], "kdlightning_version": __version__, "fingerprint": digest}
    about["facts"] = _facts(network, class_names)
    config = {**spec["init_args"], **about, **({"notes": dict(notes)} if notes else {})}
    try:
        return json.dumps(config, indent=2) + "\n"
    except TypeError as error:
        raise ValueError(f"init_args and notes must be JSON-able to be saved: {error}; got {config}") from error


def _facts(network: nn.Module, class_names: Sequence[str] | None) -> dict[str, Any]:
    """What one wants to know without building it: its name, its classes, what it does to pixels. None is unknown."""
    own: Any = network
    names, number = class_names or getattr(own, "class_names", None), getattr(own, "num_classes", None)
    if names is not None and number is not None and len(names) != number:
        raise ValueError(f"expected a name for each of {number} classes, got {len(names)}: {list(names)}")
    normalize = getattr(own, "normalize", None)
    pixels = {name: getattr(own, name, None) for name in ("in_channels", "image_size", "input_size")}
    for name in ("mean", "std"):
        values = getattr(normalize, name, None)
        pixels[name] = values.flatten().tolist() if isinstance(values, Tensor) else None
    return {
        "architecture": name_of(network),
        "num_classes": number,
        "class_names": None if names is None else list(names),
        "preprocessing": pixels,
    }


def _spec(
    network: nn.Module, class_path: str | None = None, init_args: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """How a network is built again: as told, else as it remembers."""
    cls = type(network)
    if not class_path and (cls.__module__ == "__main__" or "<locals>" in cls.__qualname__):
        raise ValueError(f"{cls.__qualname__} cannot be imported by name; move it to a module, or give class_path")
    class_path = class_path or f"{cls.__module__}.{cls.__qualname__}"
    if init_args is not None:
        told = {"class_path": class_path, "init_args": dict(init_args)}
        same = constructor_of(class_path) is cls
        return {**told, "init_args": without_downloads(told) | (getattr(network, "settled", {}) if same else {})}
    remembered = getattr(network, "_hub_mixin_config", None) or {}
    if not isinstance(network, PyTorchModelHubMixin) or not isinstance(remembered, dict):
        unknown = f"how this {class_path} was constructed is not known, so that it cannot be saved"
        raise ValueError(
            f"{unknown}: take TorchvisionNetwork or TimmNetwork for one of theirs, let a class of yours inherit from "
            "kdlightning.networks.Network, which remembers (its constructor takes num_classes, in_channels, image_size "
            "and num_features), or save it yourself by save_network with init_args"
        )
    # The mixin forgets arguments that are modules; they are described in their turn.
    modules = {
        name: _spec(argument)
        for name in inspect.signature(cls.__init__).parameters
        if name not in remembered and isinstance(argument := getattr(network, name, None), nn.Module)
    }
    return {"class_path": class_path, "init_args": {**remembered, **modules}}


def _require_same_shapes(network: nn.Module, spec: dict[str, Any]) -> None:
    """A wrong description is found now, not when the network is needed."""
    with torch.random.fork_rng(devices=[]):
        built = build(spec).state_dict()
    actual = {name: tensor.shape for name, tensor in network.state_dict().items()}
    # a lazy layer takes its shape from the weights
    rebuilt = {name: actual.get(name) if is_lazy(tensor) else tensor.shape for name, tensor in built.items()}
    if rebuilt != actual:
        different = sorted(name for name in rebuilt.keys() | actual.keys() if rebuilt.get(name) != actual.get(name))
        other = f"{spec['class_path']} with {spec['init_args']} builds another network than the one to save"
        raise ValueError(f"{other}: {len(different)} tensors differ, the first is {different[0]}")


def _locate(source: str | Path, revision: str | None) -> Path:
    """The local directory of a source, downloaded if need be."""
    path = Path(source).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ValueError(f"{source} is a local directory, which has no revision {revision}")
        return path
    is_repository = isinstance(source, str) and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", source) is not None
    here = f"(working directory {Path.cwd()}"
    if path.is_file():
        wrong = f"{source} is a file; expected a directory that save_network has written"
        own = "Weights of a network of your own (.pt, .pth) are put into one by Adapter and save_network"
        raise FileNotFoundError(f"{wrong}. {own}: docs/tutorial-teacher.md")
    if not is_repository or (revision is None and path.parent.is_dir()):
        remedy = "run the `fit` that writes it first, or correct the path"
        raise FileNotFoundError(f"there is no saved network at {source} {here}); {remedy}")
    try:
        directory = huggingface_hub.snapshot_download(str(source), revision=revision, allow_patterns=[*FILES])
    except (OSError, ValueError) as error:
        neither = f"{source} is neither a local directory {here}; run the `fit` that writes it first)"
        nor = f"nor a repository that could be downloaded from the Hugging Face Hub: {error}"
        raise FileNotFoundError(f"{neither} {nor}") from error
    return Path(directory)


def _existing(file: Path) -> Path:
    if not file.is_file():
        expected = f"a saved network is a directory with {WEIGHTS} and {CONFIG}"
        raise FileNotFoundError(f"{file} does not exist; {expected}, as the `fit` that trains it writes")
    return file


def _read_config(directory: Path) -> dict[str, Any]:
    file = _existing(directory / CONFIG)
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged ({error}); restore it or write it again") from error
    missing = [key for key in ("class_path", "fingerprint") if key not in config]
    if missing:
        raise ValueError(f"{file} has no {' and no '.join(missing)}; was it written by save_network?")
    return cast(dict[str, Any], config)
