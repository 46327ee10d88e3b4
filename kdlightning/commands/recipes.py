"""Recipes: several stages of ``fit`` and ``predict`` as one command, finished stages skipped.

A recipe is one YAML file::

    output: runs/demo
    variables: {seeds: ...}            # optional: placeholders used below
    stages:
      - name: labels-{robustness}      # also the stage's directory below `output`
        command: predict
        matrix: {robustness: [bd, mbd]}  # one stage for every combination; an entry {a: 1, b: 2} sets a and b together
        config: {...}                  # the whole configuration, or the path of a file (relative to the recipe)
        set: {model.init_args.output: "{output}/labels-{robustness}"}  # single values on top of it
    report: true
    compare: [DB3KD (noise)]           # optional: rows that the report compares all others with

``{output}``, the variables and the matrix's names are filled in wherever they stand in a string; what is meant
literally, such as the ``{image}`` of a request, is written ``{{image}}``.

``extends: other.yaml`` starts from another recipe, relative to this one, which extends none itself. What this one says
of ``output``, ``report``, ``compare`` and each variable replaces what the other says. A stage whose name the other has
changes the keys that it gives; a new one stands behind the stage before it in this file, the first one at the end.
"""

import copy
import hashlib
import itertools
import json
import re
import sys
import textwrap
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from rich.console import Console

from kdlightning.commands.stops import run_apart, stopping

Variables = Mapping[str, Any]
_FINISHED = {"fit": "result.json", "predict": "manifest.json"}
_KEPT = ("*.json", "*.safetensors", "*.jsonl", "journal-*", "journal", "checkpoints", "network")  # of a stage's work
_TOLD = ("stage.json", "header.json", "estimate.json")  # settings and forecasts only
_PURSE = ("budget", "price", "pace", "patience", "concurrency", "api_key_env", "api_key_file")


class RecipeError(ValueError):
    """A recipe that cannot be run, with the place and what was expected."""


@dataclass(frozen=True)
class Stage:
    """One command of a recipe, ``fit`` or ``predict``, with its whole configuration; the name is unique there."""

    name: str
    command: str
    directory: Path
    config: dict[str, Any] = field(hash=False)

    @property
    def result(self) -> Path:
        """The file that its command leaves at the end."""
        return self.directory / _FINISHED[self.command]

    @property
    def digest(self) -> str:
        """Identifies the configuration: a finished stage is skipped only if this has not changed."""
        return hashlib.sha256(json.dumps([self.command, self.config], sort_keys=True).encode()).hexdigest()[:16]

    @property
    def finished(self) -> bool:
        """Whether its result lies in its directory."""
        return self.result.exists()

    @property
    def changed(self) -> bool:
        """Whether it was begun, or finished, with another configuration, so that there is something to lose.

        How a teacher is paid for may change, and where the recipe's output lies. So may all that is said of the teacher
        while the stage is unfinished: the command compares whom it has asked with whom it would ask.
        """
        record = self.directory / "stage.json"
        if not record.exists() or _digest(record) == self.digest or not _holds_work(self.directory):
            return False
        try:
            text = (self.directory / "stage.yaml").read_text(encoding="utf-8")
            there = str(Path(yaml.safe_load(text)["trainer"]["default_root_dir"]).parent)
            begun = yaml.safe_load(text.replace(f"{there}/", f"{self.directory.parent}/"))
        except (OSError, KeyError, TypeError, yaml.YAMLError):
            return True
        return bool(self._beside_teacher(begun) != self._beside_teacher(self.config))

    def _beside_teacher(self, config: Any) -> Any:  # noqa: ANN401 - from YAML
        """A configuration without what may change of the teacher."""
        kept = copy.deepcopy(config)
        with suppress(KeyError, TypeError):
            told = kept["model"]["init_args"]["teacher"]["init_args"]
            for name in list(told) if not self.finished else _PURSE:
                told.pop(name, None)
        return kept

    @property
    def seconds(self) -> float | None:
        """What it took; None until it is finished."""
        if not self.finished:
            return None
        try:
            return float(json.loads(self.result.read_text()).get("seconds", 0.0))
        except (ValueError, AttributeError) as error:
            told = f"{self.result} is damaged ({error})"
            raise RecipeError(f"{told}; delete it and run the same command again to finish the stage anew") from error


