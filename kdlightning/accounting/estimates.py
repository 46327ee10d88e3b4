"""What a run was thought to cost when it began, kept in its directory until it can be told beside what it did cost."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdlightning.accounting.accounts import Cost
from kdlightning.accounting.meter import METER, QueryMeter

FILE = "estimate.json"
_NAMES = ("price_estimated_least", "price_estimated", "price_estimated_most")


def remember(directory: Path, price: tuple[float, float, float]) -> None:
    """Keep the least, the expected and the most money, unless images were paid there: the run began before that."""
    with suppress(ValueError):  # a damaged count: whoever counts there says so
        if not QueryMeter().counted(directory / METER, unknown=True).queries:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / FILE).write_text(json.dumps(dict(zip(_NAMES, price, strict=True))), encoding="utf-8")


def outcome(directory: Path, cost: Cost) -> dict[str, Any]:
    """For a record: money and tokens that were paid, beside the estimate; nothing where neither was."""
    paid = {name: value for name, value in cost._asdict().items() if not name.startswith("bytes")}
    told: dict[str, Any] = {}
    with suppress(OSError, ValueError):
        told = json.loads((directory / FILE).read_text(encoding="utf-8"))
    return {**paid, **told} if any(paid.values()) or told else {}
