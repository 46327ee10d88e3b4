"""Numbers as people read them."""

from collections.abc import Sequence

DASH = "–"
_BARS = "·▁▂▃▄▅▆▇█"
_MOST_BARS = 40


def percent(fraction: float | None) -> str:
    """A fraction of 1 in percent with two decimals, ``97.12``."""
    return DASH if fraction is None else f"{100 * fraction:.2f}"


def spread(mean: float | None, std: float | None, seeds: int) -> str:
    """Mean ± sample standard deviation in percent, ``97.12 ± 0.30``; one seed has no deviation to state."""
    return percent(mean) + (f" ± {percent(std)}" if seeds > 1 and None not in (mean, std) else "")


def plural(number: int, noun: str) -> str:
    """A number of things, ``2 runs``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def count(number: float | None) -> str:
    """A count in full, with thousands separated, ``1,234,567``."""
    return DASH if number is None else f"{number:,.0f}"


def decimal(number: float | None) -> str:
    """A number with four significant digits, ``0.05123``."""
    if number is None:
        return DASH
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def money(amount: float | None) -> str:
    """Units of a currency: with two decimals, or four significant digits where it is less than ten."""
    return DASH if amount is None else f"{amount:,.2f}" if amount >= 10 else f"{amount:.4g}"


def bars(counts: Sequence[int] | None) -> str:
    """A histogram as a row of bars, the highest one full, a dot for 0; a dash where bars would be too many."""
    if not counts or len(counts) > _MOST_BARS or not max(counts):
        return DASH
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // max(counts))] for count in counts)


def scaled(number: float | None, unit: str = "") -> str:
    """A number with three significant digits and an SI prefix (powers of 1000), ``1.50 kB``."""
    if number is None:
        return DASH
    value = float(number)
    for prefix in ("", "k", "M", "G", "T"):
        if value < 999.5 or prefix == "T":
            break
        value /= 1000
    digits = 0 if not prefix or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f} {prefix}{unit}".rstrip()


def seconds(duration: float | None) -> str:
    """Seconds, with a decimal while they are few, ``12.3``."""
    if duration is None:
        return DASH
    return f"{duration:.1f}" if duration < 99.95 else f"{duration:,.0f}"
