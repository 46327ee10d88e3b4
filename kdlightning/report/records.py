"""The records of finished runs: a model for each kind of file."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from kdlightning.report import text
from kdlightning.report.parsing import (
    DatasetName,
    Duration,
    Fraction,
    Names,
    Number,
    Quality,
    Quantiles,
    Record,
    Role,
    Seed,
    Text,
    Versions,
    Whole,
    expected,
    require_square,
)

SHOWN = 100  # files of a pool that a page names


class ReportError(RuntimeError):
    """A report could not be made; the message says what was looked for, where, and what to do."""


class Named(Record):
    """What was run."""

    method: Text  #: acronym of the method, ``"DB3KD"``
    variant: Text | None  #: which of the method's variants, ``"mbd"``; None where there is one only

    @property
    def label(self) -> str:
        """Method and variant, ``"DB3KD (mbd)"``."""
        return f"{self.method} ({self.variant})" if self.variant else self.method


class Compared(Named):
    """What tells the rows of a comparison apart."""

    role: Role  #: ``"teacher"``, ``"reference"`` (not distilled through the black box) or ``"student"``
    dataset: Text  #: data set that the accuracy is for
    teacher: Text | None  #: teacher's network; None for a network without one
    student: Text  #: network that was trained (a teacher's own network, for a teacher)
    access: Text | None  #: what the teacher answers with (``"hard"``, ``"soft"``, ``"white"``, ``"labels"``) or None

    @property
    def key(self) -> tuple[str | None, ...]:
        """All of it."""
        return tuple(getattr(self, name) for name in Compared.model_fields)


class Finished(Named):
    """What every finished run says of itself; None where it does not."""

    path: Path  #: the file it was read from
    queries: Whole | None = None  #: images that the teacher answered, the transfer set's included
    seconds: Duration | None = None  #: training time
    train_images: Whole | None = None  #: images that it was trained on, local ones for a generator
    commit: Text | None = None  #: the code's commit
    hardware: Text | None = None  #: what it ran on
    versions: Versions | None = None  #: package → version
    config: Text | None = None  #: path of the run's configuration


class Run(Compared, Finished):
    """A finished run: ``result.json``, which the callback `RunResult` writes."""

    modified: int  #: the file's modification time in nanoseconds
    seed: Seed  #: seed of the run
    accuracy: Fraction  #: test accuracy in [0, 1] at ``checkpoint``
    #: test accuracy in [0, 1] of the validation-selected checkpoint, for information only
    accuracy_best: Fraction | None = None
    val_accuracy: Fraction | None = None  #: validation accuracy in [0, 1]
    #: share of test images in [0, 1] on which student and teacher name the same class
    agreement: Fraction | None = None
    parameters: Whole | None = None  #: number of the network's parameters
    macs: Whole | None = None  #: multiply-accumulates per image
    bytes_up: Whole | None = None  #: bytes sent to the teacher
    bytes_down: Whole | None = None  #: bytes received from the teacher
    checkpoint: Text | None = None  #: which weights were tested


class GeneratorRun(Finished):
    """A finished run that trained a generator, which has no accuracy; None for what its file does not state."""

    variant: Text | None = None
    dataset: Text | None = None  #: data set of the local images
    #: the teacher's network; None if nothing was asked, like ``access``, what the teacher answers with
    teacher: Text | None = None
    generator: Text | None = None  #: its network
    critic: Text | None = None  #: the critic's network
    access: Text | None = None
    seed: Whole | None = None  #: seed of the run
    fid: Quality = None  #: Fréchet distance of generated and local images' features
    kid: Quality = None  #: kernel distance of the same; an estimate, which may be below 0
    features: Text | None = None  #: whose features those are; values of two extractors cannot be compared
    #: of the classes seen in the generated images; 1: all alike often, 0: one class only
    class_entropy: Quality = None
    class_least: Fraction | None = None  #: share of the rarest class in [0, 1]
    diversity: Quality = None  #: mean distance of two generated images' features over that of two local ones
    confidence: Fraction | None = None  #: mean top probability in [0, 1]
    #: generated images of each class
    class_histogram: Annotated[tuple[Whole, ...], expected("a list of counts")] | None = None

    @model_validator(mode="before")
    @classmethod
    def _lift(cls, content: dict[str, Any]) -> dict[str, Any]:
        """The file keeps what was measured in an object of its own."""
        quality = content.get("quality") or {}
        if not isinstance(quality, dict):
            said = {"value": repr(quality)}
            raise PydanticCustomError("expected", "quality: expected an object, got {value}", said)
        return {**quality, **content}

    def record(self) -> dict[str, Any]:
        """What a report keeps of it as JSON: everything but where it lay."""
        return self.model_dump(exclude={"path", "config"})


class Curve(NamedTuple):
    """Distances against queries per pair; all of the same length."""

    queries: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def _require_even(curve: Curve) -> Curve:
    if not len(curve.queries) == len(curve.mean) == len(curve.std) > 0:
        raise ValueError
    return curve


class TransferSet(Record):
    """How far the teacher's classes lie from each other: a transfer set's ``manifest.json``."""

    path: Path  #: the transfer set's directory
    dataset: DatasetName = "unnamed data set"  #: data set that the images come from
    robustness: Text | None = None  #: which distance was measured: ``"sd"``, ``"bd"`` or ``"mbd"``; None if not stated
    class_names: Names  #: names of the K classes
    queries: Whole | None = None  #: images that the teacher answered for it; None if not stated
    #: K rows (teacher's class of an image) of K columns (target class), mean L2 distances of pixels in [0, 1]; None
    #: where there is no pair; None as a whole if nothing was measured
    mean_distance: Annotated[
        tuple[tuple[Number | None, ...], ...] | None,
        AfterValidator(lambda rows: rows if rows and any(cell is not None for row in rows for cell in row) else None),
    ] = None
    #: ``(queries per pair, mean distance, standard deviation)``
    distance_curve: (
        Annotated[
            Curve,
            AfterValidator(_require_even),
            expected("queries, mean and std, three lists of the same length"),
        ]
        | None
    ) = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.mean_distance is not None:
            require_square("mean_distance", self.mean_distance, len(self.class_names))
        return self


class Counts(Record):
    """Test images by two classes: ``confusion.json`` beside a run."""

    class_names: Names  #: names of the K classes
    counts: tuple[tuple[Whole, ...], ...]  #: images, K rows (class by the label) of K columns (class by the student)

    @model_validator(mode="after")
    def _check(self) -> Self:
        require_square("counts", self.counts, len(self.class_names))
        return self


class Confusion(Counts, Compared):
    """The test images of one student by their class and by the student's, over its seeds."""

    role: Role = "student"
    seeds: tuple[int, ...]  #: the seeds that are added up, sorted

    @property
    def label(self) -> str:
        """Method, variant, student and access, ``"DB3KD (mbd), LeNet5Fifth, hard"``."""
        return ", ".join(part for part in (super().label, self.student, self.access) if part)


