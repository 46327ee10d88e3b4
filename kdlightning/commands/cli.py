"""``fit``, ``validate``, ``test`` and ``predict``: LightningCLI, clear errors, runs that are never overwritten."""

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar

import lightning.pytorch as L
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from kdlightning.accounting import DirectoryLock, QueryBudgetExceededError, QueryMeter
from kdlightning.accounting.accounts import Limits
from kdlightning.accounting.estimates import remember
from kdlightning.accounting.ledger import LedgerError
from kdlightning.callbacks import Agreement, ConfusionMatrix, QueryLogger, RunProgress, RunResult
from kdlightning.callbacks.queries import STOPPED
from kdlightning.commands.checks import ONE_START, check_checkpoint, check_metrics, check_trained
from kdlightning.commands.console import FIT, GENERATOR, LABELS, LOG, PACKAGE, RunLog, open_log, print_summary, rank
from kdlightning.commands.costs import batches_done, foresee, terms_of
from kdlightning.commands.disk import told
from kdlightning.commands.parser import Parser
from kdlightning.commands.starter import completed
from kdlightning.commands.tracking import continue_runs, label_runs, log_record, wandb_loggers
from kdlightning.modules import DistillationModule, GeneratorModule, LabellingModule, TaughtModule
from kdlightning.modules.base import check_launcher
from kdlightning.modules.finite import NotFiniteError
from kdlightning.modules.precision import Trainer
from kdlightning.remote import RemoteTeacherError
from kdlightning.teachers import BlackBoxTeacher

Built = TypeVar("Built", bound="KDLightningCLI")

_locks: list[DirectoryLock] = []  # of the present command
SWEEP = "WANDB_SWEEP_ID"  # `wandb agent` sets it, and WANDB_RUN_ID, for its trials

_FLAGS = {
    "--overwrite": "Let this run replace one in its directory.",
    "--restart": "Begin anew a run that was stopped before its first checkpoint: what it paid stays counted, and "
    "recorded answers are not asked again.",
    "--verbose": f"Show on the console, too, what the libraries say; it is always in the run's {LOG}.",
}


class _RunConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's directory and into the logger; never over another run's."""

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Lightning calls it once, on the first process."""
        root = Path(trainer.default_root_dir)
        root.mkdir(parents=True, exist_ok=True)
        config = self.config.clone()
        for key in ONE_START.keys() & config.keys():
            config[key] = ONE_START[key]
        if stage == "fit" or not _describes_another(root / self.config_filename, stage):
            self.parser.save(config, root / self.config_filename, skip_none=False, overwrite=True)
        content = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        for logger in wandb_loggers(trainer):
            logger.experiment.config.update(content, allow_val_change=True)


def _describes_another(file: Path, stage: str) -> bool:
    """Whether a configuration is there that another command has written; only ``predict`` marks its own."""
    if not file.is_file():
        return False
    return stage != "predict" or "return_predictions" not in (yaml.safe_load(file.read_text(encoding="utf-8")) or {})


