import os
import sys
import types

import pytest

from kdlightning.report import ReportError, log_to_wandb, read_runs, summarise, write_report
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
    fake.errors = types.SimpleNamespace(UsageError=type("UsageError", (Exception,), {}))
    fake.Settings, fake.Table = dict, FakeTable
    fake.Image = lambda path: ("image", path)
    fake.plot = types.SimpleNamespace(
        bar=lambda table, label, value, title: ("bar", table.data, label, value, title),
        scatter=lambda table, x, y, title: ("scatter", table.data, x, y, title),
    )

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


def test_the_environment_decides_on_mode_and_project(wandb, workspace, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    workspace.run()
    write_report([workspace.root], wandb=True)
    assert (wandb.arguments["mode"], wandb.arguments["project"]) == ("disabled", "mine")


def test_without_a_key_it_raises_instead_of_asking(wandb, monkeypatch):
    class Terminal:
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdin", terminal)

    def init(**arguments):
        assert not sys.stdin.isatty()
        raise wandb.errors.UsageError("api_key not configured")

    wandb.init = init
    with pytest.raises(ReportError, match=r"api_key not configured.*wandb login"):
        log_to_wandb([], [], "kdlightning")
    assert sys.stdin is terminal


def test_the_real_wandb_takes_it_offline(workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    workspace.teacher()
    workspace.run()
    output = write_report([workspace.root])
    rows, _ = summarise(read_runs([workspace.root]).runs)
    log_to_wandb(rows, [output / "accuracy-digits.png"], "kdlightning", directory=tmp_path)
    (run,) = (tmp_path / "wandb").glob("offline-run-*")
    assert len(list(run.glob("*.wandb"))) == 1
    assert len(list((run / "files" / "media" / "table").rglob("*.table.json"))) == 3
    assert len(list((run / "files" / "media" / "images").rglob("*.png"))) == 1
