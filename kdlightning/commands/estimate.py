"""``python -m kdlightning estimate``: queries, bytes, price and time of a run, before the teacher is asked anything."""

import argparse
import inspect
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, Namespace
from lightning.pytorch.callbacks import EarlyStopping, Timer
from lightning.pytorch.cli import LightningCLI
from rich.console import Console
from rich.table import Table

from kdlightning.commands import cli
from kdlightning.commands.console import RunLog
from kdlightning.commands.costs import Forecast, foresee, span, terms_of
from kdlightning.commands.hints import class_of, without_noise
from kdlightning.commands.recipes import RecipeError, Stage, assignment, check_chain, read_recipe
from kdlightning.modules import LabellingModule
from kdlightning.modules.rehearsal import check_pair
from kdlightning.modules.viewing import views_of
from kdlightning.remote.networked import NetworkedTeacher
from kdlightning.teachers import BlackBoxTeacher, HardLabelTeacher, SoftLabelTeacher, TopKTeacher
from kdlightning.teachers.absent import AbsentHardLabelTeacher, AbsentSoftLabelTeacher, AbsentTeacher, AbsentTopKTeacher
from kdlightning.teachers.given import IN_JOBS

_DESCRIPTION = """\
Say what a run will ask its teacher: exactly where that is known beforehand, else at most. The teacher is not asked,
unless --probe is given; of a teacher behind the Open Inference Protocol the metadata are read, which costs nothing.

What an interrupted run has kept, and what the ledger knows, is not counted again."""

_EPILOG = """\
examples:
  kdlightning estimate --config labels.yaml
  kdlightning estimate --config exp.yaml --ckpt_path runs/exp/checkpoints/last.ckpt --rate 200
  kdlightning estimate experiments/digits/mekd/recipe.yaml

Everything else is an option of fit or of predict, whichever the model is for."""

_REASONS = (ArgumentError, RecipeError, OSError, RuntimeError, TypeError, ValueError)


class _Dry(cli.KDLightningCLI):
    """Builds everything as a run does, writes nothing, and looks ahead instead of running."""

    asked_for = 0  # images of a probe
    forecast: Forecast | None = None
    rate: float | None = None
    probed = ""  # what the probe cost
    absent = ""  # why the teacher is not there
    refusal = ""  # why the run itself will end before it asks
    asks = True

    def before_instantiate_classes(self) -> None:
        """No run's directory is guarded or made, nothing is logged, and no callback but those that may end a run."""
        config = self.config[self.subcommand]
        config.trainer.logger = False
        if config.trainer.default_root_dir is None:
            config.trainer.default_root_dir = str(cli.default_directory(config))
        given = cli.as_list(config.trainer.get("callbacks"))
        config.trainer.callbacks = [
            one for one in given if issubclass(class_of(one.class_path), (EarlyStopping, Timer))
        ]

    def instantiate_classes(self) -> None:
        """Build what a black box is asked by; in the place of a teacher that is not there, one with its settings."""
        model = self.config[self.subcommand].model
        teachers = [part for part in _parts(model) if issubclass(class_of(part.class_path), BlackBoxTeacher)]
        self.asks = bool(teachers)
        if not teachers:
            return
        try:
            LightningCLI.instantiate_classes(self)
        except _REASONS as error:
            for part in teachers:
                _put_absent(part)
            self.absent = _reason(error)
            LightningCLI.instantiate_classes(self)

    def _run_subcommand(self, subcommand: str) -> None:
        if not self.asks:
            return
        self.forecast = foresee(self.trainer, self.model, self.datamodule, self.trained_batches())
        if self.forecast is None:
            return
        try:
            check_pair(self.model.teacher, self.datamodule, views=views_of(self.model, self.datamodule))
        except ValueError as error:
            self.refusal = str(error)
            return
        if self.asked_for:
            self.rate, self.probed = _probe(self.model, self.datamodule, self.asked_for)
            self.forecast = self.forecast._replace(terms=terms_of(self.trainer, self.model, self.datamodule))


