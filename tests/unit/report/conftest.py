import json
import os
from pathlib import Path

import pytest

RESULT = {
    "schema": 1,
    "method": "DB3KD",
    "variant": "mbd",
    "role": "student",
    "dataset": "digits",
    "teacher": "LeNet5",
    "student": "LeNet5Fifth",
    "access": "hard",
    "seed": 0,
    "accuracy": 0.97,
    "accuracy_best": None,
    "val_accuracy": 0.96,
    "agreement": 0.98,
    "parameters": 10_000,
    "macs": 123_456,
    "queries": 1_000_000,
    "bytes_up": 784_000_000,
    "bytes_down": 4_000_000,
    "seconds": 12.5,
    "checkpoint": "last",
    "commit": "abc1234",
    "hardware": "a machine",
    "versions": {"torch": "2.8.0"},
    "config": "digits/db3kd.yaml",
    "transfer_set": None,
    "queries_per_pair": None,
}
TEACHER = {
    "method": "Supervised",
    "variant": None,
    "role": "teacher",
    "teacher": None,
    "student": "LeNet5",
    "access": None,
    "accuracy": 0.99,
    "agreement": None,
    "parameters": 55_000,
    "queries": 0,
    "bytes_up": 0,
    "bytes_down": 0,
}
DISTANCES = [[None, 4.25, 1.5], [2.0, None, None], [3.0, 0.5, None]]


class Workspace:
    """A directory with runs: ``run`` and ``transfer_set`` write files as finished runs do."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._written = 0

    def run(self, **changes) -> Path:
        self._written += 1
        path = self.root / f"run-{self._written:02d}" / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({**RESULT, **changes}))
        os.utime(path, (self._written, self._written))  # later runs are newer, however fast the test is
        return path

    def teacher(self, **changes) -> Path:
        return self.run(**{**TEACHER, **changes})

    def transfer_set(self, name: str = "transfer", **changes) -> Path:
        content = {"class_names": ["a", "b", "c"], "robustness": "bd", "dataset": "digits", "queries": 4321}
        path = self.root / name / "manifest.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({**content, "mean_distance": DISTANCES, **changes}))
        return path


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "runs")
