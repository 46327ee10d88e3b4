"""Distil classifiers you cannot open with data you cannot have."""

__version__ = "0.1.0"
