"""The table of docs/reliability.md: what is tried against the package, how often and with what outcome.

    python tests/hostile/reliability.py            # `make reliability`: runs tests/hostile, slow tests too

A test under tests/hostile is a row by ``@pytest.mark.tried("what is done", "what has to hold")``; ``times=20`` where
one test does it so often. Tests with the same texts are one row. Nothing is written where a test did not run.
"""

import platform
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/reliability.md"
TABLE = re.compile(r"(?<=<!-- made by `make reliability` -->\n).*(?=<!-- end -->)", re.S)


@dataclass
class Tally:
    """What every test under tests/hostile says it tries, and how it ended."""

    marks: dict[str, list[pytest.Mark]] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.marks = {item.nodeid: list(item.iter_markers("tried")) for item in items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            self.outcomes[report.nodeid] = report.outcome

    def rows(self) -> dict[tuple[str, str], Counter[str]]:
        """(what, held): how often it passed, failed or was skipped."""
        rows: dict[tuple[str, str], Counter[str]] = {}
        for test, marks in self.marks.items():
            for mark in marks:
                count = rows.setdefault((mark.args[0], mark.args[1]), Counter())
                count[self.outcomes.get(test, "not run")] += mark.kwargs.get("times", 1)
        return rows


def table(rows: dict[tuple[str, str], Counter[str]]) -> str:
    lines = ["| What is tried | How often | What has to hold | Held |", "| --- | ---: | --- | ---: |"]
    for texts, count in rows.items():
        what, held = (text[0].upper() + text[1:] for text in texts)
        lines.append(f"| {what} | {count.total():,} | {held} | {count['passed']:,} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    tally = Tally()
    status = pytest.main([str(HERE), "-q", "-m", "slow or not slow", "-p", "no:xdist", "--timeout=1800"], [tally])
    rows = tally.rows()
    if any(count["not run"] for count in rows.values()):
        return int(status)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE).stdout
    made = f"{datetime.now(UTC):%Y-%m-%d}, commit {commit.strip()}, {platform.system()} on {platform.machine()}"
    content = f"\n{made}.\n\n{table(rows)}\n"
    PAGE.write_text(TABLE.sub(lambda _: content, PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