def load_recipe(path: str | Path, *, output: str | None = None, variables: Variables | None = None) -> dict[str, Any]:
    """A recipe with what it extends, again a recipe: ``output``, ``variables``, ``stages``, ``report``, ``compare``.

    The output and the variables that are given replace the recipe's own.

    Raises:
        RecipeError: with what is wrong and where.
    """
    path = base = Path(path)
    recipe = _parse(path, f"{path} does not exist; a recipe is a YAML file of stages, see docs/tutorial-method.md")
    extended: dict[str, Any] = {}
    if "extends" in recipe:
        base = path.parent / str(recipe.pop("extends"))
        extended = _parse(base, f"{path} extends {base}, which does not exist")
        if "extends" in extended:
            raise RecipeError(f"{path} extends {base}, which extends another recipe itself; only one level is allowed")
    filled = (extended.get("variables") or {}) | (recipe.get("variables") or {})
    if unknown := sorted(set(variables or {}) - set(filled)):
        raise RecipeError(f"{path} has no variable {unknown}, only {sorted(filled)}")
    filled.update(variables or {})
    stages = [_located(entry, base, filled) for entry in extended.get("stages") or []]
    known, place = [stage["name"] for stage in stages], len(stages)
    for entry in recipe.get("stages") or []:
        name, found = entry["name"], _located(entry, path, filled)
        if known.count(name) > 1:
            raise RecipeError(f"{path}: {base} has several stages '{name}', so that none can be changed")
        if name in known:
            place = [stage["name"] for stage in stages].index(name)
            stages[place] |= found
        else:
            stages.insert(place, found)
        place += 1
    given = {"report": True, "compare": []} | extended | recipe
    made = {"output": output or given["output"], "variables": filled, "stages": stages}
    return made | {name: given[name] for name in ("report", "compare")}


def read_recipe(
    path: str | Path, *, output: str | None = None, variables: Variables | None = None
) -> tuple[Path, list[Stage], bool]:
    """Read and check a recipe (:func:`load_recipe`): its output directory, stages, and whether it wants a report.

    Raises:
        RecipeError: with what is wrong and where.
    """
    recipe = load_recipe(path, output=output, variables=variables)
    root = Path(_fill(recipe["output"], recipe["variables"])).expanduser()
    filled = recipe["variables"] | {"output": str(root)}
    stages = [stage for entry in recipe["stages"] for stage in _expand(entry, filled, root, str(path))]
    names = [stage.name for stage in stages]
    if len(set(names)) != len(names):
        raise RecipeError(f"{path}: stages need names of their own; put the matrix's placeholders into {names}")
    return root, stages, bool(recipe["report"])


def run_stage(stage: Stage, *, verbose: bool = False) -> None:
    """Run one stage, or resume it if it was interrupted; a SystemExit where its command failed."""
    stage.directory.mkdir(parents=True, exist_ok=True)
    from kdlightning.data.cached import write_json, write_text

    write_json(stage.directory / "stage.json", {"digest": stage.digest, "command": stage.command})
    config, last = stage.directory / "stage.yaml", stage.directory / "checkpoints" / "last.ckpt"
    write_text(config, yaml.safe_dump(stage.config, sort_keys=False))
    arguments = [stage.command, "--config", str(config), *(["--verbose", "true"] if verbose else [])]
    if stage.command == "fit":
        arguments += ["--ckpt_path", str(last)] if last.exists() else ["--restart", "true"]
    if int(str(stage.config.get("trainer", {}).get("devices", 1)) or 1) > 1:
        # a strategy that starts processes repeats the command line, which must then be the stage's own
        run_apart([sys.executable, "-m", "kdlightning", *arguments])
    else:
        from kdlightning.commands import cli

        cli.main(arguments, brief=True)


