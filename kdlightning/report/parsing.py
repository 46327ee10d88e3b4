"""The content of a JSON file → a frozen model, or one sentence for what is wrong with it."""

import math
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import PydanticCustomError


class Record(BaseModel):
    """What a file says; keys that no field is named after are ignored."""

    model_config = ConfigDict(frozen=True)


R = TypeVar("R", bound=Record)
_OWN = "expected"  # the type of the errors that are worded here


def parse(kind: type[R], content: object, **found: object) -> R:
    """Check the content of a JSON file.

    Args:
        kind: what it should be.
        content: what the file holds.
        found: what is known of the file, such as its path; it stands above the content's own.

    Returns:
        The record.

    Raises:
        ValueError: a sentence with the field, what was expected and what came.
    """
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, got {type(content).__name__}")
    if content.get("schema", 1) != 1:
        raise ValueError(f"expected schema 1, got {content['schema']!r}; update kdlightning to read it")
    try:
        return kind.model_validate({**content, **found})
    except ValidationError as error:
        named = [(".".join(part for part in one["loc"] if isinstance(part, str)), one) for one in error.errors()]
    if missing := [name for name, one in named if one["type"] == "missing"]:
        raise ValueError(f"missing {', '.join(missing)}")
    name, first = named[0]
    said = first["msg"] if first["type"] == _OWN else f"{first['msg']}, got {reprlib.repr(first['input'])}"
    raise ValueError(f"{name}: {said}" if name else said)


def expected(what: str) -> WrapValidator:
    """Say in these words what a field takes; what is wrong inside of it keeps its own."""

    def check(value: object, handler: ValidatorFunctionWrapHandler) -> object:
        try:
            return handler(value)
        except ValidationError as error:
            if any(one["loc"] for one in error.errors()):
                raise
            said = {"what": what, "value": reprlib.repr(value)}
            raise PydanticCustomError(_OWN, "expected {what}, got {value}", said) from None

    return WrapValidator(check)


def require_square(key: str, rows: tuple[tuple[Any, ...], ...], classes: int) -> None:
    """Refuse what is no matrix of classes by classes."""
    if [len(row) for row in rows] != [classes] * classes:
        said = "{key}: expected {classes} rows of {classes} numbers, one per class name"
        raise PydanticCustomError(_OWN, said, {"key": key, "classes": classes})


_FINITE = Field(strict=True, allow_inf_nan=False)
_SHARE = Field(strict=True, ge=0, le=1, allow_inf_nan=False)
_NAME = Annotated[str, Field(coerce_numbers_to_str=True)]
Text = Annotated[str, expected("a string")]
Whole = Annotated[int, Field(strict=True, ge=0), expected("a whole number that is not negative")]
Seed = Annotated[int, Field(strict=True), expected("a whole number")]
Number = Annotated[float, _FINITE, expected("a number")]
Duration = Annotated[float, _FINITE, Field(ge=0), expected("a number that is not negative")]
Fraction = Annotated[float, _SHARE, expected("a fraction in [0, 1]")]
Role = Annotated[Literal["teacher", "reference", "student"], expected("one of teacher, reference, student")]
Versions = Annotated[Mapping[str, str], expected("an object of texts")]
Names = Annotated[tuple[_NAME, ...], Field(min_length=1), expected("a list of names")]
DatasetName = Annotated[Text, BeforeValidator(lambda name: "unnamed data set" if name is None else name)]
# a quality that could not be measured is NaN in a generator's file
Quality = Annotated[
    Number | None,
    BeforeValidator(lambda value: None if isinstance(value, float) and not math.isfinite(value) else value),
]
Quantiles = Annotated[
    tuple[Number, ...], Field(min_length=101, max_length=101), expected("the quantiles at 0, 1, ..., 100 %, finite")
]
