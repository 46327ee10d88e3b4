"""Whether a recipe's stages can be run: each one's settings, and what one reads of another. Nothing is built."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from kdlightning.commands import cli
from kdlightning.commands.checks import check_class_paths
from kdlightning.commands.hints import class_of, explain, nearest, public_class
from kdlightning.data import GeneratedDataModule, ImageDataModule, SyntheticDataModule, TransferSetDataModule
from kdlightning.data.generated import PoolDataModule
from kdlightning.modules import AnsweredModule, LabellingModule

_READERS = (TransferSetDataModule, PoolDataModule, SyntheticDataModule)
_MADE = {"network": "network", "generator": "network"}  # arguments that take what a fit leaves in its directory


class Planned(Protocol):
    """A stage: its command, where it writes, and its whole configuration."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def command(self) -> str: ...  # noqa: D102
    @property
    def directory(self) -> Path: ...  # noqa: D102
    @property
    def finished(self) -> bool: ...  # noqa: D102
    @property
    def config(self) -> Mapping[str, Any]: ...  # noqa: D102


class _Written(NamedTuple):
    """What a stage will have written."""

    stage: Planned
    method: str
    columns: frozenset[str]  # of its transfer set; empty where the method does not say
    joined: bool  # whether its rows are about the images of its datamodule, by their index
    access: str | None  # of its teacher


def faults(stages: Sequence[Planned], root: Path) -> Iterator[str]:
    """Sentences on stages to do that read what nobody writes, or what is written in another way.

    Args:
        stages: of the recipe, in their order.
        root: the recipe's directory.
    """
    written: dict[Path, _Written] = {}
    places = [stage.directory for stage in stages]
    for stage in stages:
        for key, value, kind, arguments in () if stage.finished else _references(stage.config):
            place = Path(value)
            target = place.parent if key in _MADE and place.name == _MADE[key] else place
            if target in written:
                yield from _misread(stage, written[target], key, kind, arguments)
            elif place.is_relative_to(root) and not place.exists() and (key == "path" or target in places):
                yield _missing(stage, key, place, target, places)  # a network may be put there by the user
        if not stage.finished:
            yield from _unanswered(stage, written)
        written[stage.directory] = _writes(stage)


def misspelt(stages: Sequence[Planned]) -> Iterator[str]:
    """Sentences on stages to do whose command does not take their settings, before the first one is run.

    Of stages that differ by numbers, such as seeds, by variant or by places below the recipe's, one is looked at.
    """
    parser, looked_at = None, set()
    for stage in stages:
        form = json.dumps([stage.command, _form(stage.config, str(stage.directory.parent))], sort_keys=True)
        if stage.finished or form in looked_at:
            continue
        looked_at.add(form)
        parser = parser or _parser()
        try:
            found = parser.parse_object({"subcommand": stage.command, stage.command: copy.deepcopy(stage.config)})
            check_class_paths(found.as_dict())
        except (ArgumentError, ImportError, AttributeError, TypeError, ValueError) as error:
            yield f"stage '{stage.name}': {explain(str(error), parser)}"


def _form(config: Any, root: str) -> Any:  # noqa: ANN401 - anything that YAML holds
    """What settings have in common that are taken or refused together."""
    if isinstance(config, Mapping):
        return {str(key): None if key == "variant" else _form(value, root) for key, value in config.items()}
    if isinstance(config, list):
        return [_form(value, root) for value in config]
    if isinstance(config, str):
        return root if config.startswith(root) else config
    return config if isinstance(config, bool) else type(config).__name__


def _parser() -> ArgumentParser:
    """That of all commands; it raises what it has to say."""
    parser = cli.build(_Parsing, []).parser
    parser.exit_on_error = False
    return parser


class _Parsing(cli.KDLightningCLI):
    """Has the parser of the commands, and runs none."""

    def parse_arguments(self, parser: Any, args: Any) -> None:  # noqa: ANN401 - Lightning's
        self.config = Namespace(subcommand=None)  # type: ignore[no-untyped-call]

    def _set_seed(self) -> None: ...

    def before_instantiate_classes(self) -> None: ...

    def instantiate_classes(self) -> None: ...

    def _run_subcommand(self, subcommand: str) -> None: ...


def _references(config: Any, kind: Any = None) -> Iterator[tuple[str, str, Any, Mapping[str, Any]]]:  # noqa: ANN401
    """Key, path, class and arguments of everything in a configuration that is read from a directory."""
    if isinstance(config, list):
        for one in config:
            yield from _references(one)
    elif isinstance(config, Mapping):
        if "class_path" in config:
            yield from _references(config.get("init_args") or {}, public_class(str(config["class_path"])))
            return
        for key, value in config.items():
            reads = key in _MADE or (key == "path" and isinstance(kind, type) and issubclass(kind, _READERS))
            if reads and isinstance(value, str):
                yield str(key), value, kind, config
            else:
                yield from _references(value)


