"""Options that stand in a group: an object of their class, or a mapping, as a configuration file has them."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

Group = TypeVar("Group")


def group_of(kind: type[Group], given: "Group | Mapping[str, Any] | None", name: str) -> Group:
    """The group of options ``name``: the given one, or one that is made of a mapping; of None, with all its defaults.

    Raises:
        ValueError: a value that an option does not take.
        TypeError: anything else, an option that the group has not, or a value of another type.
    """
    if isinstance(given, kind):
        return given
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # a dataclass
    options = {} if given is None else given
    if not isinstance(options, Mapping) or (unknown := [key for key in options if key not in known]):
        odd = repr(given) if not isinstance(options, Mapping) else ", ".join(map(str, unknown))
        raise TypeError(f"{name}: expected a {kind.__name__}, or a dict with {', '.join(known)}; got {odd}")
    try:
        return kind(**options)
    except TypeError as error:
        raise TypeError(f"{name}: expected a {kind.__name__}, got {dict(options)} ({error})") from error