def check_chain(stages: Sequence[Stage], root: Path) -> None:
    """Refuse, with a RecipeError, a stage that reads below ``root`` what no stage before it writes, or otherwise."""
    from kdlightning.commands.chain import faults

    if found := list(faults(stages, root)):
        raise RecipeError("\n  ".join(found))


def _digest(record: Path) -> str | None:
    """Of the settings that a stage was begun with; None where its record is damaged."""
    try:
        return str(json.loads(record.read_text())["digest"])
    except (ValueError, KeyError, TypeError):
        return None


def _holds_work(directory: Path) -> bool:
    """Whether a stage has asked, made or learnt anything that other settings would lose."""
    files = {file for pattern in _KEPT for file in directory.glob(pattern) if file.name not in _TOLD}
    meter = directory / "queries.meter"
    paid = meter.exists() and any(meter.read_bytes()[:8])  # the images charged
    return paid or any(next(file.iterdir(), None) if file.is_dir() else file.stat().st_size for file in files)


def run_stages(stages: Sequence[Stage], console: Console, *, verbose: bool = False) -> None:
    """Run what is not finished, in order, each under a line that says how far the recipe is.

    Raises:
        RecipeError: a stage was begun or finished with other settings, or its command does not take them.
        SystemExit: a command failed.
    """
    from kdlightning.commands.chain import misspelt

    for stage in stages:  # before the first one asks
        if stage.changed:
            told = f"{stage.directory} holds stage '{stage.name}' with other settings"
            kept = "what a ledger has answered is not paid again"
            raise RecipeError(f"{told}; delete that directory to run it anew ({kept}), or choose another --output")
    if found := list(misspelt(stages)):
        raise RecipeError("\n".join(found))
    finished = [stage.name for stage in stages if stage.finished]
    if finished:
        names = textwrap.shorten(", ".join(finished), 100, placeholder=" ...")
        console.print(f"{len(finished)} of {len(stages)} stages finished already, skipped: {names}", style="dim")
    for number, stage in enumerate(stages, 1):
        if stage.name not in finished:
            left = _time_left(stages)
            told = f", about {timedelta(seconds=round(left))} left" if left else ""
            console.print(f"stage {number} of {len(stages)}: {stage.name}{told}", style="bold", soft_wrap=True)
            with stopping():
                run_stage(stage, verbose=verbose)


def _time_left(stages: Sequence[Stage]) -> float | None:
    """Seconds that the other stages will take if each takes the mean of the finished ones of its command."""
    taken = [(stage.command, stage.seconds) for stage in stages]
    known = [(command, seconds) for command, seconds in taken if seconds is not None]
    each = {kind: [seconds for command, seconds in known if command == kind] for kind in _FINISHED}
    every = [seconds for _, seconds in known]
    return sum(fmean(each[command] or every) for command, seconds in taken if seconds is None) if every else None