class KDLightningCLI(LightningCLI):
    """LightningCLI in subclass mode for model and data."""

    brief = False
    _expected: tuple[float, float, float] | None = None  # money, before the run

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, without ``verbose``, where ours means the libraries' messages, and without unpickling."""
        return {name: skipped | {"verbose", "weights_only"} for name, skipped in LightningCLI.subcommands().items()}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """``result.*``, ``overwrite``, ``restart``, ``over_budget`` and ``verbose``."""
        parser.add_lightning_class_args(RunResult, "result")
        for option, text in _FLAGS.items():
            parser.add_argument(option, type=bool, default=False, help=text)
        parser.add_argument(
            "--over_budget", type=Literal["refuse", "allow"], default="refuse",
            help="A run that will ask more than its teacher's budget allows does not start; 'allow' lets it go as far "
            "as the budget does. `kdlightning estimate` tells what a run will ask.",
        )  # fmt: skip

    def _parse_ckpt_path(self) -> None:
        """Do nothing: a checkpoint's hyper-parameters must not win over the command line's, nor replace the class."""

    def before_instantiate_classes(self) -> None:
        """Choose and guard the run's directory, and point every logger into it."""
        config = self.config[self.subcommand]
        root = _settle_paths(config)
        try:
            check_checkpoint(config.get("ckpt_path"))
        except ValueError as error:
            self.parser.error(str(error))
        if self.subcommand == "fit" and not config.trainer.fast_dev_run:
            if rank() == 0:  # the others are started by it
                _locks.append(DirectoryLock(root))
                _locks[-1].acquire()
            self._guard(root, config)
        if SWEEP not in os.environ:  # an agent waits for its trials' metrics
            os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", str(not config.verbose).lower())
        for logger in as_list(config.trainer.logger):
            if isinstance(logger, Namespace) and "init_args" in logger and "save_dir" in logger.init_args:
                if logger.init_args.save_dir in (None, "."):
                    logger.init_args.save_dir = str(root)
                if "name" in logger.init_args and logger.class_path.endswith("WandbLogger"):
                    root.mkdir(parents=True, exist_ok=True)
                    logger.init_args.name = logger.init_args.name or str(root)
                    import_module("wandb").setup()  # else its first word comes before it knows that it is silent

    def instantiate_classes(self) -> None:
        """Build model, data and trainer; what is wrong with their arguments is the user's to read, not a traceback."""
        try:
            super().instantiate_classes()
        except (ValueError, FileNotFoundError, MisconfigurationException) as error:
            self.parser.error(str(error))
        config = self.config[self.subcommand]
        if not config.trainer.fast_dev_run:
            open_log(Path(config.trainer.default_root_dir), config.verbose)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:  # noqa: ANN401
        """Add the callbacks that every run has, unless the configuration brings its own."""
        config = self.config_init[self.subcommand].trainer
        mine: dict[type[L.Callback], L.Callback] = {QueryLogger: QueryLogger()}  # each with what takes its place
        if config.get("enable_progress_bar") is not False:
            mine[L.callbacks.ProgressBar] = RunProgress(self.brief)
        if not isinstance(self.model, LabellingModule):
            mine[Agreement], mine[ConfusionMatrix] = Agreement(), ConfusionMatrix()
        if not isinstance(self.model, LabellingModule) and config.get("enable_checkpointing") is not False:
            checkpoints = Path(config.default_root_dir) / "checkpoints"
            mine[ModelCheckpoint] = ModelCheckpoint(
                checkpoints, filename="last", enable_version_counter=False, save_on_train_epoch_end=True
            )
        given = [own for own in as_list(config.get("callbacks")) if not isinstance(own, ModelCheckpoint)]
        self.trainer_defaults["callbacks"] = [  # a checkpoint to go on from is kept beside those of the user
            callback for kind, callback in mine.items() if not any(isinstance(own, kind) for own in given)
        ]
        trainer = super().instantiate_trainer(**kwargs)
        check_launcher(trainer)
        check_metrics(trainer, self.model)
        return trainer

    def before_fit(self) -> None:
        """Refuse what the budget will surely not allow."""
        self.before_predict()
        self.name_runs()
        self.keep_estimate()

    def keep_estimate(self) -> None:
        """Write down what the run is thought to cost; its record tells that beside what it did cost."""
        if self._expected is not None and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            labels = isinstance(self.model, LabellingModule)
            remember(self.model.output if labels else Path(self.trainer.default_root_dir), self._expected)

    def name_runs(self) -> None:
        """Say in W&B what the run is, and which one goes on."""
        config = self.config[self.subcommand]
        goes_on = config.get("ckpt_path") is not None or config.restart
        if isinstance(self.model, LabellingModule):
            goes_on = self.model.output.exists()
        if goes_on:
            continue_runs(self.trainer)
        if isinstance(self.model, (TaughtModule, LabellingModule)):
            label_runs(self.trainer, self.model, self.datamodule)

    def fit(self, **kwargs: Any) -> None:  # noqa: ANN401 - Trainer.fit's
        """Train. Where the teacher's answers end, or the user stops it, say how to go on."""
        try:
            self.trainer.fit(**kwargs)
        except (QueryBudgetExceededError, RemoteTeacherError, LedgerError) as error:
            self._say_how_to_go_on(f"stopped: {error}")
            raise SystemExit(2) from error
        except SystemExit as stop:
            if status := _status(stop):
                if not self.brief:  # else the recipe's command is what to run again
                    self._say_how_to_go_on("stopped")
                raise SystemExit(status) from None
            raise

    def predict(self, **kwargs: Any) -> None:  # noqa: ANN401 - Trainer.predict's
        """Label, or predict. If it is stopped, say how to go on."""
        if isinstance(self.model, LabellingModule):
            self.name_runs()
        self.keep_estimate()
        try:
            self.trainer.predict(**kwargs)
        except BaseException as stop:
            # after a signal another process, or code that is not Python's, may end with an error of its own
            told = self.model.interruption if isinstance(self.model, LabellingModule) else None
            if status := _status(told or stop):
                if rank() == 0 and not self.brief:  # else the recipe's command is what to run again
                    again = "run the same command again; nothing is asked twice"
                    sys.stderr.write(f"kdlightning: stopped\n  -> to go on: {again}\n")
                raise SystemExit(status) from None
            raise

    def _say_how_to_go_on(self, reason: str) -> None:
        if rank():
            return
        root = Path(self.trainer.default_root_dir)
        stopped, (last, again) = root / "checkpoints" / STOPPED, _way_on(root)
        state = f"\n  -> the state at this moment: {stopped}" if stopped.exists() else ""
        place = " from the end of the last whole epoch" if last else ""
        sys.stderr.write(f"kdlightning: {reason}{state}\n  -> to go on{place}: {again}\n")

    def before_validate(self) -> None:
        """Refuse to measure what is not trained."""
        check_trained(self.model, self.config[self.subcommand], str(self.subcommand))

    before_test = before_validate

    def before_predict(self) -> None:
        """Refuse what the budget will surely not allow, and to predict with what is not trained."""
        if self.subcommand == "predict":
            self.before_validate()
        config, teacher = self.config_init[self.subcommand], getattr(self.model, "teacher", None)
        if not isinstance(teacher, BlackBoxTeacher) or not self.trainer.is_global_zero:
            return
        with suppress(ValueError):  # nobody knows: the budget itself will stop the run
            terms = terms_of(self.trainer, self.model, self.datamodule)
            free = terms.price is not None and not terms.price.most
            if terms.limits == Limits() and free:
                return
            forecast = foresee(self.trainer, self.model, self.datamodule, self.trained_batches())
            self._expected = None if forecast is None or free else forecast.expected
            if forecast is None or forecast.may_stop or config.over_budget == "allow":
                return
            surely, perhaps = forecast.objections()
            if perhaps:
                sys.stderr.write(f"kdlightning: warning: {forecast.method} may need {' and '.join(perhaps)}\n")
            if surely:
                self.parser.error(
                    f"{forecast.method} needs {' and '.join(surely)}. Raise the budget, ask less, or give "
                    "--over_budget allow to go as far as it does: what is paid is kept. "
                    "`kdlightning estimate` tells more."
                )

    def trained_batches(self) -> int:
        """How many batches the checkpoint has seen that this run goes on with."""
        path = self.config_init[self.subcommand].get("ckpt_path")
        if path is None or not Path(path).is_file():
            return 0
        return batches_done(self.trainer.strategy.checkpoint_io.load_checkpoint(path, weights_only=True))

    def after_fit(self) -> None:
        """Test the last weights, once; the record of the run is written from that."""
        trainer, model, root = self.trainer, self.model, Path(self.trainer.default_root_dir)
        student = isinstance(model, DistillationModule) and not trainer.interrupted
        if trainer.fast_dev_run or not (student or isinstance(model, GeneratorModule)):  # type: ignore[attr-defined]
            return
        if student and getattr(self.datamodule, "tested_on", "test") is not None:
            trainer.test(model, datamodule=self.datamodule, verbose=False)
        if trainer.is_global_zero:
            facts = json.loads((root / "result.json").read_text())
            log_record(trainer, facts | facts.get("quality", {}))
            print_summary(root, facts | facts.get("quality", {}), FIT if student else GENERATOR, self.brief)

    def after_predict(self) -> None:
        """Say what was labelled and what it cost."""
        if isinstance(self.model, LabellingModule) and self.model.finished is not None:
            log_record(self.trainer, self.model.finished.manifest)
            print_summary(self.model.output, self.model.finished.manifest, LABELS, self.brief)

    def _guard(self, root: Path, config: Namespace) -> None:
        resuming = config.get("ckpt_path") is not None or config.restart
        meter, finished, (last, again) = root / "queries.meter", (root / "result.json").exists(), _way_on(root)
        paid = QueryMeter().counted(meter, unknown=True).queries  # a run that has paid nothing is no loss
        if paid and not (finished or last or resuming or config.overwrite or (root / LOG).exists()) and rank() == 0:
            told = f"{root} has no run, but {paid:,} queries were asked there, as by a dry run: the count goes on"
            sys.stderr.write(f"kdlightning: {told}\n")
        elif (finished or last or paid) and not resuming and not config.overwrite:
            resume = "" if finished and not last else f"{again} to go on with it, "
            choice = f"Give {resume}another --trainer.default_root_dir to start a new one, or --overwrite true"
            self.parser.error(f"{root} already holds a run. {choice} to replace it.")
        if config.overwrite and not resuming and rank() == 0:  # the others come when the first has begun
            for leftover in ("result.json", "queries.meter", "queries.account", LOG):
                (root / leftover).unlink(missing_ok=True)
            shutil.rmtree(root / "journal", ignore_errors=True)