def main(argv: Sequence[str]) -> int:
    """Print what a run or a recipe will cost; the exit code is 0, or 2 if nobody can know, or a run will be refused."""
    parser = argparse.ArgumentParser(
        prog="kdlightning estimate", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False,
        usage="kdlightning estimate [--rate R] [--probe N] (RECIPE [--output DIR] [--set NAME=VALUE] | --config ...)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--rate", type=_rate, metavar="R", help="images that the teacher answers in a second")
    probe = "ask N of the images, which is paid, and measure the rate, and the tokens of an image where they cost"
    parser.add_argument("--probe", type=_number, default=0, metavar="N", help=probe)
    options, rest = parser.parse_known_args(argv)
    console = Console(highlight=False, width=max(100, Console().width))
    try:
        with RunLog():
            if rest and not rest[0].startswith("-") and rest[0] not in ("fit", "predict"):
                return _recipe(options, rest, console)
            command, rest = (rest[0], rest[1:]) if rest[:1] in (["fit"], ["predict"]) else (_command(rest), rest)
            dry: _Dry = cli.build(type("_Probing", (_Dry,), {"asked_for": options.probe}), [command, *rest])
            if dry.refusal:
                raise ValueError(dry.refusal)
    except _REASONS as error:
        sys.stderr.write(f"kdlightning estimate: {_reason(error)}\n")
        return 2
    _print(console, command, dry, options.rate)
    return 0


def _rate(text: str) -> float:
    with suppress(ValueError):
        if 0 < (rate := float(text)) < math.inf:
            return rate
    raise argparse.ArgumentTypeError(f"expected a number above 0, images per second; got {text}")


def _number(text: str) -> int:
    with suppress(ValueError):
        if (number := int(text)) >= 0:
            return number
    raise argparse.ArgumentTypeError(f"expected a number of images, 0 or more; got {text}")


def _command(arguments: Sequence[str]) -> str:
    """``predict`` for a model that labels, else ``fit``."""
    model: Any = None
    for position, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        value = value if equals else "".join(arguments[position + 1 : position + 2])
        if option in ("--config", "-c"):
            with suppress(OSError, ValueError, AttributeError, yaml.YAMLError):  # the command itself will say it
                model = (yaml.safe_load(Path(value).read_text(encoding="utf-8")) or {}).get("model", model)
        elif option in ("--model", "--model.class_path"):
            model = value
    made = class_of(str(model.get("class_path") if isinstance(model, dict) else model))
    return "predict" if issubclass(made, LabellingModule) else "fit"


def _print(console: Console, title: str, dry: _Dry, rate: float | None) -> None:
    if (forecast := dry.forecast) is None:
        console.print(f"{title}: asks no black box", style="dim")
        return
    console.print(f"{title}: {forecast.method}", style="bold")
    table = Table(box=None, show_header=False)
    if dry.probed:
        table.add_row("probe", dry.probed)
    for name, value in forecast.lines(rate or dry.rate):
        table.add_row(name, value)
    console.print(table)
    for word, clauses in zip(("refused", "may be stopped"), forecast.objections(), strict=True):
        if clauses and not forecast.may_stop:
            console.print(f"  {word}: needs {' and '.join(clauses)}")
    if dry.absent:
        reason = f"  by its settings alone, since the teacher is not there: {dry.absent}"
        console.print(reason, soft_wrap=True, markup=False)


def _probe(module: Any, data: Any, number: int) -> tuple[float | None, str]:  # noqa: ANN401
    """Images per second of a real query, None where the ledger knew them all, and what it cost, in words."""
    teacher, pool, views = module.teacher, data.candidate_pool(number), views_of(module, data)
    if teacher.in_jobs:
        raise ValueError(f"--probe asks at once, and a {type(teacher).__name__} {IN_JOBS}")
    before, cost, began = teacher.paid.queries, teacher.cost, time.monotonic()
    if views is None:
        teacher.ask(pool.image.float().div(255))
    else:
        views.answers(teacher.ask, pool.index, "cpu")
    asked, seconds = teacher.paid.queries - before, time.monotonic() - began
    *_, price, tokens_in, tokens_out = (now - then for now, then in zip(teacher.cost, cost, strict=True))
    tokens = f", {tokens_in:,} tokens in, {tokens_out:,} out" if tokens_in or tokens_out else ""
    told = f"{asked:,} images asked{tokens}" + (f", price {price:,.10g}" if price else "")
    return (asked / seconds if asked else None), told


