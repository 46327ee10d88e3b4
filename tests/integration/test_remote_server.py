"""Teachers on servers, end to end: faults, kills, a run from the command line."""

import json
import multiprocessing
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
import torch
import uvicorn
import yaml
from helpers import Linear, ToyDataModule, trainer
from servers import FAULTS, Spoiler, answering, serving

from kdlightning.__main__ import main
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.data import TransferSet
from kdlightning.methods import DB3KDLabels
from kdlightning.networks import LeNet5Fifth
from kdlightning.remote import Patience, RemoteHardLabelTeacher, RemoteSoftLabelTeacher, RemoteTeacherError
from kdlightning.serving import ServedModel, create_app
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher

SHAPE = (1, 8, 8)
STUBBORN = Patience(
    connect_timeout=30, read_timeout=2, attempts=100, garbled=100, backoff=0.02, longest_backoff=0.2, jitter=0.05
)


class Exact(Linear):
    """In double precision: what it answers does not depend on which images come in one batch."""

    def forward(self, x):
        return super().forward(x.double())


def network():
    weight = torch.zeros(3, 8, 8, dtype=torch.float64)
    for k in range(3):
        weight[k, :, 3 * k : 3 * k + 2] = 1.0
    return Exact(weight.flatten(1))


def served(response, **options):
    return ServedModel(network(), "toy", response, shape=SHAPE, **options)


def images(number, seed=0):
    return torch.rand(number, *SHAPE, generator=torch.Generator().manual_seed(seed))


def known_to(ledger, teacher):
    """Whether an image has its answer in the ledger."""
    return lambda image: ledger.lookup(teacher(), [image])[0] is not None


def again_until_answered(remote, x):
    """What a false answer ends is asked again by the user."""
    while True:
        with suppress(RemoteTeacherError):
            return remote.query(x)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_run_of_queries_survives_every_fault(seed):
    model, remote = served("soft"), []
    with serving(model) as upstream:
        spoiler = Spoiler(upstream, seed, clean=0.5, sleep=2.5)
        with answering(spoiler) as url:
            QueryLedger("l.sqlite").close()
            reader = QueryLedger("l.sqlite", readonly=True)
            remote = RemoteSoftLabelTeacher(
                url, "toy", "probabilities", ledger="l.sqlite", patience=STUBBORN, max_batch=4, concurrency=4
            )
            spoiler.known = known_to(reader, lambda: remote.identity)
            for part in range(3):
                x = images(24, seed=part)
                expected = SoftLabelTeacher(network()).query(x)
                torch.testing.assert_close(again_until_answered(remote, x), expected, atol=1e-6, rtol=0)
    assert set(spoiler.happened) == set(FAULTS)
    assert spoiler.again == []
    totals = QueryLedger("l.sqlite").totals()
    assert (totals.unique, totals.twice, totals.in_flight) == (72, 0, 0)
    assert totals.paid == remote.paid.queries >= model.answered


def label(tmp_path, name, teacher):
    module = DB3KDLabels(teacher, str(tmp_path / name), num_classes=3, robustness="bd", candidates=4, batch_size=32)
    trainer(tmp_path).predict(module, datamodule=ToyDataModule(number=24), return_predictions=False)
    return TransferSet(tmp_path / name)


def test_db3kd_labels_through_faults_are_those_without(tmp_path):
    """And a run without patience stops, and goes on where it stopped, until it is done."""
    plain = label(tmp_path, "plain", HardLabelTeacher(network()))
    model = served("hard")
    with serving(model) as upstream:
        faults = [fault for fault in HARD_FAULTS if fault != "time-out"]  # it is among those of the next test
        with answering(Spoiler(upstream, seed=0, faults=faults, clean=0.8)) as url:
            patience = Patience(connect_timeout=30, read_timeout=60, attempts=4, garbled=4, backoff=0.01, jitter=0.01)
            for _ in range(40):
                teacher = RemoteHardLabelTeacher(url, "toy", "index", known_as="toy", patience=patience, max_batch=16)
                with suppress(RuntimeError):
                    spoilt = label(tmp_path, "spoilt", teacher)
                    break
    assert same_sets(plain, spoilt)
    totals = QueryLedger("ledger.sqlite").totals()
    assert totals.twice == 0
    assert totals.paid >= model.answered >= totals.unique
    assert totals.unique <= plain.manifest["queries"] == spoilt.manifest["queries"]


HARD_FAULTS = [fault for fault in FAULTS if fault != "no probabilities"]


def _serve(port, key):
    model = served("hard", count_file="count")
    config = uvicorn.Config(create_app(model, api_key=key), host="127.0.0.1", port=port, log_level="critical")
    uvicorn.Server(config).run()


def _spoil(port, upstream):
    ledger = QueryLedger("ledger.sqlite", readonly=True)

    def known(image):
        return any(ledger.lookup(who, [image])[0] is not None for who in ledger.teachers())

    def answer(handler, body):
        if handler.path == "/report":
            handler.reply(200, {"happened": spoiler.happened, "again": len(spoiler.again)})
        else:
            spoiler(handler, body)

    spoiler = Spoiler(f"http://127.0.0.1:{upstream}", 0, HARD_FAULTS, clean=0.85, sleep=2.5, known=known)
    with answering(answer, port):
        threading.Event().wait()


