"""Distillation from a server that is not ours: MLServer, in an environment of its own (`make mlserver`)."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx2
import numpy as np
import pytest
import torch
import yaml
from sklearn.linear_model import LogisticRegression

from kdlightning.__main__ import main
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.data import DigitsDataModule, TransferSet
from kdlightning.remote import RemoteHardLabelTeacher, RemoteSoftLabelTeacher, Tensors

RUNTIME = """
import numpy as np
from pathlib import Path
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse
from prometheus_client import Counter


class Digits(MLModel):
    async def load(self):
        self.answered = Counter("images_answered", "Images answered")  # its own metrics count requests only
        self.weights = np.load(Path(__file__).parent / "weights.npz")
        return True

    async def predict(self, payload):
        (pixels,) = payload.inputs
        logits = self.decode(pixels, default_codec=NumpyCodec) @ self.weights["w"] + self.weights["b"]
        self.answered.inc(len(logits))
        answers = {
            "probabilities": np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)),
            "label": logits.argmax(1),
        }
        wanted = [output.name for output in payload.outputs or []] or list(answers)
        outputs = [NumpyCodec.encode_output(name, answers[name]) for name in wanted]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)
"""
BESIDE = Path(sys.prefix) / "mlserver" / "bin" / "mlserver"
MLSERVER = os.environ.get("KDLIGHTNING_MLSERVER") or (BESIDE if BESIDE.exists() else shutil.which("mlserver"))
SIZE = 16


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory):
    """Yields MLServer's url, the classifier that it serves, and what it has counted so far."""
    if MLSERVER is None:
        pytest.skip("MLServer is not installed: `make mlserver`, or name its command in KDLIGHTNING_MLSERVER")
    directory = tmp_path_factory.mktemp("mlserver")
    data = DigitsDataModule(image_size=SIZE)
    data.prepare_data()
    data.setup()
    x, y = data.train_set.images.flatten(1).numpy() / 255, data.train_set.labels.numpy()
    classifier = LogisticRegression(max_iter=200).fit(x, y)
    np.savez(directory / "weights.npz", w=classifier.coef_.T, b=classifier.intercept_)
    (directory / "runtime.py").write_text(RUNTIME)
    about = {
        "name": "digits", "implementation": "runtime.Digits", "parameters": {"version": "v1"},
        "inputs": [{"name": "pixels", "datatype": "FP64", "shape": [-1, SIZE**2]}],
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

    def counted():
        """Images and requests answered, as the server's metrics tell."""
        text = httpx2.get(f"http://127.0.0.1:{metrics}/metrics").text
        names = ("images_answered_total", "model_infer_request_success_total")
        found = [re.search(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE) for name in names]
        return [0 if value is None else int(float(value[1])) for value in found]

    try:
        url = f"http://127.0.0.1:{http}"
        wait_until_ready(f"{url}/v2/models/digits/ready", process, directory / "log")
        yield url, classifier, counted
    finally:
        process.terminate()
        process.wait(60)


def wait_until_ready(url, process, log, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with suppress(httpx2.TransportError):
            if httpx2.get(url).status_code == 200:
                return
        time.sleep(0.05)
    raise AssertionError(log.read_text())


def spent(mlserver, before):
    """Images and requests that the server has counted since."""
    return tuple(now - then for now, then in zip(mlserver[2](), before, strict=True))


def test_its_answers_are_the_classifier_s(mlserver):
    url, classifier, counted = mlserver
    before = counted()
    x = torch.rand(40, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    soft = RemoteSoftLabelTeacher(
        url, "digits", "probabilities", version="v1", max_batch=16,
        tensors=Tensors(output="probabilities", layout="flat"),
    )  # fmt: skip
    hard = RemoteHardLabelTeacher(
        url, "digits", "index", version="v1", max_batch=16, num_classes=10,
        tensors=Tensors(output="label", layout="flat"),
    )  # fmt: skip
    expected = classifier.predict_proba(x.flatten(1).double().numpy())
    np.testing.assert_allclose(soft.query(x).numpy(), expected, atol=1e-6)
    assert hard.query(x).tolist() == expected.argmax(1).tolist()
    assert (soft.num_classes, hard.num_classes) == (10, 10)
    assert soft.paid.queries == hard.paid.queries == 40
    soft.query(x)  # from the ledger
    assert spent(mlserver, before) == (80, 6)


STUDENT = {"class_path": "LeNet5Fifth", "init_args": {"image_size": SIZE}}
SOURCE = {"num_samples": 96, "num_val": 32, "batch_size": 16, "image_size": SIZE, "unlabelled": True}
DATA = {"class_path": "DigitsDataModule", "init_args": SOURCE}
TRAINER = {
    "accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False, "logger": False,
}  # fmt: skip


def teacher(url, access, **arguments):
    """A teacher of this access, for a configuration."""
    outputs, output = {"Soft": ("probabilities", "probabilities"), "Hard": ("index", "label")}[access]
    tensors = {"output": output, "layout": "flat"}
    arguments |= {"url": url, "model": "digits", "version": "v1", "outputs": outputs, "tensors": tensors}
    return {"class_path": f"Remote{access}LabelTeacher", "init_args": {"num_classes": 10, **arguments}}


def do(command, name, model, data, **arguments):
    """Run a command of the package on a configuration in a file."""
    trainer = {**TRAINER, "default_root_dir": name}
    config = {"seed_everything": 1, "model": model, "data": data, "trainer": trainer, **arguments}
    Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
    assert main([command, "--config", f"{name}.yaml"]) == 0


def queries_of(run):
    return json.loads(Path(run, "result.json").read_text())["queries"]


@pytest.mark.parametrize("access", ["Soft", "Hard"])
def test_knockoff_nets(mlserver, access):
    url, classifier, counted = mlserver
    before = counted()
    asks = {"teacher": teacher(url, access, budget=70, max_batch=32), "output": "asked", "queries": 70}
    do("predict", "ask", {"class_path": "KnockoffSelection", "init_args": asks}, DATA, return_predictions=False)
    images, requests = spent(mlserver, before)
    assert (images, requests) == (70, 3)
    rows = TransferSet("asked").columns
    expected = classifier.predict_proba(rows["image"].flatten(1).double().numpy() / 255)
    if access == "Soft":
        np.testing.assert_allclose(rows["answer"].numpy(), expected, atol=1e-6)
    else:
        assert rows["answer"].tolist() == expected.argmax(1).tolist()
    pool = {"class_path": "GeneratedDataModule", "init_args": {"source": DATA, "path": "asked"}}
    do("fit", "student", {"class_path": "AnsweredKD", "init_args": {"student": STUDENT}}, pool)
    assert queries_of("student") == images == QueryLedger("ledger.sqlite").totals().paid
    assert spent(mlserver, before) == (images, requests)


def test_mekd(mlserver):
    url, _, counted = mlserver
    before = counted()
    generator = {"class_path": "TransposedGenerator", "init_args": {"image_size": SIZE, "width": 16}}
    critic = {"class_path": "DCGANCritic", "init_args": {"image_size": SIZE, "width": 2}}
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}  # images that differ: copies are free
    phase = {"generator": generator, "critic": critic, "queries": 30, "generator_optimizer": adam}
    phase |= {"teacher": teacher(url, "Soft", budget=100)}
    do("fit", "generator", {"class_path": "MEKDGenerator", "init_args": phase}, DATA)
    assert queries_of("generator") == spent(mlserver, before)[0] == 30
    pool = {"source": DATA, "generator": "generator/network", "size": 50}
    answers = {"teacher": teacher(url, "Soft", budget=80), "output": "pool"}
    do(
        "predict", "pool", {"class_path": "TeacherAnswers", "init_args": answers},
        {"class_path": "GeneratedDataModule", "init_args": pool}, return_predictions=False,
    )  # fmt: skip
    student = {"student": STUDENT, "generator": "generator/network"}
    data = {"class_path": "GeneratedDataModule", "init_args": {"source": DATA, "path": "pool"}}
    do("fit", "student", {"class_path": "MEKD", "init_args": student}, data)
    paid = QueryLedger("ledger.sqlite").totals().paid
    assert queries_of("student") == spent(mlserver, before)[0] == paid == 80


def test_kd(mlserver):
    url, _, counted = mlserver
    before = counted()
    kd = {"student": STUDENT, "teacher": teacher(url, "Soft", max_batch=32), "query_once": True}
    do("fit", "student", {"class_path": "KD", "init_args": kd}, DATA)
    assert queries_of("student") == spent(mlserver, before)[0] == 96
