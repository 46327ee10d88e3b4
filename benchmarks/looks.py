"""How often `--seeds auto` calls equals different: normal differences, a look after each seed, two levels.

python benchmarks/looks.py
"""

import numpy as np
from scipy import stats

from kdlightning.commands.seeds import FEWEST
from kdlightning.report.paired import LEVEL, SEQUENTIAL

TRIES, MOST = 20_000, 20


def found(level: float, first: int) -> float:
    """Share of tries in which an interval leaves zero out at one of the looks."""
    differences = np.random.default_rng(0).standard_normal((TRIES, MOST))
    looked = np.zeros(TRIES, bool)
    for count in range(first, MOST + 1):
        seen = differences[:, :count]
        t = seen.mean(1) / seen.std(1, ddof=1) * np.sqrt(count)
        looked |= np.abs(t) > stats.t.ppf(1 - level / 2, count - 1)
    return float(looked.mean())


if __name__ == "__main__":
    for level, first in ((LEVEL, 6), (SEQUENTIAL, FEWEST)):
        print(f"{level:.0%}, {first} to {MOST} seeds: {100 * found(level, first):.1f} % of comparisons of equals")
