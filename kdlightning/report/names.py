"""Names that users give, as a figure can show them: on one line, not too long, in fonts that are there."""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

_BASE = "DejaVu Sans"  # comes with Matplotlib
_MOST = 32  # characters
_SHOWN = 40  # names that a note lists


def one_line(name: str, most: int = _MOST) -> str:
    """A name without line breaks, and without its middle where it is longer than ``most`` characters."""
    flat = " ".join(name.split())
    return flat if len(flat) <= most else f"{flat[: most - most // 3 - 1]}…{flat[len(flat) - most // 3 :]}"


def families(texts: Iterable[str]) -> list[str]:
    """Font families that together draw all that can be drawn of some texts; the first one draws what it can."""
    return list(_fonts("".join(sorted(set("".join(texts)))))[0])


def drawable(name: str, most: int = _MOST) -> str:
    """A name on one line, with a box for every character that no font here can draw."""
    missing = _fonts("".join(sorted(set(name))))[1]
    return "".join("□" if one in missing else one for one in one_line(name, most))


def labels(names: Sequence[str]) -> list[str]:
    """What stands for each name on an axis: the name, or its number in brackets where no font here can draw it."""
    missing = _fonts("".join(sorted(set("".join(names)))))[1]
    return [f"({number})" if missing & set(name) else one_line(name) for number, name in enumerate(names)]


def note(names: Sequence[str]) -> str:
    """Which names :func:`labels` shows as numbers, in a sentence; empty if it shows them all."""
    drawn = labels(names)
    replaced = [
        f"{short} {one_line(name)}" for short, name in zip(drawn, names, strict=True) if short != one_line(name)
    ]
    more = ", …" if len(replaced) > _SHOWN else ""
    told = f"Names that no font on this machine can draw are numbered: {', '.join(replaced[:_SHOWN])}{more}."
    return told if replaced else ""


@cache
def _fonts(characters: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """Families that draw these characters, and the characters that none of them can draw."""
    base = get_font(findfont(FontProperties(family=_BASE)))
    unseen = {one for one in characters if one.isspace() or unicodedata.category(one) in ("Cf", "Mn", "Cc")}
    missing = {one for one in characters if one not in unseen and not base.get_char_index(ord(one))}
    chosen = [_BASE]
    for entry in sorted(fontManager.ttflist, key=lambda entry: (entry.style != "normal", str(entry.weight) != "400")):
        if not missing:
            break
        if "Last Resort" in entry.name:  # it has a box for everything
            continue
        font = get_font(entry.fname)
        if found := {one for one in missing if font.get_char_index(ord(one))}:
            chosen.append(entry.name)
            missing -= found
    return tuple(dict.fromkeys(chosen)), frozenset(missing)