def _label(port):
    os.environ["KDL_KEY"] = "s3cret"
    teacher = RemoteHardLabelTeacher(
        f"http://127.0.0.1:{port}", "toy", "index", known_as="toy", api_key_env="KDL_KEY", patience=STUBBORN,
        max_batch=8, concurrency=2,
    )  # fmt: skip
    while not Path("spoilt/manifest.json").exists():
        with suppress(RemoteTeacherError):
            label(Path.cwd(), "spoilt", teacher)


def test_kills_of_client_and_server_amid_all_faults_lose_nothing():
    """DB3KD-BD labels through a proxy with every fault; the client is killed twice, the server once."""
    context = multiprocessing.get_context("fork")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, proxy = one.getsockname()[1], other.getsockname()[1]

    def start(target, *arguments):
        process = context.Process(target=target, args=arguments, daemon=True)
        process.start()
        if target is _serve:
            wait_for(lambda: httpx2.get(f"http://127.0.0.1:{port}/v2/health/ready").status_code == 200)
        return process

    def kill(process):
        assert process.is_alive()
        os.kill(process.pid, signal.SIGKILL)
        process.join()

    QueryLedger("ledger.sqlite").close()
    ledger = QueryLedger("ledger.sqlite", readonly=True)
    server, spoiler, client = start(_serve, port, "s3cret"), start(_spoil, proxy, port), start(_label, proxy)
    wait_for(lambda: ledger.totals().unique >= 100)
    kill(client)
    client = start(_label, proxy)
    wait_for(lambda: ledger.totals().unique >= 250)
    kill(server)
    server = start(_serve, port, "s3cret")
    wait_for(lambda: ledger.totals().unique >= 400)
    kill(client)
    client = start(_label, proxy)
    client.join(200)
    assert client.exitcode == 0
    report = httpx2.get(f"http://127.0.0.1:{proxy}/report").json()
    kill(server)
    kill(spoiler)
    assert report["again"] == 0
    assert set(report["happened"]) == set(HARD_FAULTS)
    totals, answered = ledger.totals(), served("hard", count_file="count").answered
    assert totals.twice == 0
    assert totals.in_flight <= 2 * 2 * 8  # of the clients that were killed
    assert totals.paid >= answered >= totals.unique
    assert ledger.verify() == []

    plain = label(Path.cwd(), "plain", HardLabelTeacher(network()))
    assert same_sets(plain, TransferSet("spoilt"))
    alone = RemoteHardLabelTeacher(f"http://127.0.0.1:{port}", "toy", "index", known_as="toy", offline=True)
    assert same_sets(plain, label(Path.cwd(), "alone", alone))


def same_sets(one, other):
    """Whether two transfer sets have the same columns, to the bit."""
    return one.columns.keys() == other.columns.keys() and all(
        torch.equal(column, other.columns[name]) for name, column in one.columns.items()
    )


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(httpx2.TransportError):
            if condition():
                return
        time.sleep(0.02)
    raise AssertionError("it did not happen")


STUDENT = {"class_path": "LeNet5Fifth", "init_args": {"image_size": 32}}
DATA = {
    "class_path": "DigitsDataModule", "init_args": {"num_samples": 48, "num_val": 32, "batch_size": 16},
}  # fmt: skip
TRAINER = {
    "accelerator": "cpu", "max_epochs": 2, "enable_progress_bar": False, "enable_model_summary": False,
    "default_root_dir": "runs/kd",
    "logger": [
        {"class_path": "CSVLogger", "init_args": {"save_dir": ".", "name": "csv"}},
        {"class_path": "WandbLogger", "init_args": {"project": "test", "offline": True}},
    ],
}  # fmt: skip


def test_a_run_from_the_command_line_counts_and_keeps_the_secret(tmp_path, monkeypatch):
    monkeypatch.setenv("KDL_KEY", "s3cret-key")
    torch.manual_seed(0)
    model = ServedModel(LeNet5Fifth(image_size=32), "digits", "soft")
    with serving(model, api_key="s3cret-key") as url:
        arguments = {"url": url, "model": "digits", "outputs": "probabilities", "api_key_env": "KDL_KEY"}
        teacher = {"class_path": "RemoteSoftLabelTeacher", "init_args": arguments}
        kd = {"class_path": "KD", "init_args": {"student": STUDENT, "teacher": teacher}}
        Path("kd.yaml").write_text(
            yaml.safe_dump({"seed_everything": 1, "model": kd, "data": DATA, "trainer": TRAINER})
        )
        assert main(["fit", "--config", "kd.yaml"]) == 0
    record = json.loads(Path("runs/kd/result.json").read_text())
    totals = QueryLedger("ledger.sqlite").totals()
    assert record["queries"] == model.answered == totals.paid == 48  # the second epoch is answered from the ledger
    assert totals.repeated == 48
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 8
    assert [file for file in files if b"s3cret-key" in file.read_bytes()] == []


def test_a_server_that_is_not_there_is_a_message_and_no_traceback(capsys):
    patience = {"attempts": 2, "backoff": 0.01, "jitter": 0.01}
    arguments = {"url": "http://127.0.0.1:9", "model": "digits", "outputs": "probabilities", "patience": patience}
    teacher = {"class_path": "RemoteSoftLabelTeacher", "init_args": arguments}
    kd = {"class_path": "KD", "init_args": {"student": STUDENT, "teacher": teacher}}
    Path("kd.yaml").write_text(yaml.safe_dump({"model": kd, "data": DATA, "trainer": {**TRAINER, "logger": False}}))
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "kd.yaml"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "http://127.0.0.1:9/v2: no connection" in error
    assert "Traceback" not in error
