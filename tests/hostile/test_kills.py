"""Labelling that is killed, told to stop or started twice: nothing is paid twice, and the set is the same."""

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
import torch
from helpers import Linear, ToyDataModule, rehearsed, trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from kdlightning.accounting import DirectoryInUseError, DirectoryLock, QueryBudgetExceededError, QueryMeter
from kdlightning.commands import stops
from kdlightning.data import NoiseDataModule, TransferSet
from kdlightning.methods import DB3KDLabels, KnockoffSelection, TeacherAnswers
from kdlightning.modules import launch
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher


class Watched(torch.nn.Module):
    """Writes down in asked.txt how many images come; ``on_call`` is then called with the number of the call."""

    def __init__(self, on_call=None, pause=0.0):
        super().__init__()
        torch.manual_seed(1)
        self.inner, self.num_classes, self.pause = Linear(torch.randn(3, 64) / 8), 3, pause
        self.on_call, self.calls = on_call, 0

    def forward(self, x):
        if rehearsed(x):
            return self.inner(x)
        with Path("asked.txt").open("a") as file:
            file.write(f"{len(x)}\n")
        self.calls += 1
        if self.on_call is not None:
            self.on_call(self.calls)
        time.sleep(self.pause)
        return self.inner(x)


def asked():
    return [int(line) for line in Path("asked.txt").read_text().split()] if Path("asked.txt").exists() else []


def answers(net, output, budget=40):
    return TeacherAnswers(SoftLabelTeacher(net, budget), output), NoiseDataModule(ToyDataModule(eval_batch_size=4), 40)


def distances(net, output, budget=None):
    module = DB3KDLabels(HardLabelTeacher(net, budget), output, num_classes=3, candidates=5, tolerance=0.01)
    return module, ToyDataModule(number=20, eval_batch_size=8)


def guided(net, output, budget=None):
    """Minimal distances behind a surrogate, which is trained anew from what the batch has asked."""
    surrogate = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    search = {"robustness": "mbd", "candidates": 3, "num_probes": 20, "query_limit": 40, "surrogate": surrogate}
    module = DB3KDLabels(HardLabelTeacher(net, budget), output, num_classes=3, tolerance=0.01, **search)
    return module, ToyDataModule(number=16, eval_batch_size=8)


def selection(net, output, budget=40):
    settings = {"rewards": ["certainty"], "num_groups": 3, "round_size": 7, "batch_size": 4, "strategy": "adaptive"}
    return KnockoffSelection(SoftLabelTeacher(net, budget), output, 40, **settings), ToyDataModule(eval_batch_size=8)


def run(method, output="set", net=None, **options):
    module, data = method(net or Watched(), output, **options)
    trainer(Path.cwd()).predict(module, datamodule=data, return_predictions=False)
    return TransferSet(output)


def appeared(file):
    for _ in range(1000):
        if Path(file).exists():
            return
        time.sleep(0.01)
    raise TimeoutError(f"{file} does not appear: {Path('output.txt').read_text()[-2000:]}")


