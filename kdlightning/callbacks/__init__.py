"""What watches a run without being part of the method."""

from kdlightning.callbacks.agreement import Agreement
from kdlightning.callbacks.confusion import ConfusionMatrix
from kdlightning.callbacks.generation import GeneratorQuality, ImageGrid
from kdlightning.callbacks.privacy import PoolPrivacy
from kdlightning.callbacks.progress import RunProgress
from kdlightning.callbacks.queries import QueryLogger
from kdlightning.callbacks.result import RunResult

__all__ = [
    "Agreement", "ConfusionMatrix", "GeneratorQuality", "ImageGrid", "PoolPrivacy", "QueryLogger", "RunProgress",
    "RunResult",
]  # fmt: skip
