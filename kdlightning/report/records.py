"""The records of finished runs: a model for each kind of file; None stands for what a file does not state.

The content of a JSON file becomes a frozen model, or one sentence for what is wrong with it.
"""

import math
import reprlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError, WrapValidator, model_validator
from pydantic_core import PydanticCustomError
from pydantic_core.core_schema import ValidationInfo

from kdlightning.report import text

SHOWN = 100  # files of a pool that a page names
_LEAKS = "the pool comes nearer to local images than new real images do."
_NO_SIGN = "no sign of copying at this distance, which is no proof of privacy."


class ReportError(RuntimeError):
    """A report could not be made; the message says what was looked for, where, and what to do."""


class Record(BaseModel):
    """What a file says; keys that no field is named after are ignored."""

    model_config = {"frozen": True}


R = TypeVar("R", bound=Record)
T = TypeVar("T")
_OWN = "expected"  # the type of the errors that are worded here


def parse(kind: type[R], content: object, **found: object) -> R:
    """Check the content of a JSON file; what was found out about the file stands above what it says itself.

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


def wrong(sentence: str) -> PydanticCustomError:
    """The error of a check of one's own."""
    return PydanticCustomError(_OWN, "{sentence}", {"sentence": sentence})


def expected(what: str, holds: Callable[[Any], object] = lambda _: True) -> WrapValidator:
    """Say in these words what a field takes, and what holds for it; what is wrong inside of it keeps its own."""

    def check(value: object, handler: Callable[[object], object]) -> object:
        try:
            if holds(read := handler(value)):
                return read
        except ValidationError as error:
            if any(one["loc"] for one in error.errors()):
                raise
        raise wrong(f"expected {what}, got {reprlib.repr(value)}")

    return WrapValidator(check)


def _square(rows: tuple[tuple[T, ...], ...], info: ValidationInfo) -> tuple[tuple[T, ...], ...]:
    """Refuse what is no matrix of classes by classes."""
    classes = len(info.data.get("class_names", ()))
    if [len(row) for row in rows] != [classes] * classes:
        raise wrong(f"expected {classes} rows of {classes} numbers, one per class name")
    return rows


def _point(value: object) -> object:
    """Finite numbers by their names; older records have none."""
    told: dict[Any, Any] = value if isinstance(value, dict) else {"": value}
    fine = all(name.strip() and type(one) in (int, float) and math.isfinite(one) for name, one in told.items())
    if value is not None and not fine:
        raise wrong(f"expected finite numbers by their names, such as images: 200, got {reprlib.repr(value)}")
    return value or {}


_NUMBER = Field(strict=True, allow_inf_nan=False)
Text = Annotated[str, expected("a string")]
Whole = Annotated[int, Field(strict=True, ge=0), expected("a whole number that is not negative")]
Seed = Annotated[int, Field(strict=True), expected("a whole number")]
Number = Annotated[float, _NUMBER, expected("a number")]
Duration = Annotated[float, _NUMBER, Field(ge=0), expected("a number that is not negative")]
Fraction = Annotated[float, _NUMBER, Field(ge=0, le=1), expected("a fraction in [0, 1]")]
Role = Annotated[Literal["teacher", "reference", "student"], expected("one of teacher, reference, student")]
Point = Annotated[Mapping[str, int | float], BeforeValidator(_point)]
Versions = Annotated[Mapping[str, str], expected("an object of texts")]
Names = Annotated[tuple[Annotated[str, Field(coerce_numbers_to_str=True)], ...], expected("a list of names", bool)]
DatasetName = Annotated[Text, BeforeValidator(lambda name: "unnamed data set" if name is None else name)]
# an int where it is whole
Mean = Annotated[Duration, AfterValidator(lambda mean: int(mean) if mean == int(mean) else mean)]
# a quality that could not be measured is NaN in a generator's file
_finite = BeforeValidator(lambda value: None if isinstance(value, float) and not math.isfinite(value) else value)
Quality = Annotated[Number | None, _finite]
PerClasses = Annotated[tuple[tuple[T, ...], ...], AfterValidator(_square)]
_unmeasured = BeforeValidator(lambda rows: None if rows == [] else rows)
_HUNDRED_AND_ONE = expected("the quantiles at 0, 1, ..., 100 %, finite", lambda values: len(values) == 101)
Quantiles = Annotated[tuple[Number, ...], _HUNDRED_AND_ONE]


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
    access: Text | None  #: what the teacher answers with: ``"hard"``, ``"topk"``, ``"soft"``, ``"white"``, ``"labels"``
    point: Point = {}  #: where it lies on a curve, ``{"images": 200}``; the same for all rows that are compared there

    @property
    def key(self) -> tuple[object, ...]:
        """All of it."""
        told = self.__dict__ | {"point": tuple(sorted(self.point.items()))}
        return tuple(told[name] for name in Compared.model_fields)

    @property
    def title(self) -> str:
        """Method, variant, student and point, ``"DB3KD (mbd), LeNet5Fifth, images 200"``."""
        return ", ".join(part for part in (self.label, self.student, self.place) if part)

    @property
    def place(self) -> str:
        """The point in words, ``"images 1,000, share 0.1"``; empty where there is none."""
        return ", ".join(f"{name} {text.decimal(value)}" for name, value in self.point.items())


