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

GENERATOR = {
    "schema": 1,
    "method": "MEKDGenerator",
    "variant": "alpha=0.5",
    "role": "generator",
    "dataset": "digits",
    "teacher": "LeNet5",
    "generator": "DCGANGenerator",
    "critic": "DCGANCritic",
    "access": "soft",
    "seed": 3,
    "quality": {
        "class_entropy": 0.98292,
        "class_least": 0.0654,
        "confidence": 0.8657,
        "diversity": 0.997,
        "fid": 23.8137,
        "kid": -0.0005125,
    },
    "features": "LeNet5",
    "class_histogram": [8, 4, 1, 0],
    "parameters": 64_833,
    "queries": 1000,
    "seconds": 67.62,
    "train_images": 1300,
    "commit": "7492f23",
    "hardware": "a machine",
    "versions": {"torch": "2.15.0"},
    "config": "digits/generator.yaml",
}
RAMP = [float(percent) for percent in range(101)]
NEARNESS = {
    "share": 0.0005,
    "share_expected": 0.01,
    "share_by_chance": 0.03,
    "threshold": 1.49345,
    "copies": 0,
    "pool": RAMP,
    "held_out": [2 * value for value in RAMP],
}
PRIVACY = {
    "schema": 1,
    "dataset": "digits",
    "pool_images": 2000,
    "pool_size": 9000,
    "local_images": 1300,
    "held_out_images": 100,
    "level": 0.01,
    "network": "LeNet5",
    "spaces": {"pixels": NEARNESS, "features": {**NEARNESS, "share": 0.4, "copies": 7}},
}


class Workspace:
    """A directory with runs: ``run`` and ``transfer_set`` write files as finished runs do."""

    nearness = NEARNESS

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

    def generator(self, name: str = "generator", **changes) -> Path:
        return self._write(f"{name}/result.json", {**GENERATOR, **changes})

    def privacy(self, name: str = "pool", **changes) -> Path:
        return self._write(f"{name}/privacy.json", {**PRIVACY, **changes})

    def _write(self, name: str, content: dict) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        return path


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "runs")