def _writes(stage: Planned) -> _Written:
    model, data = (stage.config.get(part) or {} for part in ("model", "data"))
    method, images = (public_class(str(part.get("class_path"))) for part in (model, data))
    if stage.command != "predict" or not (isinstance(method, type) and issubclass(method, LabellingModule)):
        return _Written(stage, str(model.get("class_path")), frozenset(), False, None)
    made = bool(getattr(images, "generated", False))
    columns = frozenset(method.columns) | ({"image"} if made and "answer" in method.columns else frozenset())
    teacher = (model.get("init_args") or {}).get("teacher") or {}
    asked = class_of(str(teacher.get("class_path"))) if isinstance(teacher, Mapping) else None
    access = getattr(asked, "access", None)
    return _Written(stage, method.__name__, columns, not (method.renumbers or made), access)


def _misread(
    stage: Planned, written: _Written, key: str, kind: Any, arguments: Mapping[str, Any]  # noqa: ANN401 - a class
) -> Iterator[str]:  # fmt: skip
    """A directory that an earlier stage writes, but otherwise than it is read here."""
    place = f"stage '{stage.name}' reads {arguments[key]}"
    if (key in _MADE) != (written.stage.command == "fit"):
        leaves = "a network, in network/ there" if written.stage.command == "fit" else "a transfer set"
        yield f"{place} as {key}, but stage '{written.stage.name}' leaves {leaves}"
        return
    if key in _MADE:
        if Path(arguments[key]) == written.stage.directory:
            yield f"{place} as {key}: give {written.stage.directory / _MADE[key]}, where a run leaves it"
        return
    model = public_class(str((stage.config.get("model") or {}).get("class_path")))
    if not written.columns or not isinstance(kind, type):
        return
    fits, has = _fitting(written), written.columns
    column = str(arguments.get("column") or "")
    reads = (
        (
            has & {"answer", "activation", column} and written.joined
            if issubclass(kind, TransferSetDataModule)
            else None
        ),
        ({"image"} <= has and has & {"answer", "activation"} if issubclass(kind, PoolDataModule) else None),
        ({"image"} <= has if issubclass(kind, SyntheticDataModule) else None),
    )
    if not any(reads):
        rows = "images of its own" if "image" in has else "answers about the images of its source"
        right = f"{{class_path: {fits}, init_args: {{source: (as it is), path: {arguments[key]}}}}}"
        yield (
            f"{place} by {kind.__name__}, but {written.method} of stage '{written.stage.name}' writes {rows} there: "
            f"give stage '{stage.name}' data: {right}"
        )
    elif isinstance(model, type) and issubclass(model, AnsweredModule) and stage.command == "fit":
        if not has & {"answer", column}:
            yield (
                f"{place} for {model.__name__}, which learns from the teacher's own answers, but {written.method} of "
                f"stage '{written.stage.name}' writes {', '.join(sorted(has))}: train DB3KD on them"
            )
        elif written.access in ("soft", "topk", "hard") and written.access not in model.accepts:
            yield (
                f"{place} for {model.__name__}, which needs {' or '.join(model.accepts)} answers, but the teacher of "
                f"stage '{written.stage.name}' gives {written.access} ones"
            )


def _fitting(written: _Written) -> str:
    """The datamodule that reads a transfer set."""
    if "image" not in written.columns:
        return TransferSetDataModule.__name__
    answered = bool(written.columns & {"answer", "activation"})
    return GeneratedDataModule.__name__ if answered else SyntheticDataModule.__name__


def _missing(stage: Planned, key: str, place: Path, target: Path, places: Sequence[Path]) -> str:
    said = f"stage '{stage.name}' reads {place} as {key}, which no stage before it writes"
    if target in places:
        return f"{said}: the stage that does stands behind it"
    near = nearest(str(target), [str(one) for one in places if one != stage.directory], cutoff=0.6)
    return said + (f"; did you mean {near[0]}?" if near else "")


def _unanswered(stage: Planned, written: Mapping[Path, _Written]) -> Iterator[str]:
    """A method that learns from answers, on plain images."""
    model, data = (public_class(str((stage.config.get(part) or {}).get("class_path"))) for part in ("model", "data"))
    if not (isinstance(model, type) and isinstance(data, type) and stage.command == "fit"):
        return
    if issubclass(model, AnsweredModule) and issubclass(data, ImageDataModule):
        sets = [one for one in written.values() if "answer" in one.columns]
        right = (
            f"{{class_path: {_fitting(sets[-1])}, init_args: {{source: (the {data.__name__}), path: " if sets else ""
        )
        told = f": give data: {right}{sets[-1].stage.directory}}}}}" if sets else ", which no stage before it writes"
        yield f"stage '{stage.name}': {model.__name__} learns from a transfer set, not from {data.__name__}{told}"
