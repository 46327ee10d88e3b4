"""The console shows what a user acts on. Everything that libraries say goes to the run's ``log.txt``."""

import logging
import sys
import sysconfig
import warnings
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_only
from rich import box
from rich.console import Console
from rich.table import Column, Table

LOG = "log.txt"
PACKAGE = str(Path(__file__).parents[1])

_OURS = "kdlightning"
_LIBRARIES = tuple(sysconfig.get_paths()[place] for place in ("stdlib", "purelib", "platlib"))
_TALKATIVE = ("lightning", "lightning.pytorch", "lightning.fabric")  # loggers with a console of their own

FIT = {
    "method": ("method", "{}"), "accuracy": ("accuracy", "{:.2%}"), "agreement": ("agreement", "{:.2%}"),
    "parameters": ("parameters", "{:,}"), "MACs": ("macs", "{:,}"), "queries": ("queries", "{:,}"),
    "seconds": ("seconds", "{:,.0f}"),
}  # fmt: skip
GENERATOR = {
    "method": ("method", "{}"), "FID": ("fid", "{:.2f}"), "KID": ("kid", "{:.4f}"), "features": ("features", "{}"),
    "class entropy": ("class_entropy", "{:.3f}"), "queries": ("queries", "{:,}"), "seconds": ("seconds", "{:,.0f}"),
}  # fmt: skip
LABELS = {
    "rows": ("rows", "{:,}"), "queries": ("queries", "{:,}"), "per pair": ("queries_per_pair", "{:.1f}"),
    "per image": ("queries_per_image", "{:.1f}"), "shortfall": ("shortfall", "{:,}"),
    "without answer": ("unanswered", "{:,}"),
    "mean distance": ("mean_robustness", "{:.3f}"), "pairs not found": ("pairs_not_found", "{:,}"),
    "seconds": ("seconds", "{:,.0f}"),
}  # fmt: skip


class RunLog(logging.Handler):
    """While it is entered, takes all log records and warnings of the process.

    Errors, and what this package or the user's own code warns of, appear on stderr. All of it is in ``log.txt``, from
    the beginning, once :meth:`open` says where that is. Of several processes the first has the console.
    """

    def __init__(self) -> None:
        super().__init__()
        self._early: list[logging.LogRecord] = []
        self._file: logging.FileHandler | None = None
        self._everything = False
        self._before: list[tuple[logging.Logger, list[logging.Handler], bool]] = []

    def __enter__(self) -> "RunLog":
        for logger in map(logging.getLogger, _TALKATIVE):
            self._before.append((logger, logger.handlers, logger.propagate))
            logger.handlers, logger.propagate = [], True
        logging.getLogger(_OURS).setLevel(logging.INFO)
        logging.getLogger().addHandler(self)
        self._show, warnings.showwarning = warnings.showwarning, _log_warning  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        warnings.showwarning = self._show
        logging.getLogger().removeHandler(self)
        for logger, handlers, propagate in self._before:
            logger.handlers, logger.propagate = handlers, propagate
        if self._file is not None:
            self._file.close()

    def open(self, directory: Path, verbose: bool) -> None:
        """Continue, or begin, ``log.txt`` in a run's directory; ``verbose`` shows everything on stderr too."""
        directory.mkdir(parents=True, exist_ok=True)
        process = f"rank {rank()} " if rank() else ""
        self._file = logging.FileHandler(directory / LOG, encoding="utf-8")
        self._file.setFormatter(logging.Formatter(f"%(asctime)s {process}%(levelname)s %(name)s: %(message)s"))
        early, self._early, self._everything = self._early, [], verbose
        for record in early:
            self._file.handle(record)
            if not _acted_on(record):
                self._print(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record, and show it if it is for the user."""
        if self._file is None:
            self._early.append(record)
        else:
            self._file.handle(record)
        self._print(record)

    def _print(self, record: logging.LogRecord) -> None:
        acted_on = _acted_on(record)
        if rank() == 0 and (acted_on or (self._everything and not _own(record))):  # what is ours is printed already
            said = f"kdlightning: {record.levelname.lower()}: " if acted_on else ""
            sys.stderr.write(f"{said}{record.getMessage()}\n")


def _acted_on(record: logging.LogRecord) -> bool:
    return record.levelno >= (logging.WARNING if _own(record) else logging.ERROR)


def _own(record: logging.LogRecord) -> bool:
    return record.name.split(".")[0] == _OURS


def rank() -> int:
    """The number of this process in its run, 0 for the first."""
    return int(getattr(rank_zero_only, "rank", 0))


def open_log(directory: Path, verbose: bool) -> None:
    """Where the present run's log goes; without :class:`RunLog` (a trainer of the user's own) there is none."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, RunLog):
            handler.open(directory, verbose)


def print_summary(directory: Path, facts: dict[str, Any], columns: dict[str, tuple[str, str]], brief: bool) -> None:
    """What a stage has made, by its record and in these columns: a table of one row, or in a recipe one line."""
    cells = {head: form.format(facts[key]) for head, (key, form) in columns.items() if facts.get(key) is not None}
    if brief:
        told = ", ".join(f"{heading} {cell}" for heading, cell in cells.items() if heading != "method")
        Console(highlight=False).print(f"  {told}", soft_wrap=True)
        return
    heads = [Column(heading, justify="right") for heading in cells]
    table = Table(*heads, title=str(directory), title_justify="left", title_style="bold green", box=box.SIMPLE_HEAD)
    table.add_row(*cells.values())
    Console(width=max(100, Console().width)).print(table)


def _log_warning(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
    """In the place of ``warnings.showwarning``: libraries' warnings under a name of their own."""
    own = filename.startswith(PACKAGE) or not filename.startswith(_LIBRARIES)
    own &= not issubclass(category, (DeprecationWarning, PendingDeprecationWarning))  # those are for developers
    name, place = (_OURS, "") if own else ("py.warnings", f"{filename}:{lineno}: {category.__name__}: ")
    logging.getLogger(name).warning("%s%s", place, message)
