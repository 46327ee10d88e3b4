import json
import os
import sys
import types

import pytest

from kdlightning.report import Confusion, ReportError, log_to_wandb, read_confusions, read_runs, summarise, write_report
from kdlightning.report.rows import KEYS


class FakeRun:
    def __init__(self):
        self.logged = {}
        self.finished = False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.finished = True

    def log(self, values):
        self.logged.update(values)


class FakeTable:
    def __init__(self, columns, data=None, allow_mixed_types=False):
        self.columns, self.data = columns, list(data or [])

    def add_data(self, *values):
        self.data.append(list(values))


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in that records; the real one takes seconds to import."""
    fake = types.ModuleType("wandb")
    fake.run, fake.arguments = FakeRun(), {}
    error = type("Error", (Exception,), {})
    kinds = {name: type(name, (error,), {}) for name in ("UsageError", "CommError")}
    fake.errors = types.SimpleNamespace(Error=error, **kinds)
    fake.Settings, fake.Table = dict, FakeTable
    fake.Image = lambda path: ("image", path)
    fake.plot = types.SimpleNamespace(
        bar=lambda table, label, value, title: ("bar", table.data, label, value, title),
        scatter=lambda table, x, y, title: ("scatter", table.data, x, y, title),
    )
    fake.plot_table = lambda kind, table, fields, texts: (kind, table.columns, table.data, texts["title"])

    def init(**arguments):
        fake.arguments = {**arguments, "mode": os.environ["WANDB_MODE"], "asks": sys.stdin.isatty()}
        return fake.run

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_MODE", "to be removed")  # so that monkeypatch restores what the call sets
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


def test_the_comparison_is_one_run(wandb, workspace):
    workspace.teacher()
    workspace.run(seed=1)
    workspace.run(seed=0)
    output = write_report([workspace.root], wandb=True)
    assert wandb.arguments["project"] == "kdlightning"
    assert wandb.arguments["name"] == "report"
    assert (wandb.arguments["mode"], wandb.run.finished) == ("offline", True)
    logged = wandb.run.logged
    assert list(logged) == ["results", "figures/accuracy-digits", "accuracy/digits", "queries/digits"]
    assert logged["results"].columns == list(KEYS)
    assert [row[KEYS.index("seeds")] for row in logged["results"].data] == ["0", "0 1"]
    assert logged["figures/accuracy-digits"] == ("image", str(output / "accuracy-digits.png"))
    bars = [["Supervised, LeNet5", 99.0], ["DB3KD (mbd), LeNet5Fifth", 97.0]]
    assert logged["accuracy/digits"] == ("bar", bars, "row", "accuracy %", "Accuracy, digits")
    assert logged["queries/digits"][:2] == ("scatter", [[1_000_000, 97.0]])  # the teacher asked nothing


def test_confusions_distances_and_generated_images_are_panels(wandb, workspace):
    for seed, diagonal in ((0, 8), (1, 9)):
        counts = {"class_names": ["cat", "dog"], "counts": [[diagonal, 10 - diagonal], [3, 0]]}
        workspace.run(seed=seed).with_name("confusion.json").write_text(json.dumps(counts))
    workspace.transfer_set()
    images = workspace.generator().parent / "images"
    images.mkdir()
    for epoch in (5, 10):
        (images / f"epoch-{epoch:04d}.png").write_bytes(b"")
    output = write_report([workspace.root], wandb=True)
    logged = wandb.run.logged
    chart, columns, cells, title = logged["confusion/digits, DB3KD (mbd), LeNet5Fifth, hard"]
    assert (chart, columns) == ("wandb/confusion_matrix/v1", ["Actual", "Predicted", "nPredictions"])
    assert cells == [["cat", "cat", 17], ["cat", "dog", 3], ["dog", "cat", 6], ["dog", "dog", 0]]
    assert title == "DB3KD (mbd), LeNet5Fifth, hard, digits"
    assert ("image", str(output / "confusion-digits-db3kd-mbd-lenet5fifth-hard.png")) in logged.values()
    table = logged["distances/digits-transfer"]
    assert table.columns == ["class of the image", "target class", "mean distance"]
    assert table.data == [["a", "b", 4.25], ["a", "c", 1.5], ["b", "a", 2.0], ["c", "a", 3.0], ["c", "b", 0.5]]
    assert logged["figures/distances-digits-transfer"][0] == "image"  # the heat map
    assert logged["images/digits-generator"] == ("image", str(images / "epoch-0010.png"))


def test_a_chart_has_its_limit(wandb):
    names = tuple(map(str, range(101)))  # 10,201 cells
    many = Confusion(
        method="KD", variant=None, dataset="x", teacher=None, student="A", access=None, seeds=(1,), class_names=names,
        counts=((1,) * 101,) * 101,
    )  # fmt: skip
    log_to_wandb([], [], confusions=[many])
    assert list(wandb.run.logged) == ["results"]


def test_the_environment_decides_on_mode_and_project(wandb, workspace, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    workspace.run()
    write_report([workspace.root], wandb=True)
    assert (wandb.arguments["mode"], wandb.arguments["project"]) == ("disabled", "mine")


@pytest.mark.parametrize(("kind", "said"), [("UsageError", "api_key not configured"), ("CommError", "Timed out")])
def test_without_a_key_or_a_network_it_raises_instead_of_asking(wandb, monkeypatch, kind, said):
    class Terminal:
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdin", terminal)

    def init(**arguments):
        assert not sys.stdin.isatty()
        raise getattr(wandb.errors, kind)(said)

    wandb.init = init
    with pytest.raises(ReportError, match=rf"{said}.*wandb login"):
        log_to_wandb([], [], "kdlightning")
    assert sys.stdin is terminal


def test_the_real_wandb_takes_it_offline(workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    workspace.teacher()
    counts = {"class_names": ["cat", "dog"], "counts": [[8, 2], [3, 0]]}
    workspace.run().with_name("confusion.json").write_text(json.dumps(counts))
    workspace.transfer_set()
    output = write_report([workspace.root])
    findings = read_runs([workspace.root])
    rows, _ = summarise(findings.runs)
    confusions, problems = read_confusions(findings.runs)
    assert problems == []
    log_to_wandb(
        rows, [output / "accuracy-digits.png"], "kdlightning", directory=tmp_path, confusions=confusions,
        transfer_sets=findings.transfer_sets,
    )  # fmt: skip
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert len(list(run.glob("*.wandb"))) == 1
    assert len(list((run / "files" / "media" / "table").rglob("*.table.json"))) == 5
    assert len(list((run / "files" / "media" / "images").rglob("*.png"))) == 1
