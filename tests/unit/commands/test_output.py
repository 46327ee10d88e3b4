"""A console that is not UTF-8 shows other characters; nothing ends because of it."""

import io
import json
import sys
from pathlib import Path

import pytest
import yaml

from kdlightning.__main__ import main


@pytest.fixture(params=["ascii", "cp1252"])
def console(request, monkeypatch):
    """Opens a console, in the test itself: pytest puts its own in between; gives what stands there."""
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding=request.param) for name in ("stdout", "stderr")}

    def told():
        for stream in streams.values():
            stream.flush()
        return "".join(stream.buffer.getvalue().decode(request.param) for stream in streams.values())

    def opened():
        for name, stream in streams.items():
            monkeypatch.setattr(sys, name, stream)
        return told

    return opened


RESULT = {
    "method": "KD", "variant": "猫", "role": "student", "dataset": "digits", "teacher": "T", "student": "S",
    "access": "soft", "agreement": 0.9, "queries": 10,
}  # fmt: skip


def test_a_report(tmp_path, console):
    told = console()
    for seed in (1, 2):
        path = tmp_path / f"runs/{seed}/result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({**RESULT, "seed": seed, "accuracy": 0.9 + seed / 100}))
    assert main(["report", "runs"]) == 0
    assert "KD (?)" in told()
    assert any(form in told() for form in ("91.50 +- 0.71 (2)", "91.50 ± 0.71 (2)"))


def test_a_run_and_its_estimate(tmp_path, console):
    told = console()
    student = {"class_path": "LeNet5Fifth", "init_args": {"image_size": 16}}
    data = {"class_path": "DigitsDataModule", "init_args": {"num_samples": 32, "num_val": 16, "image_size": 16}}
    stage = {
        "name": "größe-→-猫", "command": "fit",
        "config": {
            "model": {"class_path": "Supervised", "init_args": {"student": student}}, "data": data,
            "trainer": {"max_epochs": 1, "accelerator": "cpu", "logger": False},
        },
    }  # fmt: skip
    Path("recipe.yaml").write_text(yaml.safe_dump({"output": "out", "stages": [stage]}, allow_unicode=True), "utf-8")
    assert main(["estimate", "recipe.yaml"]) == 0
    assert main(["run", "recipe.yaml"]) == 0
    assert "stage 1 of 1: gr" in told()
    assert "->-?" in told()
    assert (tmp_path / "out/größe-→-猫/result.json").exists()
