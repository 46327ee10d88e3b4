"""Where something stands in a JSON value: names and positions with dots between, also into JSON inside a text."""

import json
import re
from contextlib import suppress
from typing import Any

from kdlightning.remote.protocol import ProtocolError, shorten

_FENCE = re.compile(r"```[\w+-]*[ \t]*\n?(.*?)```", re.DOTALL)
_OPENS = re.compile(r"[\[{]")
_NOTHING = object()


def at(path: str, value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """What is in a JSON value at a path (``outputs.0.scores``; -1 is the last of a list); at an empty one, all.

    A text on the way is entered where JSON is in it, alone, between the marks of a code fence, or after other words.

    Raises:
        ProtocolError: nothing is.
    """
    steps = [step for step in path.split(".") if step]
    for number, step in enumerate(steps):
        try:
            value = embedded(value) if isinstance(value, str) else value
            value = value[int(step) if isinstance(value, list) else step]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            before = f"{'.'.join(steps[:number])!r} of " if number else ""
            wanted = f"'{step}' of the path '{path}' in {before}the answer"
            raise ProtocolError(f"expected {wanted}, got {shorten(json.dumps(value))}") from error
    return value


def found(path: str, value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The same; None where nothing is."""
    with suppress(ProtocolError):
        return at(path, value)
    return None


def unfenced(text: str) -> str:
    """What is between the marks of the first code fence; without one, all of the text."""
    inside = _FENCE.search(text)
    return text if inside is None else inside[1]


def embedded(text: str) -> Any:  # noqa: ANN401 - any JSON value
    """The JSON list or object in a text; a ValueError if there is none."""
    text = unfenced(text).strip()
    decoder, start = json.JSONDecoder(), _OPENS.search(text)
    while start is not None:
        with suppress(ValueError, RecursionError):
            return decoder.raw_decode(text, start.start())[0]
        start = _OPENS.search(text, start.end())
    raise ValueError("no JSON")
