"""Values out of a JSON object; a ValueError says what was expected and what came."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def check_object(content: object) -> dict[str, Any]:
    """A JSON object of schema 1.

    Raises:
        ValueError: it is something else.
    """
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, got {type(content).__name__}")
    if content.get("schema", 1) != 1:
        raise ValueError(f"expected schema 1, got {content['schema']!r}; update kdlightning to read it")
    return content


def read_text(content: Mapping[str, Any], key: str) -> str | None:
    """A string; None where it is missing or null.

    Raises:
        ValueError: it is something else.
    """
    value = content.get(key)
    if not isinstance(value, str | None):
        raise ValueError(f"{key}: expected a string, got {value!r}")
    return value


def read_number(content: Mapping[str, Any], key: str) -> float | None:
    """A number; None where it is missing, null, or not finite.

    Raises:
        ValueError: it is something else.
    """
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise ValueError(f"{key}: expected a number, got {value!r}")
    return None if value is None or not math.isfinite(value) else value


def read_whole(content: Mapping[str, Any], key: str) -> int | None:
    """A whole number that is not negative; None where it is missing or null.

    Raises:
        ValueError: it is something else.
    """
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int | None) or (value or 0) < 0:
        raise ValueError(f"{key}: expected a whole number that is not negative, got {value!r}")
    return value


def read_fraction(content: Mapping[str, Any], key: str) -> float | None:
    """A number in [0, 1]; None where it is missing or null.

    Raises:
        ValueError: it is something else.
    """
    value = read_number(content, key)
    if value is not None and not 0 <= value <= 1:
        raise ValueError(f"{key}: expected a fraction in [0, 1], got {value!r}")
    return value


def required(value: T | None, key: str) -> T:
    """A value that has to be there.

    Raises:
        ValueError: it is not.
    """
    if value is None:
        raise ValueError(f"missing {key}")
    return value