def assignment(text: str) -> tuple[str, Any]:
    """Name and value of ``NAME=VALUE``, whose value is YAML.

    Raises:
        RecipeError: there is no ``=``, or no YAML behind it.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise RecipeError(f"--set takes NAME=VALUE, got '{text}'")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {name}: expected YAML, got '{value}': {_line(error)}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check_keys(mapping: Any, required: set[str], optional: set[str], where: str) -> None:  # noqa: ANN401 - from YAML
    if not isinstance(mapping, dict):
        known = sorted(required | optional)
        raise RecipeError(f"{where}: expected a mapping with {known}, got {type(mapping).__name__}")
    missing, unknown = sorted(required - set(mapping)), sorted(set(mapping) - required - optional)
    if missing or unknown:
        expected = f"{sorted(required)} and perhaps {sorted(optional)}"
        raise RecipeError(f"{where}: missing {missing}, unknown {unknown}; expected {expected}")


def _parse(path: Path, absent: str) -> dict[str, Any]:
    """One file, its keys checked."""
    if not path.is_file():
        raise RecipeError(absent)
    try:
        recipe: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {_line(error)}") from error
    needed = set() if isinstance(recipe, dict) and "extends" in recipe else {"output", "stages"}
    _check_keys(recipe, needed, {"extends", "output", "variables", "stages", "report", "compare"} - needed, str(path))
    if not isinstance(rows := recipe.get("compare", []), list) or not all(isinstance(row, str) for row in rows):
        raise RecipeError(f"{path}: compare takes a list of rows, such as ['DB3KD (noise)'], got {rows!r}")
    for number, entry in enumerate(recipe.get("stages") or []):
        _check_keys(entry, {"name"}, {"command", "config", "matrix", "set"}, f"{path}, stage {number + 1}")
    return recipe


def _located(entry: Mapping[str, Any], recipe: Path, variables: Mapping[str, Any]) -> dict[str, Any]:
    """A stage whose configuration, if it is a file, has its whole path."""
    config = entry.get("config")
    if isinstance(config, str) and not isinstance(variables.get(config.strip("{}")), dict):
        return {**entry, "config": str((recipe.parent / config).resolve())}
    return dict(entry)


def _expand(entry: Mapping[str, Any], filled: Mapping[str, Any], root: Path, path: str) -> Iterator[Stage]:
    where = f"{path}, stage '{entry['name']}'"
    _check_keys(entry, {"name", "command", "config"}, {"matrix", "set"}, where)
    if entry["command"] not in _FINISHED:
        raise RecipeError(f"{where}: command is one of {sorted(_FINISHED)}, got {entry['command']!r}")
    matrix = {name: _fill(values, filled) for name, values in (entry.get("matrix") or {}).items()}
    for name, values in matrix.items():
        if not isinstance(values, list):
            raise RecipeError(f"{where}: matrix takes lists, got {name}: {values}")
    for values in itertools.product(*matrix.values()):
        variables = {**filled, **dict(zip(matrix, values, strict=True))}
        variables.update(ChainMap(*(value for value in values if isinstance(value, dict))))
        name = str(_fill(entry["name"], variables))
        config = _fill(entry["config"], variables)
        if isinstance(config, str):
            if not Path(config).is_file():
                raise RecipeError(f"{where}: {config} does not exist")
            config = _fill(yaml.safe_load(Path(config).read_text(encoding="utf-8")), variables)
        for key, value in (entry.get("set") or {}).items():
            _assign(config, key, _fill(value, variables))
        directory = root / name
        _assign(config, "trainer.default_root_dir", str(directory))
        if entry["command"] == "predict":
            config["model"]["init_args"]["output"] = str(directory)
        yield Stage(name, entry["command"], directory, config)


def _fill(value: Any, variables: Mapping[str, Any]) -> Any:  # noqa: ANN401 - anything that YAML holds
    """Fill placeholders; a string that is nothing but one placeholder takes the variable's own type."""
    if isinstance(value, dict):
        return {key: _fill(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    if (whole := re.fullmatch(r"\{(\w+)\}", value)) and whole[1] in variables:
        others = {name: item for name, item in variables.items() if name != whole[1]}
        return _fill(variables[whole[1]], others)  # a variable may hold placeholders, but not its own

    def replace(found: re.Match[str]) -> str:
        if found[1]:
            return f"{{{found[1]}}}"
        if found[2] not in variables:
            raise RecipeError(f"'{value}': no variable '{found[2]}', only {sorted(variables)}")
        return str(variables[found[2]])

    return re.sub(r"\{\{(\w+)\}\}|\{(\w+)\}", replace, value)


def _assign(config: dict[str, Any], dotted: str, value: Any) -> None:  # noqa: ANN401 - anything that YAML holds
    *path, last = dotted.split(".")
    for key in path:
        config = config.setdefault(key, {})
    config[last] = value
