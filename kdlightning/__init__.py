"""Distil classifiers you cannot open with data you cannot have."""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from kdlightning.moved import Redirect

if TYPE_CHECKING:
    from kdlightning.start import Distilled as Distilled
    from kdlightning.start import distil as distil

__version__ = "0.1.0"

sys.meta_path.insert(0, Redirect())


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the front door, imported when somebody comes in: it needs torch
    if name not in ("Distilled", "distil"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("kdlightning.start"), name)