def _status(stop: BaseException) -> int:
    """By convention 128 + the number of the signal that has stopped a run; 0 where something else has."""
    if isinstance(stop, SIGTERMException) or (isinstance(stop, SystemExit) and stop.code == 128 + signal.SIGTERM):
        return 128 + signal.SIGTERM
    # Lightning ends the process where it catches Ctrl-C
    pressed = isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt)
    return 128 + signal.SIGINT if pressed else 0


def _way_on(root: Path) -> tuple[bool, str]:
    """Whether a run in that directory has ended an epoch, and the option to go on with it."""
    last = root / "checkpoints" / "last.ckpt"
    return last.exists(), f"--ckpt_path {last}" if last.exists() else "--restart true"


def _settle_paths(config: Namespace) -> Path:
    """Fill in where a run goes, its directory, and expand ``~`` and a checkpoint called ``last``."""
    for key, value in list(config.items()):
        if isinstance(value, str) and value.startswith("~/"):  # a shell expands what it reads, YAML does not
            config[key] = str(Path(value).expanduser())
    root = Path(config.trainer.default_root_dir or default_directory(config))
    config.trainer.default_root_dir = str(root)
    if config.get("ckpt_path") == "last" and _way_on(root)[0]:
        config.ckpt_path = str(root / "checkpoints" / "last.ckpt")
    return root


