"""What a run prints, with a terminal and without, and what goes to its log file."""

import logging
import os
import pty
import re
import signal
import subprocess
import sys
import warnings
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import kdlightning
from kdlightning.__main__ import main
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.commands.console import RunLog, open_log
from kdlightning.commands.recipes import Stage, _time_left
from kdlightning.networks import LeNet5Fifth, save_network

STUDENT = ["--model.student", "LeNet5Fifth", "--model.student.image_size", "32"]
FIT = [
    "fit", "--model", "Supervised", *STUDENT, "--data", "DigitsDataModule", "--data.num_samples", "64",
    "--data.num_val", "32", "--data.batch_size", "32", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "3",
    "--trainer.default_root_dir", "run",
]  # fmt: skip
CHATTER = ("Seed set to", "GPU available", "TPU available", "litlogger", "The number of training batches",
           "`Trainer.fit` stopped", "does not have many workers", "FLOPs")  # fmt: skip
EPOCH = r"epoch {} of 3: loss \d\.\d+, accuracy \d+\.\d\d%(, 0:00:\d\d left)?"
CONTROL = r"\x1b\[[0-9;?]*[a-zA-Z]"


@pytest.fixture
def teacher(tmp_path):
    torch.manual_seed(0)
    return str(save_network(LeNet5Fifth(image_size=32), tmp_path / "teacher"))


def test_without_a_terminal_a_fit_prints_two_lines_one_per_epoch_and_a_table(capsys):
    assert main(FIT) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[:2] == ["Supervised: labels -> student LeNet5Fifth, 11,564 parameters", "digits, 64 images"]
    for number, line in enumerate(lines[2:5], 1):
        assert re.fullmatch(EPOCH.format(number), line), line
    assert [line.split() for line in lines[5:8:2]] == [
        ["run"], ["method", "accuracy", "parameters", "MACs", "queries", "seconds"],
    ]  # fmt: skip
    assert len(lines) == 11
    assert not {"\r", "\x1b"} & set(out)


def test_what_libraries_say_is_in_the_log_with_the_time(capsys):
    main(FIT)
    log = Path("run/log.txt").read_text()
    for text in ("Seed set to 0", "GPU available", "`Trainer.fit` stopped: `max_epochs=3` reached",
                 "PossibleUserWarning: The number of training batches (2)", "-> student LeNet5Fifth"):  # fmt: skip
        assert text in log
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (INFO|WARNING) ", line) for line in log.splitlines())
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.startswith("epoch")] == re.findall(r"epoch \d of .*", log)
    main([*FIT, "--overwrite", "true"])
    assert Path("run/log.txt").read_text().count("Seed set to 0") == 1


def test_verbose_shows_what_libraries_say(capsys):
    main([*FIT, "--verbose", "true"])
    err = capsys.readouterr().err
    assert err.startswith("Seed set to 0\n") or "\nSeed set to 0\n" in err
    assert "`Trainer.fit` stopped: `max_epochs=3` reached." in err
    assert "Supervised: labels" not in err  # it is on stdout, once
    assert "The number of training batches (2)" in err


def test_on_a_terminal_one_line_lives(tmp_path):
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "kdlightning", *FIT], stdin=slave, stdout=slave, stderr=slave, env=environment
    )
    os.close(slave)
    shown = b""
    with suppress(OSError):  # the other end is closed
        while chunk := os.read(master, 4096):
            shown += chunk
    os.close(master)
    assert process.wait() == 0
    text = re.sub(CONTROL, "", shown.decode())
    first, second, live, *rest = text.split("\r\n")
    assert (first, second) == ("Supervised: labels -> student LeNet5Fifth, 11,564 parameters", "digits, 64 images")
    last = live.split("\r")[-1]
    assert re.fullmatch(r"epoch 3 of 3 ━{20} 0:00:\d\d loss \d\.\d+, accuracy \d+\.\d\d%\s*", last), last
    assert len(live.split("\r")) > 1  # it was redrawn in place
    assert "11,564" in "".join(rest)
    assert not [line for line in rest if line.startswith("epoch")]
    assert not [word for word in CHATTER if word in text]
    assert len(re.findall(EPOCH.format(r"\d"), Path("run/log.txt").read_text())) == 3


def test_a_labelling_says_who_labels_what_and_counts(teacher, capsys):
    assert main([
        "predict", "--model", "TeacherAnswers", "--model.teacher", "SoftLabelTeacher", "--model.teacher.network",
        teacher, "--model.teacher.budget", "100", "--model.output", "set", "--data", "DigitsDataModule",
        "--data.num_samples", "64", "--trainer.accelerator", "cpu", "--trainer.default_root_dir", "run",
    ]) == 0  # fmt: skip
    out, err = capsys.readouterr()
    assert re.fullmatch(r"kdlightning: warning: the teacher names .* as a guess would: .*\n", err)  # it is untrained
    lines = out.splitlines()
    assert lines[:2] == ["TeacherAnswers: teacher LeNet5Fifth (soft) -> set", "digits, 64 images; budget 100 queries"]
    assert re.fullmatch(r"labelling: 64 of 64 images, 64 of 100 queries(, \d+/s)?", lines[2])
    assert lines[3].split() == ["set"]
    assert lines[7].split()[:2] == ["64", "64"]


