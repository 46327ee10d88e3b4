"""Teachers on servers, end to end: faults, kills, a run from the command line, and a server that is not ours."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import httpx2
import numpy as np
import pytest
import torch
import uvicorn
import yaml
from helpers import Linear, ToyDataModule, trainer
from servers import FAULTS, Spoiler, answering, serving
from sklearn.linear_model import LogisticRegression

from kdlightning.__main__ import main
from kdlightning.data import DigitsDataModule, TransferSet
from kdlightning.methods import DB3KDLabels
from kdlightning.networks import LeNet5Fifth
from kdlightning.serving import ServedModel, create_app
from kdlightning.teachers import (
    HardLabelTeacher,
    Patience,
    RemoteHardLabelTeacher,
    RemoteSoftLabelTeacher,
    SoftLabelTeacher,
    Tensors,
)
from kdlightning.teachers.ledger import QueryLedger

SHAPE = (1, 8, 8)
STUBBORN = Patience(
    connect_timeout=30, read_timeout=2, attempts=100, garbled=100, backoff=0.02, longest_backoff=0.2, jitter=0.05
)


def network():
    weight = torch.zeros(3, 8, 8)
    for k in range(3):
        weight[k, :, 3 * k : 3 * k + 2] = 1.0
    return Linear(weight.flatten(1))


def served(response, **options):
    return ServedModel(network(), "toy", response, shape=SHAPE, **options)


def images(number, seed=0):
    return torch.rand(number, *SHAPE, generator=torch.Generator().manual_seed(seed))


def known_to(ledger, teacher):
    """Whether an image has its answer in the ledger."""
    return lambda image: ledger.lookup(teacher(), [image])[0] is not None


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
                torch.testing.assert_close(remote.query(x), expected, atol=1e-6, rtol=0)
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
        faults = [fault for fault in FAULTS if fault not in ("time-out", "no probabilities")]
        with answering(Spoiler(upstream, seed=0, faults=faults, clean=0.8)) as url:
            patience = Patience(connect_timeout=30, read_timeout=60, attempts=4, garbled=4, backoff=0.01, jitter=0.01)
            for _ in range(20):
                teacher = RemoteHardLabelTeacher(url, "toy", "index", known_as="toy", patience=patience, max_batch=16)
                with suppress(RuntimeError):
                    spoilt = label(tmp_path, "spoilt", teacher)
                    break
    assert spoilt.columns.keys() == plain.columns.keys()
    for name, column in plain.columns.items():
        assert torch.equal(spoilt.columns[name], column), name
    totals = QueryLedger("ledger.sqlite").totals()
    assert totals.twice == 0
    assert totals.paid >= model.answered >= totals.unique
    assert totals.unique <= plain.manifest["queries"] == spoilt.manifest["queries"]


def _serve(port, key):
    model = served("hard", count_file="count")
    config = uvicorn.Config(create_app(model, api_key=key), host="127.0.0.1", port=port, log_level="critical")
    uvicorn.Server(config).run()


def _distil(port):
    os.environ["KDL_KEY"] = "s3cret"
    patience = Patience(
        connect_timeout=30, read_timeout=60, attempts=1000, backoff=0.1, longest_backoff=0.2, jitter=0.01
    )
    teacher = RemoteHardLabelTeacher(
        f"http://127.0.0.1:{port}", "toy", "index", api_key_env="KDL_KEY", patience=patience, max_batch=2, concurrency=2
    )
    for part in range(60):
        teacher.query(images(8, seed=part))


def test_kills_of_client_and_server_lose_nothing():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    context = multiprocessing.get_context("fork")

    def start(target, *arguments):
        process = context.Process(target=target, args=arguments, daemon=True)
        process.start()
        if target is _serve:
            wait_for(lambda: httpx2.get(f"http://127.0.0.1:{port}/v2/health/ready").status_code == 200)
        return process

    def kill(process):
        os.kill(process.pid, signal.SIGKILL)
        process.join()

    QueryLedger("ledger.sqlite").close()
    ledger = QueryLedger("ledger.sqlite", readonly=True)
    server, client = start(_serve, port, "s3cret"), start(_distil, port)
    wait_for(lambda: ledger.totals().unique >= 40)
    kill(client)
    client = start(_distil, port)
    wait_for(lambda: ledger.totals().unique >= 200)
    kill(server)
    server = start(_serve, port, "s3cret")
    client.join(120)
    assert client.exitcode == 0
    kill(server)
    totals, answered = ledger.totals(), served("hard", count_file="count").answered
    assert (totals.unique, totals.twice) == (480, 0)
    assert totals.in_flight <= 2 * 2  # of the client that was killed
    assert totals.paid >= answered >= 480
    assert ledger.verify() == []
    alone = RemoteHardLabelTeacher(f"http://127.0.0.1:{port}", "toy", "index", offline=True)
    for part in (0, 30, 59):
        x = images(8, seed=part)
        assert torch.equal(alone.query(x), HardLabelTeacher(network()).query(x))


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


RUNTIME = """
import numpy as np
from pathlib import Path
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse


