"""How near the images of a pool come to the local images: what `PoolPrivacy` has written beside the pool."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdlightning.report import text
from kdlightning.report.checks import check_object, read_fraction, read_number, read_text, read_whole, required

PRIVACY_FILE = "privacy.json"
QUANTILES = (0, 1, 5, 50)  # %, in tables
_POINTS = 101


@dataclass(frozen=True, kw_only=True)
class Nearness:
    """Distances to the nearest local image in one space.

    Attributes:
        space: ``"pixels"``, or ``"features"``.
        pool: 0, 1, ..., 100 % quantiles of pool images' distances.
        held_out: the same of held-out real images.
        threshold: the held-out distances' quantile at `Privacy.level`.
        share: of pool images that are at most so far from a local one, in [0, 1].
        expected: that share if pool images were held-out images.
        by_chance: its 95 % quantile if they were.
        copies: pool images at distance 0.
    """

    space: str
    pool: tuple[float, ...]
    held_out: tuple[float, ...]
    threshold: float
    share: float
    expected: float
    by_chance: float | None
    copies: int | None


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """What is known of pools with the same images.

    Attributes:
        paths: their directories.
        dataset: data set of the local images.
        pool_images: pool images that were compared.
        local_images: local images, all of them.
        held_out_images: held-out real images that were compared.
        level: quantile of the held-out distances that is the threshold.
        network: whose features; None for pixels only.
        spaces: the distances in each space.
    """

    paths: tuple[Path, ...]
    dataset: str
    pool_images: int
    local_images: int
    held_out_images: int
    level: float
    network: str | None
    spaces: tuple[Nearness, ...]

    @property
    def label(self) -> str:
        """The pools' names, ``"pool-hard, pool-soft"``."""
        return ", ".join(path.name for path in self.paths)

    def statement(self, space: Nearness) -> str:
        """What the distances in one space say about a leak, and what they do not.

        Args:
            space: one of ``spaces``.

        Returns:
            A sentence.
        """
        where = "pixels in [0, 1]" if space.space == "pixels" else f"{self.network}'s features"
        chance = (
            "" if space.by_chance is None else f"; by chance, up to {text.percent(space.by_chance)} % of such a pool"
        )
        said = (
            f"In {where}, {text.percent(space.share)} % of {self.pool_images:,} pool images lie within "
            f"{text.decimal(space.threshold)} of one of {self.local_images:,} local images, where "
            f"{text.percent(space.expected)} % of new real images would ({self.held_out_images:,} compared{chance}): "
        )
        limit = space.expected if space.by_chance is None else space.by_chance
        if space.share > limit:
            return f"{said}the pool comes nearer to local images than new real images do."
        return f"{said}no sign of copying at this distance, which is no proof of privacy."


def parse_privacy(path: Path, content: object) -> Privacy:
    """Check one ``privacy.json``.

    Args:
        path: the file.
        content: what it holds.

    Returns:
        The distances.

    Raises:
        ValueError: what is wrong with it.
    """
    record = check_object(content)
    spaces = record.get("spaces")
    if not isinstance(spaces, dict) or not spaces:
        raise ValueError(f"spaces: expected distances in pixels or features, got {spaces!r}")
    return Privacy(
        paths=(path.parent,),
        dataset=read_text(record, "dataset") or "unnamed data set",
        pool_images=required(read_whole(record, "pool_images"), "pool_images"),
        local_images=required(read_whole(record, "local_images"), "local_images"),
        held_out_images=required(read_whole(record, "held_out_images"), "held_out_images"),
        level=required(read_fraction(record, "level"), "level"),
        network=read_text(record, "network"),
        spaces=tuple(_parse_space(name, space) for name, space in spaces.items()),
    )


def merge_privacy(entries: Iterable[Privacy]) -> list[Privacy]:
    """Pools with the same images, asked with another access, have the same distances: say them once.

    Args:
        entries: in any order.

    Returns:
        One entry for each set of images, in order of appearance.
    """
    merged: dict[Privacy, Privacy] = {}
    for entry in entries:
        key = replace(entry, paths=())
        merged[key] = replace(key, paths=(*merged[key].paths, *entry.paths)) if key in merged else entry
    return list(merged.values())


def _parse_space(name: str, content: object) -> Nearness:
    space = check_object(content)
    return Nearness(
        space=name,
        pool=_parse_quantiles(space, "pool"),
        held_out=_parse_quantiles(space, "held_out"),
        threshold=required(read_number(space, "threshold"), "threshold"),
        share=required(read_fraction(space, "share"), "share"),
        expected=required(read_fraction(space, "share_expected"), "share_expected"),
        by_chance=read_fraction(space, "share_by_chance"),
        copies=read_whole(space, "copies"),
    )


def _parse_quantiles(space: Mapping[str, Any], key: str) -> tuple[float, ...]:
    values = space.get(key)
    if not isinstance(values, list) or len(values) != _POINTS:
        raise ValueError(f"{key}: expected the quantiles at 0, 1, ..., 100 %")
    return tuple(required(read_number({key: value}, key), key) for value in values)