class Finished(Named):
    """What every finished run says of itself."""

    path: Path  #: the file it was read from
    queries: Whole | None = None  #: images that the teacher answered, the transfer set's included
    seconds: Duration | None = None  #: training time
    train_images: Whole | None = None  #: images that it was trained on, local ones for a generator
    commit: Text | None = None
    hardware: Text | None = None
    versions: Versions | None = None  #: package → version
    config: Text | None = None  #: path of the run's configuration


class Run(Compared, Finished):
    """A finished run: ``result.json``, which the callback `RunResult` writes. Shares are in [0, 1]."""

    modified: int  #: the file's modification time in nanoseconds
    seed: Seed
    #: on the test images, of the weights in ``checkpoint``; None where they have no labels, or there are none
    accuracy: Fraction | None
    accuracy_best: Fraction | None = None  #: the same of the validation-selected checkpoint, for information only
    val_accuracy: Fraction | None = None
    agreement: Fraction | None = None  #: share of test images on which student and teacher name the same class
    tested_on: Text | None = None  #: ``"test"``, ``"validation"`` or ``"held out"``: whose images these are
    test_images: Whole | None = None  #: how many were measured
    test_images_there: Whole | None = None  #: how many there are
    test_fingerprint: Text | None = None  #: of these images and their labels, as they were measured
    teacher_accuracy: Fraction | None = None  #: on the same images
    teacher_parameters: Whole | None = None
    teacher_fingerprint: Text | None = None
    parameters: Whole | None = None
    macs: Whole | None = None  #: multiply-accumulates per image
    bytes_up: Whole | None = None  #: sent to the teacher
    bytes_down: Whole | None = None  #: received from the teacher
    checkpoint: Text | None = None  #: which weights were tested
    settings: Mapping[str, object] = {}  #: of the method; older records do not tell them
    fingerprint: Text | None = None  #: of the network: SHA-256 of its weights; None in older records
    sequential: bool = False  #: its seeds were added until there was a verdict (`kdlightning run --seeds auto`)

    @property
    def time(self) -> tuple[int, str]:
        """What sorts runs by when they ended."""
        return self.modified, str(self.path)


class Row(Compared):
    """One line of the comparison: the seeds of all that is the same in `Compared`."""

    accuracy_mean: Fraction | None  #: mean test accuracy over the seeds, in [0, 1]; None unless every seed has it
    #: sample standard deviation of the test accuracy over the seeds; None for one seed (0.0 in older records)
    accuracy_std: Fraction | None
    seeds: list[Seed]  #: the seeds, sorted
    agreement: Fraction | None  #: mean over the seeds in [0, 1]; None unless every seed has it, like all means
    parameters: Whole | None  #: the seeds' common value; None where they differ
    macs: Whole | None  #: the seeds' common value; None where they differ
    queries: Mean | None  #: mean over the seeds, an int where it is whole
    bytes_up: Mean | None  #: as above
    bytes_down: Mean | None  #: as above
    seconds: Duration | None  #: mean over the seeds
    checkpoint: Text | None  #: the seeds' common value, else ``"mixed"``
    commit: Text | None  #: the seeds' values, ``"abc1234, abc1234+"``; None where none is stated (once ``"mixed"``)
    hardware: Text | None = None  #: the same; like all that follows, None in older records
    versions: Versions | None = None  #: package → version, ``"mixed"`` where the seeds differ
    accuracies: list[Fraction] | None = None  #: of the seeds, in their order, in [0, 1]; last checkpoints
    accuracies_best: list[Fraction] | None = None  #: of the seeds' validation-selected checkpoints, in [0, 1]
    configs: list[str] | None = None  #: 12 digits of their files' SHA-256; None unless all of them are there
    agreement_std: Fraction | None = None  #: sample standard deviation of the agreement; None for one seed
    teacher_fingerprint: Text | None = None  #: the seeds' common value, else ``"mixed"``
    fingerprints: list[Text] | None = None  #: of the seeds' networks, in their order; None unless all are known
    test_images: Whole | None = None  #: that were measured; the seeds' common value
    test_fingerprints: list[Text] | None = None  #: of these images, for each seed; None unless all are known
    sequential: bool = False  #: seeds were added until there was a verdict

    def flat(self) -> dict[str, str | float | None]:
        """All fields as single values: what a list or a mapping holds is separated by spaces."""
        fields = self.model_dump()
        for key, value in fields.items():
            several = [f"{name}={one}" for name, one in value.items()] if isinstance(value, dict) else value
            fields[key] = " ".join(map(str, several)) if isinstance(several, list) else value
        return fields