@pytest.mark.parametrize(
    ("price", "limit", "told"),
    [(0.01, 5.0, ("5", "0.64")), (0.0001, 0.007, ("0.007", "0.0064")), (2.0, 1234.5, ("1,234.50", "128.00"))],
)
def test_money_is_counted_where_the_teacher_has_a_price(price, limit, told, tmp_path, teacher, monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "priced", raising=False)
    (tmp_path / "priced.py").write_text(
        "from kdlightning.teachers import SoftLabelTeacher\n"
        "from kdlightning.accounting.accounts import Limits\n"
        "from kdlightning.accounting.terms import Prices\n"
        "class Priced(SoftLabelTeacher):\n"
        "    def terms(self, shape, count):\n"
        f"        limits = Limits(None, None, {limit})\n"
        f"        return super().terms(shape, count)._replace(price=Prices.fixed({price}), limits=limits)\n"
        "    @property\n"
        "    def cost(self):\n"
        f"        return super().cost._replace(price=self.paid.queries * {price})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["fit", "--model", "KD", *FIT[3:], "--model.teacher", "priced.Priced"]
    assert main([*arguments, "--model.teacher.network", teacher, "--trainer.max_epochs", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "KD: teacher LeNet5Fifth (soft) -> student LeNet5Fifth, 11,564 parameters"
    assert lines[1] == f"digits, 64 images; budget {told[0]} to spend"
    assert re.search(rf", 64 queries(, \d+/s)?, {re.escape(told[1])} of {re.escape(told[0])} spent$", lines[2])


def test_warnings_of_this_package_are_shown_and_those_of_libraries_are_kept(tmp_path, capsys):
    own, library = Path(kdlightning.__file__).with_name("any.py"), torch.__file__
    before = (warnings.showwarning, logging.getLogger("lightning.pytorch").handlers, logging.getLogger().handlers[:])
    with RunLog():
        warnings.warn_explicit("mine", UserWarning, str(own), 1)
        warnings.warn_explicit("theirs", UserWarning, library, 7)
        warnings.warn_explicit("old", DeprecationWarning, str(own), 1)
        logging.getLogger("elsewhere").error("broken")
        logging.getLogger("lightning.pytorch").warning("tip")
        open_log(tmp_path / "run", verbose=False)
        logging.getLogger("kdlightning.teachers").warning("slow")
    assert (
        capsys.readouterr().err
        == "kdlightning: warning: mine\nkdlightning: error: broken\nkdlightning: warning: slow\n"
    )
    said = [line.split(" ", 2)[2] for line in (tmp_path / "run/log.txt").read_text().splitlines()]
    assert said == [
        "WARNING kdlightning: mine", f"WARNING py.warnings: {library}:7: UserWarning: theirs",
        f"WARNING py.warnings: {own}:1: DeprecationWarning: old",
        "ERROR elsewhere: broken", "WARNING lightning.pytorch: tip", "WARNING kdlightning.teachers: slow",
    ]  # fmt: skip
    after = (warnings.showwarning, logging.getLogger("lightning.pytorch").handlers, logging.getLogger().handlers)
    assert after == before


def test_the_time_left_is_that_of_the_finished_stages_of_the_same_command(tmp_path):
    stages = [Stage(f"s{n}", command, tmp_path / f"s{n}", {}) for n, command in enumerate(["fit", "predict"] * 3)]
    assert _time_left(stages) is None
    for number, seconds in ((0, 10.0), (2, 20.0)):
        (tmp_path / f"s{number}").mkdir()
        (tmp_path / f"s{number}/result.json").write_text(f'{{"seconds": {seconds}}}')
    assert _time_left(stages) == 60.0  # one fit and three predicts, of which nothing is known but the fits
    (tmp_path / "s1").mkdir()
    (tmp_path / "s1/manifest.json").write_text('{"seconds": 100}')
    assert _time_left(stages) == 15.0 + 2 * 100.0


def test_help_is_a_page_of_options_that_exist(capsys):
    code = "import sys; from kdlightning.__main__ import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, "fit", "--help"], capture_output=True, text=True, check=True)
    page = done.stdout
    assert page.startswith("usage: kdlightning fit ")
    assert len(page.splitlines()) < 45
    options = re.findall(r"^  (?:-c, )?--([\w.]+)", page, re.MULTILINE)
    assert {"config", "model", "data", "trainer.max_epochs", "overwrite", "result.role", "verbose"} <= set(options)
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--help_all"])
    everything = capsys.readouterr().out
    assert stopped.value.code == 0
    assert [option for option in options if f"--{option} " not in everything] == []
    assert "--trainer.gradient_clip_val" in everything


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--model.student.help", "LeNet5"],
            "kdlightning: error: student belongs to a class that is not chosen yet: name the model before it, as in "
            "--model NAME --model.student.help LeNet5\n",
        ),
        (
            ["--data.source.help", "MNISTDataModule"],
            "kdlightning: error: source belongs to a class that is not chosen yet: name the data before it, as in "
            "--data NAME --data.source.help MNISTDataModule\n",
        ),
        (
            ["--model.teacher", "HTTPSoftLabelTeacher"],
            "kdlightning: error: teacher belongs to a class that is not chosen yet: name the model before it: "
            "--model NAME\n",
        ),
    ],
)
def test_help_on_a_class_within_one_that_is_not_chosen(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *arguments])
    assert (stopped.value.code, capsys.readouterr().err) == (2, said)


@pytest.mark.parametrize("command", [["ledger", "show", "ledger.sqlite"], ["networks"], ["--help"]])
def test_a_reader_that_has_seen_enough_ends_the_program_in_silence(tmp_path, command):
    QueryLedger(tmp_path / "ledger.sqlite").close()
    reading, writing = os.pipe()
    os.close(reading)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "kdlightning", *command],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment,
        check=False,
    )
    os.close(writing)
    assert (done.stderr, done.returncode in (1, 128 + signal.SIGPIPE)) == (b"", True)
