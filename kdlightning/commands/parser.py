"""The parser of ``fit``, ``validate``, ``test`` and ``predict``."""

import json
import sys
from ast import literal_eval
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from kdlightning.commands.checks import check_class_paths
from kdlightning.commands.hints import explain


class Parser(LightningArgumentParser):
    """Errors without the pages of usage, with the nearest valid name."""

    def error(self, message: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - jsonargparse's signature
        """One sentence, and status 2."""
        if not self.exit_on_error:  # the parser of a nested class: the outer one reports
            return super().error(message, *args, **kwargs)
        sys.stderr.write(f"kdlightning: error: {explain(message, self)}\n")
        raise SystemExit(2)

    def parse_args(self, args: Any = None, *rest: Any, **kwargs: Any) -> Any:  # noqa: ANN401 # type: ignore[override]
        """Of a nested class, too, whose values come as Python writes them: ``null`` is ``None`` there."""
        if not self.exit_on_error and args is not None:
            args = [_as_yaml(word) for word in args]
        return super().parse_args(args, *rest, **kwargs)

    def instantiate_classes(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Nothing is built, or run, that a configuration must not name."""
        check_class_paths(args[0].as_dict() if args else {})
        return super().instantiate_classes(*args, **kwargs)


def _as_yaml(word: str) -> str:
    """``--option=None`` as ``--option=null``; lists and mappings likewise."""
    option, sign, value = word.partition("=")
    try:
        told = json.dumps(literal_eval(value)) if value == "None" or value[:1] in ("[", "{") else value
    except (ValueError, SyntaxError, TypeError):
        told = value
    return f"{option}{sign}{told}"