class Nearness(Record):
    """Distances to the nearest local image in one space."""

    pool: Quantiles  #: 0, 1, ..., 100 % quantiles of pool images' distances
    held_out: Quantiles  #: the same of held-out real images
    threshold: Number  #: the held-out distances' quantile at `Privacy.level`
    share: Fraction  #: of pool images that are at most so far from a local one, in [0, 1]
    share_expected: Fraction  #: that share if pool images were held-out images
    share_by_chance: Fraction | None = None  #: its 95 % quantile if they were
    copies: Whole | None = None  #: pool images at distance 0


class Privacy(Record):
    """What is known of pools with the same images: ``privacy.json``, which `PoolPrivacy` writes beside a pool."""

    paths: tuple[Path, ...]  #: their directories
    dataset: DatasetName = "unnamed data set"  #: data set of the local images
    pool_images: Whole  #: pool images that were compared
    local_images: Whole  #: local images, all of them
    held_out_images: Whole  #: held-out real images that were compared
    level: Fraction  #: quantile of the held-out distances that is the threshold
    network: Text | None = None  #: whose features; None for pixels only
    #: ``"pixels"`` or ``"features"`` → the distances there
    spaces: Annotated[Mapping[str, Nearness], Field(min_length=1), expected("distances in pixels or features")]

    @property
    def label(self) -> str:
        """The pools' names, ``"pool-hard, pool-soft"``."""
        return ", ".join(path.name for path in self.paths)

    @property
    def statements(self) -> list[str]:
        """For each space a sentence: what its distances say about a leak, and what they do not."""
        return [self._statement(name, space) for name, space in self.spaces.items()]

    def _statement(self, name: str, space: Nearness) -> str:
        where = "pixels in [0, 1]" if name == "pixels" else f"{self.network}'s features"
        likely = space.share_by_chance
        chance = "" if likely is None else f"; by chance, up to {text.percent(likely)} % of such a pool"
        said = (
            f"In {where}, {text.percent(space.share)} % of {self.pool_images:,} pool images lie within "
            f"{text.decimal(space.threshold)} of one of {self.local_images:,} local images, where "
            f"{text.percent(space.share_expected)} % of new real images would ({self.held_out_images:,} "
            f"compared{chance}): "
        )
        if space.share > (space.share_expected if likely is None else likely):
            return f"{said}the pool comes nearer to local images than new real images do."
        return f"{said}no sign of copying at this distance, which is no proof of privacy."


class LeftOut(Record):
    """The files of one pool that are no images to train on: ``unusable.json`` beside a run."""

    dataset: Text  #: data set that the pool stands in for
    images: Whole  #: images that were trained on: all others, or a share of them
    files: Whole  #: number of the pool's files
    #: ``(name, reason)`` of those that could not be used
    unusable: Annotated[tuple[tuple[str, str], ...], expected("a list of names and reasons")]
    path: Path  #: the list, beside one of the runs

    @property
    def statement(self) -> str:
        """How many, and why, in one sentence."""
        counted = Counter(why for _, why in self.unusable).most_common()
        reasons = ", ".join(f"{number} {reason}" for reason, number in counted)
        shown = f"the first {SHOWN} are below, " if len(self.unusable) > SHOWN else ""
        return (
            f"{len(self.unusable)} of {self.files} files could not be used ({reasons}); {self.images} images were; "
            f"{shown}all are listed in {self.path}."
        )