def _recipe(options: argparse.Namespace, arguments: Sequence[str], console: Console) -> int:
    """Stage by stage, and the sum."""
    parser = argparse.ArgumentParser(prog="kdlightning estimate RECIPE", allow_abbrev=False)
    parser.add_argument("recipe")
    parser.add_argument("--output")
    parser.add_argument("--set", action="append", default=[])
    told = parser.parse_args(arguments)
    if options.probe:
        raise RecipeError("--probe is for a single run: estimate one stage's configuration")
    root, stages, _ = read_recipe(told.recipe, output=told.output, variables=dict(map(assignment, told.set)))
    check_chain(stages, root)
    found, unknown, refused = [], [], False
    for stage in stages:
        if stage.changed:
            why = "has other settings than what lies there: `kdlightning run` will refuse it"
            console.print(f"{stage.name}: {why}", soft_wrap=True)
            unknown.append(stage.name)
            continue
        if stage.finished:
            console.print(f"[dim]{stage.name}: finished already[/dim]")
            continue
        try:
            dry = _stage(stage)
        except _REASONS as error:
            console.print(f"{stage.name}: nobody knows yet: {_reason(error)}", soft_wrap=True)
            unknown.append(stage.name)
            continue
        if dry.refusal:
            console.print(
                f"{stage.name}: `kdlightning run` will refuse it: {dry.refusal}", soft_wrap=True, markup=False
            )
            unknown.append(stage.name)
            refused = True
            continue
        _print(console, stage.name, dry, options.rate)
        found += [] if dry.forecast is None else [dry.forecast]
    least, most = (sum(forecast.paid[side] for forecast in found) for side in (0, 1))
    prices = [forecast.price for forecast in found]
    unknown += [forecast.method for forecast, price in zip(found, prices, strict=True) if price is None]
    price = [sum(price[side] for price in prices if price is not None) for side in (0, 1)]
    without = f"; without {', '.join(unknown)}" if unknown else ""
    console.print(f"[bold]all[/bold]: to pay {span(least, most)} images, price {span(*price)}{without}")
    return 2 if refused else 0


def _stage(stage: Stage) -> _Dry:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "stage.yaml"
        file.write_text(yaml.safe_dump(stage.config, sort_keys=False))
        last = stage.directory / "checkpoints" / "last.ckpt"
        resume = ["--ckpt_path", str(last)] if stage.command == "fit" and last.exists() else []
        return cli.build(_Dry, [stage.command, "--config", str(file), *resume])


def _parts(config: Any) -> Iterator[Namespace]:  # noqa: ANN401 - anything in a configuration
    """All places of a configuration that name a class."""
    if isinstance(config, Namespace):
        if "class_path" in config:
            yield config
        for value in vars(config).values():
            yield from _parts(value)


_ABSENT: dict[type[BlackBoxTeacher], type[AbsentTeacher]] = {
    SoftLabelTeacher: AbsentSoftLabelTeacher, TopKTeacher: AbsentTopKTeacher, HardLabelTeacher: AbsentHardLabelTeacher,
}  # fmt: skip


def _put_absent(part: Namespace) -> None:
    """Replace a teacher's configuration by one that can be built."""
    real, given = class_of(part.class_path), part.get("init_args") or {}
    kind = next((absent for present, absent in _ABSENT.items() if issubclass(real, present)), AbsentHardLabelTeacher)
    names = [*inspect.signature(AbsentTeacher).parameters, *inspect.signature(kind).parameters]
    known = {name: given[name] for name in names if name in given}
    part.class_path = f"{kind.__module__}.{kind.__name__}"
    part.init_args = Namespace(known | {"remote": issubclass(real, NetworkedTeacher)})  # type: ignore[no-untyped-call]


def _reason(error: BaseException) -> str:
    """What is wrong, in a line: jsonargparse lists it, below where it stands."""
    lines = [line for line in without_noise(str(error)).splitlines() if not line.lstrip().startswith("Given value")]
    return lines[-1].strip().removeprefix("- ") if lines else str(error)