class GeneratorRun(Finished):
    """A finished run that trained a generator, which has no accuracy."""

    variant: Text | None = None
    dataset: Text | None = None  #: data set of the local images
    teacher: Text | None = None  #: the teacher's network; None if nothing was asked
    access: Text | None = None  #: what the teacher answers with; None if nothing was asked
    generator: Text | None = None  #: its network
    critic: Text | None = None  #: the critic's network
    seed: Whole | None = None
    features: Text | None = None  #: whose features are compared; values of two extractors cannot be
    fid: Quality = None  #: Fréchet distance of generated and local images' features
    kid: Quality = None  #: kernel distance of the same; an estimate, which may be below 0
    class_entropy: Quality = None  #: of the classes seen in generated images; 1: all alike often, 0: one class only
    class_least: Fraction | None = None  #: share of the rarest class in [0, 1]
    diversity: Quality = None  #: mean distance of two generated images' features over that of two local ones
    confidence: Fraction | None = None  #: mean top probability in [0, 1]
    class_histogram: Annotated[tuple[Whole, ...], expected("a list of counts")] | None = None  #: images of each class

    @model_validator(mode="before")
    @classmethod
    def _lift(cls, content: dict[str, Any]) -> dict[str, Any]:
        """The file keeps what was measured in an object of its own."""
        quality = content.get("quality") or {}
        if not isinstance(quality, dict):
            raise wrong(f"quality: expected an object, got {quality!r}")
        return {**quality, **content}

    def record(self) -> dict[str, Any]:
        """What a report keeps of it as JSON: everything but where it lay."""
        return self.model_dump(exclude={"path", "config"})


class Curve(NamedTuple):
    """Distances against queries per pair; all of the same length."""

    queries: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


_CURVE = expected(
    "queries, mean and std, three lists of the same length", lambda curve: len(set(map(len, curve))) == 1 and curve[0]
)


class TransferSet(Record):
    """How far the teacher's classes lie from each other: a transfer set's ``manifest.json``."""

    path: Path  #: the transfer set's directory
    dataset: DatasetName = "unnamed data set"  #: data set that the images come from
    robustness: Text | None = None  #: which distance was measured: ``"sd"``, ``"bd"`` or ``"mbd"``
    class_names: Names  #: names of the K classes
    queries: Whole | None = None  #: images that the teacher answered for it
    #: K rows (teacher's class of an image) of K columns (target class), mean L2 distances of pixels in [0, 1]; None
    #: where there is no pair
    mean_distance: Annotated[PerClasses[Number | None] | None, _unmeasured] = None
    distance_curve: Annotated[Curve, _CURVE] | None = None


class Bill(Record):
    """What a transfer set, or a run that asked as it trained, was thought to cost, and did; in any one currency."""

    path: Path  #: its directory
    queries: Whole | None = None  #: images that the teacher answered
    input_tokens: Whole | None = None
    output_tokens: Whole | None = None
    price: Duration | None = None  #: paid
    price_estimated: Duration | None = None  #: when it began, at the mean price of an image; None: nobody knew it
    price_estimated_least: Duration | None = None
    price_estimated_most: Duration | None = None


class Counts(Record):
    """Test images by two classes: ``confusion.json`` beside a run."""

    class_names: Names  #: names of the K classes
    counts: PerClasses[Whole]  #: images, K rows (class by the label) of K columns (class by the student)


class Confusion(Counts, Compared):
    """The test images of one student by their class and by the student's, over its seeds."""

    role: Role = "student"
    seeds: tuple[int, ...]  #: the seeds that are added up, sorted

    @property
    def label(self) -> str:
        """Method, variant, student, access and point, ``"DB3KD (mbd), LeNet5Fifth, hard"``."""
        return ", ".join(part for part in (super().label, self.student, self.access, self.place) if part)


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
    spaces: Annotated[Mapping[str, Nearness], expected("distances in pixels or features", bool)]  #: by these two names

    @property
    def label(self) -> str:
        """The pools' names, ``"pool-hard, pool-soft"``."""
        return ", ".join(path.name for path in self.paths)

    @property
    def statements(self) -> list[str]:
        """For each space a sentence: what its distances say about a leak, and what they do not."""
        where = {"pixels": "pixels in [0, 1]", "features": f"{self.network}'s features"}
        return [self._statement(where.get(name, where["features"]), space) for name, space in self.spaces.items()]

    def _statement(self, where: str, space: Nearness) -> str:
        likely = space.share_by_chance
        chance = "" if likely is None else f"; by chance, up to {text.percent(likely)} % of such a pool"
        leaks = space.share > (space.share_expected if likely is None else likely)
        return (
            f"In {where}, {text.percent(space.share)} % of {self.pool_images:,} pool images lie within "
            f"{text.decimal(space.threshold)} of one of {self.local_images:,} local images, where "
            f"{text.percent(space.share_expected)} % of new real images would ({self.held_out_images:,} "
            f"compared{chance}): {_LEAKS if leaks else _NO_SIGN}"
        )


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
