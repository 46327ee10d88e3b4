"""Distil classifiers you cannot open with data you cannot have."""

import sys

from kdlightning.moved import Redirect

__version__ = "0.1.0"

sys.meta_path.insert(0, Redirect())
