"""``python -m kdlightning``: a light dispatcher, so that help and reports do not wait for torch."""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from kdlightning import __version__

_COMMANDS = {
    "fit": ("cli", "train a method, a teacher or a generator; tests the last weights at the end"),
    "validate": ("cli", "measure on the validation images"),
    "test": ("cli", "measure on the test images"),
    "predict": ("cli", "label or synthesise: writes a transfer set, resumes where it was stopped"),
    "estimate": (
        "estimate",
        "what a run or a recipe will ask, send and pay, before the first question",
    ),
    "run": ("recipes", "run a recipe: several stages, finished ones are skipped"),
    "report": ("report", "compare finished runs: report.md, report.html, results.csv, results.json"),
    "serve": ("serve", "put a saved network behind HTTP: the Open Inference Protocol"),
    "ledger": ("ledger", "the answers that were paid for: show, verify, export, replay"),
    "networks": ("networks", "list the networks with their parameters and MACs"),
}


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(f"kdlightning {__version__}\n")
        return 0
    name = arguments[0]
    if name not in _COMMANDS:
        from difflib import get_close_matches

        near = get_close_matches(name, _COMMANDS, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        sys.stderr.write(f"kdlightning: no command '{name}'{hint}\n\n{usage()}")
        return 2
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.insert(0, "")  # as by `python -m`: the installed script finds a class in the user's own file, too
    module = importlib.import_module(f"kdlightning.commands.{_COMMANDS[name][0]}")
    rest = arguments if _COMMANDS[name][0] == "cli" else arguments[1:]
    return int(module.main(rest) or 0)


if __name__ == "__main__":
    sys.exit(main())
