"""``python -m kdlightning``: a light dispatcher, so that help and reports do not wait for torch."""

import codecs
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from kdlightning import __version__

_COMMANDS = {
    "new": ("new", "start here: a few questions, and a recipe for your own teacher and images"),
    "fit": ("cli", "train a method, a teacher or a generator; tests the last weights at the end"),
    "validate": ("cli", "measure on the validation images"),
    "test": ("cli", "measure on the test images"),
    "predict": ("cli", "label or synthesise: writes a transfer set, resumes where it was stopped"),
    "estimate": ("estimate", "what a run or a recipe will ask, send and pay, before the first question"),
    "run": ("run", "run a recipe: several stages, finished ones are skipped"),
    "report": ("report", "compare finished runs: report.md, report.html, results.csv, results.json"),
    "serve": ("serve", "put a saved network behind HTTP: the Open Inference Protocol"),
    "ledger": ("ledger", "the answers that were paid for: show, verify, export, replay"),
    "teacher": ("teacher", "try a teacher on one image: what is sent, what comes, how it is read, what it costs"),
    "networks": ("networks", "list the networks with their parameters and MACs"),
}

_ALL = ("fit", "validate", "test", "predict")  # Lightning's own help for them has hundreds of lines
_OPTIONS = (
    ("-c, --config FILE", "settings from a YAML file; may be repeated, and options after it win", _ALL),
    ("--model NAME", "the method, then its arguments: --model.student LeNet5 --model.teacher ...", _ALL),
    ("--data NAME", "the images, then their arguments: --data.batch_size 64", _ALL),
    ("--trainer.max_epochs N", "how long", ("fit",)),
    ("--trainer.devices N", "how many GPUs; --trainer.accelerator cpu for none", _ALL),
    ("--trainer.precision P", "bf16-mixed, or auto: that where the hardware has bfloat16 itself", _ALL),
    ("--trainer.default_root_dir DIR", "where the run goes, by default runs/METHOD-seedN", _ALL),
    ("--seed_everything N", "by default 0", _ALL),
    ("--ckpt_path FILE", "the checkpoint to go on from, or to measure", _ALL),
    ("--result.role ROLE", "teacher, reference or student: the network's place in a report", ("fit",)),
    ("--result.variant TEXT", "tells runs of one method apart in a report", ("fit",)),
    ("--result.point POINT", "where it lies on a curve, such as {images: 200}: a report draws it", ("fit",)),
    ("--overwrite true", "replace the run in that directory", ("fit",)),
    ("--restart true", "begin a stopped run anew; what it paid stays counted", ("fit",)),
    ("--over_budget allow", "start although the teacher's budget will not suffice", ("fit", "predict")),
    ("--verbose true", "show what the libraries say; it is always in the run's log.txt", _ALL),
)


def page(command: str) -> str:
    """The short help of one of Lightning's commands."""
    options = "\n".join(f"  {option:31} {text}" for option, text, commands in _OPTIONS if command in commands)
    labels = command == "predict"
    method = "TeacherAnswers" if labels else "KD"
    start = f"kdlightning {command} --model"
    return f"""usage: kdlightning {command} [--config FILE] [--model NAME] [--data NAME] [OPTION VALUE ...]

{command}: {_COMMANDS[command][1]}

options:
{options}

examples:
  kdlightning {command} --config run.yaml --trainer.devices 2
  {start} {method} --model.teacher SoftLabelTeacher --model.teacher.network runs/teacher/network \\
      {"--model.output runs/labels" if labels else "--model.student LeNet5Fifth"} --data MNISTDataModule

more, each in place of the help:
  {start}.help {method}
      the arguments of a class; --data.help NAME likewise
  {start} {method} --model.teacher.help SoftLabelTeacher
      the arguments of a class within it
  {start} {method} --print_config
      a configuration to start from
  kdlightning {command} --help_all
      every option, those of Lightning's trainer too
"""


def usage() -> str:
    """The program's help."""
    commands = "\n".join(f"  {name:9} {text}" for name, (_, text) in _COMMANDS.items())
    return f"""usage: kdlightning [-h] [--version] COMMAND ...

Distil classifiers you cannot open with data you cannot have.

commands:
{commands}

`kdlightning COMMAND --help` tells more; `kdlightning fit --model.help DB3KD` lists the arguments of a class,
`kdlightning fit --model DB3KD --print_config` prints a configuration to start from.
"""


_PLAIN = str.maketrans({"±": "+-", "–": "-", "—": "-", "→": "->", "×": "x", "…": "...", "≥": ">=", "“": '"', "”": '"'})


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """What stands on a console for characters that its encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end].translate(_PLAIN)
    return lost.encode("ascii", "replace").decode(), error.end


def _say_what_can_be_said() -> None:
    """Have a console that is not UTF-8 show other characters instead of ending the program."""
    codecs.register_error("kdlightning", _plainly)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure") and "utf" not in (stream.encoding or "").lower():
            stream.reconfigure(errors="kdlightning")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    _say_what_can_be_said()
    try:
        status = _run(list(sys.argv[1:] if argv is None else argv) or ["--help"])
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes nowhere
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        sys.stderr.write("kdlightning: stopped\n")
        return 128 + signal.SIGINT
    return status


def _run(arguments: list[str]) -> int:
    name = arguments[0]
    texts = {"-h": usage(), "--help": usage(), "--version": f"kdlightning {__version__}\n"}
    if name in _ALL and {"-h", "--help"} & set(arguments):
        texts[name] = page(name)
    if name in texts:
        sys.stdout.write(texts[name])
        return 0
    if name not in _COMMANDS:
        near = get_close_matches(name, _COMMANDS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        sys.stderr.write(f"kdlightning: no command '{name}'{hint}\n\n{usage()}")
        return 2
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, "")  # as by `python -m`: the installed script finds a class in the user's own file, too
    if name in _ALL:
        arguments = ["--help" if argument == "--help_all" else argument for argument in arguments]
    module = importlib.import_module(f"kdlightning.commands.{_COMMANDS[name][0]}")
    return int(module.main(arguments if name in _ALL else arguments[1:]) or 0)


if __name__ == "__main__":
    sys.exit(main())