def forked(work):
    """Do it in a fork of this process, which has imported everything; the fork's number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        for number in (1, 2):
            os.dup2(os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        work()
        status = 0
    except SystemExit as stop:
        status = stop.code
    except BaseException:  # noqa: BLE001 - nobody else would say
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_until_done(method, kills, seed, signals, **options):
    """How often a labelling was killed at a random moment, and then let go on to its end."""
    draw, done = random.Random(seed), 0
    run(method, "rehearsal", Watched())
    calls = len(asked())
    Path("asked.txt").write_text("")
    for _ in range(kills):
        child = forked(lambda: run(method, "set", Watched(pause=0.002), **options))
        until = len(asked()) + draw.randint(0, 2 * calls // kills)
        while len(asked()) < until and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
            time.sleep(0.0005)
        time.sleep(draw.uniform(0, 0.01))
        number = draw.choice(signals)
        os.kill(child, number)
        status = ended(child)
        assert status in (-number, 128 + number, 0), Path("output.txt").read_text()[-2000:]
        if Path("set/manifest.json").exists():  # it was faster
            return done
        done += 1
    assert ended(forked(lambda: run(method, "set", Watched(), **options))) == 0, Path("output.txt").read_text()[-2000:]
    return done


def same_as_uninterrupted(method, kills, largest):
    whole, made, total = run(method, "whole"), TransferSet("set"), sum(asked())
    total -= whole.manifest["queries"]  # its own
    assert set(made.columns) == set(whole.columns)
    assert all(torch.equal(column, whole.columns[name]) for name, column in made.columns.items())
    assert made.manifest["queries"] == made.manifest["queries_paid"] == whole.manifest["queries"]
    assert made.manifest["bytes_up"] == whole.manifest["bytes_up"]
    assert made.manifest["bytes_down"] == whole.manifest["bytes_down"]
    assert whole.manifest["queries"] <= total <= whole.manifest["queries"] + kills * largest
    left = {file.name.partition("-")[0] for file in made.path.iterdir()}
    assert left == {".lock", "header.json", "manifest.json", "queries.meter", "shard"}


@pytest.mark.tried(
    "A labelling whose budget just suffices is killed (SIGKILL, SIGTERM) at a random moment, again and again",
    "The set is the uninterrupted one to the bit, and no image is counted twice",
    times=4,
)
def test_an_exact_budget_survives_kills(tmp_path):
    kills = killed_until_done(answers, 4, 3, [signal.SIGKILL, signal.SIGTERM])
    assert kills > 1
    same_as_uninterrupted(answers, kills, 4)


@pytest.mark.slow
@pytest.mark.tried(
    "A labelling whose budget just suffices is killed (SIGKILL, SIGTERM) at a random moment, again and again",
    "The set is the uninterrupted one to the bit, and no image is counted twice",
    times=8,
)
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", [answers, distances, guided, selection])
def test_an_exact_budget_survives_many_kills(tmp_path, method, seed):
    budget = run(method, "counted").manifest["queries"]
    Path("asked.txt").unlink()
    kills = killed_until_done(method, 8, seed, [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM], budget=budget)
    same_as_uninterrupted(method, kills, 256)


@pytest.mark.tried(
    "A kill between every two steps of keeping an answer",
    "The set is the uninterrupted one to the bit, and no image is counted twice",
)
@pytest.mark.parametrize("at", ["charge", "_append", "settle", "write_tensors"])
def test_a_kill_between_asking_and_keeping_does_not_cost_the_budget(tmp_path, monkeypatch, at):
    from kdlightning.accounting import AnswerJournal
    from kdlightning.data import transferset

    owner = {"charge": QueryMeter, "settle": QueryMeter, "_append": AnswerJournal, "write_tensors": transferset}[at]
    done, calls = getattr(owner, at), []

    def dying(*args, **options):
        result = done(*args, **options)
        calls.append(at)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    def once():
        monkeypatch.setattr(owner, at, dying)
        run(answers)

    child = forked(once)
    assert ended(child) == -signal.SIGKILL
    made = run(answers)
    assert made.manifest["queries"] == made.manifest["queries_paid"] == 40
    assert made.manifest["bytes_up"] == 40 * 64 * 4
    assert asked() == [4] * 10


@pytest.mark.tried("SIGTERM or Ctrl-C while a question is under way", "Its answer is kept, and no other is asked for")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_before_the_next_question(tmp_path, number):
    def told(call):
        if call == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        run(answers, net=Watched(told))
    assert isinstance(stop.value, SIGTERMException) or isinstance(stop.value.__context__, KeyboardInterrupt)
    assert asked() == [4, 4, 4]
    assert signal.getsignal(number) == before
    made = run(answers)
    assert asked() == [4] * 10
    assert made.manifest["queries"] == made.manifest["queries_paid"] == 40


def test_a_signal_between_two_questions_stops_before_the_next(tmp_path, monkeypatch):
    from kdlightning.data import TransferSetWriter

    write = TransferSetWriter.write

    def told(self, rows):
        os.kill(os.getpid(), signal.SIGTERM)
        return write(self, rows)

    monkeypatch.setattr(TransferSetWriter, "write", told)
    with pytest.raises(SIGTERMException) as stop:
        run(answers)
    assert stop.value.code == 143
    assert asked() == [4]
    monkeypatch.setattr(TransferSetWriter, "write", write)
    run(answers)
    assert asked() == [4] * 10


def test_a_signal_ends_a_long_time_without_questions(tmp_path, monkeypatch):
    def told(self, batch, predict):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    monkeypatch.setattr(launch, "_PATIENCE", 0.1)
    monkeypatch.setattr(TeacherAnswers, "label", told)
    with pytest.raises(SIGTERMException):
        run(answers)
    assert asked() == []


@pytest.mark.tried("A second launch on a directory, the first at work or killed", "It is refused unasked, or goes on")
def test_a_second_launch_is_refused_until_the_first_is_dead(tmp_path):
    def first():
        run(answers, net=Watched(lambda call: Path("begun").touch(), pause=60))

    child = forked(first)
    appeared("begun")
    with pytest.raises(DirectoryInUseError, match=rf"set is in use by process {child} on .*: wait until it has ended"):
        run(answers)
    assert asked() == [4]
    os.kill(child, signal.SIGKILL)
    ended(child)
    assert run(answers).manifest["queries_paid"] == 40
    DirectoryLock("set").acquire()  # whoever has ended holds it no longer


def test_a_deleted_count_is_what_the_answers_tell(tmp_path):
    with pytest.raises(QueryBudgetExceededError):
        run(answers, budget=24)
    Path("set/queries.meter").unlink()
    with pytest.raises(QueryBudgetExceededError, match="24 of 40 images are answered"):
        run(answers, budget=24)
    assert sum(asked()) == 24
    made = run(answers)
    assert (made.manifest["queries_paid"], made.manifest["bytes_up"]) == (40, 40 * 64 * 4)


@pytest.mark.tried(
    "A count of queries is cut, or holds something else",
    "It is refused by name, and no budget begins anew",
)
@pytest.mark.parametrize("content", [b"\0" * 10, b"x" * 52, b"a foreign file"])
def test_a_cut_or_foreign_count_is_refused(tmp_path, content):
    with pytest.raises(QueryBudgetExceededError):
        run(answers, budget=24)
    Path("set/queries.meter").write_bytes(content)
    with pytest.raises(ValueError, match=r"queries.meter is damaged, or no count .* or delete it"):
        run(answers)
    assert sum(asked()) == 24


def test_a_deleted_shard_does_not_give_its_budget_back(tmp_path):
    with pytest.raises(QueryBudgetExceededError):
        run(answers, budget=24)
    next(Path("set").glob("shard-*")).unlink()
    with pytest.raises(QueryBudgetExceededError, match="20 of 40 images are answered"):
        run(answers, budget=24)
    made = run(answers, budget=44)
    assert (made.manifest["queries"], made.manifest["queries_paid"], sum(asked())) == (40, 44, 44)


def test_half_written_files_of_a_killed_run_are_swept(tmp_path):
    with pytest.raises(QueryBudgetExceededError):
        run(answers, budget=8)
    Path("set/shard-1.1234.tmp").write_bytes(b"half")
    run(answers)
    assert not list(Path("set").glob("*.tmp"))


def test_a_recipes_process_passes_a_signal_on_and_ends_with_its_status(tmp_path):
    """Without torch: the process that a recipe starts for a stage of several processes."""
    child = "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit(143))\nopen('up', 'w')\ntime.sleep(60)"
    script = f"from kdlightning.commands import stops\nimport sys\nstops.run_apart([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen([sys.executable, "-c", script])
    appeared("up")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143


def test_a_recipe_ends_at_once_and_says_how_to_go_on(tmp_path, capsys):
    @stops.stopping()
    def told():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    with pytest.raises(SystemExit) as stop:
        told()
    assert stop.value.code == 143
    assert capsys.readouterr().err == (
        "kdlightning: stopped\n  -> to go on: run the same command again; no answer is lost\n"
    )