class Digits(MLModel):
    async def load(self):
        self.weights = np.load(Path(__file__).parent / "weights.npz")
        return True

    async def predict(self, payload):
        (pixels,) = payload.inputs
        logits = self.decode(pixels, default_codec=NumpyCodec) @ self.weights["w"] + self.weights["b"]
        with (Path(__file__).parent / "answered.txt").open("a") as log:
            log.write(f"{len(logits)}\\n")
        answers = {
            "probabilities": np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)),
            "label": logits.argmax(1),
        }
        wanted = [output.name for output in payload.outputs or []] or list(answers)
        outputs = [NumpyCodec.encode_output(name, answers[name]) for name in wanted]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
"""
MLSERVER = os.environ.get("KDLIGHTNING_MLSERVER") or shutil.which("mlserver")


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory):
    """Yields MLServer's url, the classifier that it serves and the file in which it counts."""
    if MLSERVER is None:
        pytest.skip("MLServer is not installed; name its command in KDLIGHTNING_MLSERVER")
    directory = tmp_path_factory.mktemp("mlserver")
    data = DigitsDataModule(image_size=16)
    data.prepare_data()
    data.setup()
    x, y = data.train_set.images.flatten(1).numpy() / 255, data.train_set.labels.numpy()
    classifier = LogisticRegression(max_iter=200).fit(x, y)
    np.savez(directory / "weights.npz", w=classifier.coef_.T, b=classifier.intercept_)
    (directory / "runtime.py").write_text(RUNTIME)
    about = {
        "name": "digits", "implementation": "runtime.Digits", "parameters": {"version": "v1"},
        "inputs": [{"name": "pixels", "datatype": "FP64", "shape": [-1, 256]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP64", "shape": [-1, 10]},
            {"name": "label", "datatype": "INT64", "shape": [-1, 1]},
        ],
    }  # fmt: skip
    (directory / "model-settings.json").write_text(json.dumps(about))
    listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    http, grpc, metrics = (one.getsockname()[1] for one in listening)
    for one in listening:
        one.close()
    settings = {"debug": False, "host": "127.0.0.1", "http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    (directory / "settings.json").write_text(json.dumps(settings | {"parallel_workers": 0}))
    with (directory / "log").open("w") as log:
        process = subprocess.Popen([MLSERVER, "start", directory], cwd=directory, stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{http}"
        wait_for(lambda: httpx2.get(f"{url}/v2/models/digits/ready").status_code == 200, 120)
        yield url, classifier, directory / "answered.txt"
    finally:
        process.terminate()
        process.wait(60)


def answered(log):
    return sum(map(int, log.read_text().split())) if log.exists() else 0


def test_mlserver_s_answers_are_the_classifier_s(mlserver):
    url, classifier, log = mlserver
    before = answered(log)
    x = torch.rand(40, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    soft = RemoteSoftLabelTeacher(
        url,
        "digits",
        "probabilities",
        version="v1",
        tensors=Tensors(output="probabilities", layout="flat"),
        max_batch=16,
    )
    hard = RemoteHardLabelTeacher(
        url,
        "digits",
        "index",
        version="v1",
        tensors=Tensors(output="label", layout="flat"),
        num_classes=10,
        max_batch=16,
    )
    expected = classifier.predict_proba(x.flatten(1).double().numpy())
    np.testing.assert_allclose(soft.query(x).numpy(), expected, atol=1e-6)
    assert hard.query(x).tolist() == expected.argmax(1).tolist()
    assert (soft.num_classes, hard.num_classes) == (10, 10)
    assert soft.paid.queries == hard.paid.queries == 40
    assert answered(log) - before == 80
    soft.query(x)
    assert answered(log) - before == 80


def test_a_student_is_distilled_from_mlserver(mlserver):
    url, _, log = mlserver
    before = answered(log)
    tensors = {"output": "probabilities", "layout": "flat"}
    arguments = {"url": url, "model": "digits", "outputs": "probabilities", "tensors": tensors, "max_batch": 32}
    teacher = {"class_path": "RemoteSoftLabelTeacher", "init_args": arguments}
    student = {"class_path": "LeNet5Fifth", "init_args": {"image_size": 16}}
    kd = {"class_path": "KD", "init_args": {"student": student, "teacher": teacher, "query_once": True}}
    data = {**DATA, "init_args": {**DATA["init_args"], "image_size": 16}}
    config = {"seed_everything": 1, "model": kd, "data": data, "trainer": {**TRAINER, "logger": False}}
    Path("kd.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", "kd.yaml"]) == 0
    assert json.loads(Path("runs/kd/result.json").read_text())["queries"] == answered(log) - before == 48