def default_directory(config: Namespace) -> Path:
    """Where a run goes that was not told; every trial of a W&B sweep to a place of its own."""
    if SWEEP in os.environ:
        return Path("runs", f"sweep-{os.environ[SWEEP]}", os.environ.get("WANDB_RUN_ID", "trial"))
    model = config.model.class_path.rsplit(".", 1)[-1].lower()
    return Path("runs") / f"{model}-seed{config.seed_everything}"


def as_list(value: Any) -> list[Any]:  # noqa: ANN401 - a setting of which Lightning takes one, many, a flag or none
    """The loggers or callbacks that a setting names."""
    if value is None or isinstance(value, bool):
        return []
    return list(value) if isinstance(value, list) else [value]


class _StageCLI(KDLightningCLI):
    brief = True


def main(args: Sequence[str] | None = None, *, brief: bool = False) -> int:
    """Run one of Lightning's subcommands; ``brief`` shows no more than a stage of a recipe needs.

    Raises:
        SystemExit: with status 2, after a message, when the package refuses what it was given.
    """
    with RunLog():
        try:
            build(_StageCLI if brief else KDLightningCLI, completed(sys.argv[1:] if args is None else args))
        except (OSError, RuntimeError, TypeError, ValueError, MisconfigurationException) as error:
            if (disk := told(error)) is None and not _ours(error):
                raise
            sys.stderr.write(f"kdlightning: error: {disk or error}\n")
            raise SystemExit(2) from error
        finally:
            while _locks:
                _locks.pop().release()
            if "wandb" in sys.modules:
                sys.modules["wandb"].finish()  # else the next run in this process would log into this one
    return 0


def _ours(error: BaseException) -> bool:
    """Whether it is a message for the user, not a defect to trace: the package's own outside a training step."""
    if isinstance(error, (NotFiniteError, MisconfigurationException)):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    steps = ("training_step", "validation_step", "test_step")
    return frames[-1].f_code.co_filename.startswith(PACKAGE) and not any(f.f_code.co_name in steps for f in frames)


def build(kind: type[Built], arguments: list[str]) -> Built:
    """Parse a command line and do what ``kind`` does with it."""
    return kind(
        L.LightningModule,
        L.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        trainer_class=Trainer,
        save_config_callback=_RunConfig,
        save_config_kwargs={"save_to_log_dir": False},
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_class=Parser,
        parser_kwargs={"prog": "kdlightning", "allow_abbrev": False},
        trainer_defaults={"logger": True, "log_every_n_steps": 20, "enable_model_summary": False},
        args=arguments,
    )
