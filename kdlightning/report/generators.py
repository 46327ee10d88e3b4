"""Finished runs that trained a generator: no accuracy, but how near its images are to the local ones."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdlightning.report.checks import check_object, read_fraction, read_number, read_text, read_whole

ROLE = "generator"


@dataclass(frozen=True, kw_only=True)
class GeneratorRun:
    """One finished run of a generator, as its ``result.json`` states it; None where it does not.

    Attributes:
        path: the file it was read from.
        method: which method trained it, ``"MEKDGenerator"``.
        variant: which of the method's variants.
        dataset: data set of the local images.
        teacher: the teacher's network; None if nothing was asked.
        generator: its network.
        critic: the critic's network.
        access: what the teacher answers with; None if nothing was asked.
        seed: seed of the run.
        fid: Fréchet distance of generated and local images' features.
        kid: kernel distance of the same; an estimate, which may be below 0.
        features: whose features those are; values of two extractors cannot be compared.
        class_entropy: of the classes seen in the generated images; 1: all alike often, 0: one class only.
        class_least: share of the rarest class in [0, 1].
        diversity: mean distance of two generated images' features over that of two local ones.
        confidence: mean top probability in [0, 1].
        class_histogram: generated images of each class.
        queries: images that the teacher answered.
        seconds: training time.
        train_images: number of local images.
        commit: the code's commit.
        hardware: what it ran on.
        versions: package → version.
        config: path of the run's configuration.
    """

    path: Path
    method: str
    variant: str | None
    dataset: str | None
    teacher: str | None
    generator: str | None
    critic: str | None
    access: str | None
    seed: int | None
    fid: float | None
    kid: float | None
    features: str | None
    class_entropy: float | None
    class_least: float | None
    diversity: float | None
    confidence: float | None
    class_histogram: tuple[int, ...] | None
    queries: int | None
    seconds: float | None
    train_images: int | None
    commit: str | None = None
    hardware: str | None = None
    versions: Mapping[str, str] | None = None
    config: str | None = None

    @property
    def label(self) -> str:
        """Method and variant, ``"MEKDGenerator (alpha=0)"``."""
        return f"{self.method} ({self.variant})" if self.variant else self.method

    def record(self) -> dict[str, Any]:
        """What a report keeps of it as JSON: everything but where it lay."""
        return {key: value for key, value in asdict(self).items() if key not in {"path", "config"}}


def parse_generator(path: Path, content: object) -> GeneratorRun:
    """Check the ``result.json`` of a generator.

    Args:
        path: the file.
        content: what it holds.

    Returns:
        The run.

    Raises:
        ValueError: what is wrong with it.
    """
    record = check_object(content)
    quality = record.get("quality") or {}
    versions = record.get("versions")
    for key, value in (("quality", quality), ("versions", versions or {})):
        if not isinstance(value, dict):
            raise ValueError(f"{key}: expected an object, got {value!r}")
    if not (method := read_text(record, "method")):
        raise ValueError("missing method")
    names = (
        "variant",
        "dataset",
        "teacher",
        "generator",
        "critic",
        "access",
        "features",
        "commit",
        "hardware",
        "config",
    )
    texts = {key: read_text(record, key) for key in names}
    numbers = {key: read_number(quality, key) for key in ("fid", "kid", "class_entropy", "diversity")}
    fractions = {key: read_fraction(quality, key) for key in ("class_least", "confidence")}
    wholes = {key: read_whole(record, key) for key in ("seed", "queries", "train_images")}
    values: dict[str, Any] = {**texts, **numbers, **fractions, **wholes}
    return GeneratorRun(
        path=path,
        method=method,
        class_histogram=_parse_histogram(record.get("class_histogram")),
        seconds=read_number(record, "seconds"),
        versions=versions,
        **values,
    )


def _parse_histogram(counts: object) -> tuple[int, ...] | None:
    if counts is None or counts == []:
        return None
    if not isinstance(counts, list) or any(not isinstance(count, int) or count < 0 for count in counts):
        raise ValueError(f"class_histogram: expected a list of counts, got {counts!r}")
    return tuple(counts)
