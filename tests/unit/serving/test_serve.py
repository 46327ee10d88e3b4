import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx2
import numpy as np
import pytest
import torch
from helpers import Linear, rehearsed
from servers import running, serving

from kdlightning.__main__ import main
from kdlightning.commands.serve import _listen
from kdlightning.networks import LeNet5Fifth, fingerprint, save_network
from kdlightning.remote import RemoteSoftLabelTeacher, RemoteTeacherError
from kdlightning.serving import ServedModel, create_app
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher

SHAPE = (1, 4, 4)
CLIENT = httpx2.Client()


def network():
    return Linear(torch.randn(3, 16, generator=torch.Generator().manual_seed(0)))


def served(response="soft", net=None, **options):
    return ServedModel(net or network(), "linear", response, shape=SHAPE, **options)


def images(number, seed=0):
    return torch.rand(number, *SHAPE, generator=torch.Generator().manual_seed(seed))


def tensor(x, **changes):
    data = x.flatten().tolist()
    return {"name": "images", "shape": list(x.shape), "datatype": "FP32", "data": data, **changes}


def post(url, body, **options):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return CLIENT.post(f"{url}/v2/models/linear/infer", content=body, **options)


@pytest.fixture(scope="module")
def model():
    return served(max_batch=8)


@pytest.fixture(scope="module")
def url(model):
    with serving(model, max_body=100_000) as address:
        yield address


def test_the_protocol_s_descriptions(url):
    version = fingerprint(network())[:16]
    get = {
        path: CLIENT.get(f"{url}/v2{path}") for path in ("", "/health/live", "/health/ready", "/models/linear/ready")
    }
    assert all(response.status_code == 200 for response in get.values())
    assert get[""].json()["name"] == "kdlightning"
    assert get[""].json()["extensions"] == ["binary_tensor_data"]
    assert get["/models/linear/ready"].json() == {"name": "linear", "ready": True}
    about = CLIENT.get(f"{url}/v2/models/linear").json()
    assert about["versions"] == [version]
    assert about["inputs"] == [{"name": "images", "datatype": "FP32", "shape": [-1, 1, 4, 4]}]
    assert about["outputs"][0] | {"parameters": None} == {
        "name": "probabilities", "datatype": "FP32", "shape": [-1, 3], "parameters": None,
    }  # fmt: skip
    assert CLIENT.get(f"{url}/v2/models/linear/versions/{version}").json() == about
    for path in ("/v2/models/other", "/v2/models/linear/versions/1", "/v3"):
        response = CLIENT.get(url + path)
        assert response.status_code == 404
        assert response.json()["error"]


@pytest.mark.parametrize("response", ["soft", "hard", "logits"])
def test_json_and_binary_answers_are_the_local_teacher_s(response):
    x = images(5)
    name = {"soft": "probabilities", "hard": "label", "logits": "logits"}[response]
    expected = {
        "soft": SoftLabelTeacher(network()).query,
        "hard": HardLabelTeacher(network()).query,
        "logits": network(),
    }
    expected = expected[response](x).numpy()
    model = served(response)
    with serving(model) as url:
        message = post(url, {"id": "7", "inputs": [tensor(x)]}).json()
        assert message["id"] == "7"
        assert message["model_version"] == model.version
        (output,) = message["outputs"]
        assert (output["name"], output["shape"]) == (name, list(expected.shape))
        np.testing.assert_allclose(np.reshape(output["data"], output["shape"]), expected, atol=1e-7)
        raw = x.numpy().tobytes()
        described = {"name": "images", "shape": [5, 1, 4, 4], "datatype": "FP32"}
        described["parameters"] = {"binary_data_size": len(raw)}
        for asked in (
            {"parameters": {"binary_data_output": True}},
            {"outputs": [{"name": name, "parameters": {"binary_data": True}}]},
        ):
            head = json.dumps({"inputs": [described], **asked}).encode()
            reply = post(url, head + raw, headers={"Inference-Header-Content-Length": str(len(head))})
            length = int(reply.headers["Inference-Header-Content-Length"])
            output = json.loads(reply.content[:length])["outputs"][0]
            values = reply.content[length:]
            assert output["parameters"] == {"binary_data_size": len(values)}
            dtype = {"FP32": "<f4", "INT64": "<i8"}[output["datatype"]]
            np.testing.assert_allclose(np.frombuffer(values, dtype).reshape(output["shape"]), expected, atol=1e-7)
    assert model.answered == 15


X = images(2)
DEEP = b'{"inputs":' + b"[" * 5000 + b"]" * 5000 + b"}"
BAD = {
    "no JSON": (b"\x00\x01", "expected JSON"),
    "a list": ([1], "expected a JSON object"),
    "nothing": (b"", "expected JSON"),
    "deep": (DEEP, "expected"),
    "no inputs": ({}, "a list of tensors named 'inputs'"),
    "no tensor": ({"inputs": [7]}, "a list of tensors named 'inputs'"),
    "two inputs": ({"inputs": [tensor(X), tensor(X, name="b")]}, "expected one input named 'images'"),
    "name": ({"inputs": [tensor(X, name="pixels")]}, "expected one input named 'images', got \"['pixels']\""),
    "no name": ({"inputs": [tensor(X, name=None)]}, "a tensor with a 'name'"),
    "datatype": ({"inputs": [tensor(X, datatype="FP64")]}, r"expected FP32 of shape [N, 1, 4, 4]"),
    "unknown datatype": ({"inputs": [tensor(X, datatype="FLOAT")]}, "expected a datatype among"),
    "shape": ({"inputs": [tensor(X, shape=[2, 16])]}, "expected FP32 of shape [N, 1, 4, 4] with 1 <= N <= 8"),
    "negative shape": ({"inputs": [tensor(X, shape=[-1, 1, 4, 4])]}, "a shape of whole numbers"),
    "shape of text": ({"inputs": [tensor(X, shape="2,1,4,4")]}, "a shape of whole numbers"),
    "huge shape": ({"inputs": [tensor(X, shape=[2**30] * 4)]}, "values for the shape"),
    "too few values": ({"inputs": [tensor(X, data=[0.5] * 31)]}, "expected 32 values for the shape"),
    "ragged": ({"inputs": [tensor(X, data=[[0.1], [0.1, 0.2]])]}, "ragged"),
    "text": ({"inputs": [tensor(X, data=["0.5"] * 32)]}, "expected FP32 numbers"),
    "null": ({"inputs": [tensor(X, data=[None] * 32)]}, "expected FP32 numbers"),
    "no data": ({"inputs": [tensor(X, data=0.5)]}, "expected 32 values"),
    "NaN": ({"inputs": [tensor(X, data=[float("nan")] * 32)]}, "expected pixels in [0, 1], got [nan, nan]"),
    "bright": ({"inputs": [tensor(X, data=[255.0] * 32)]}, "expected pixels in [0, 1], got [255, 255]"),
    "overflow": ({"inputs": [tensor(X, data=[1e300] * 32)]}, "expected pixels in [0, 1], got [inf, inf]"),
    "too many": ({"inputs": [tensor(images(9))]}, "1 <= N <= 8"),
    "none": ({"inputs": [tensor(images(0))]}, "1 <= N <= 8"),
    "output": ({"inputs": [tensor(X)], "outputs": [{"name": "logits"}]}, "only the output 'probabilities'"),
    "outputs": ({"inputs": [tensor(X)], "outputs": "all"}, "'outputs' to be a list"),
    "parameter": ({"inputs": [tensor(X)], "parameters": {"binary_data_output": "yes"}}, "to be true or false"),
    "binary and data": ({"inputs": [tensor(X, parameters={"binary_data_size": 8})]}, "either 'data' or"),
    "binary size": ({"inputs": [tensor(X, parameters={"binary_data_size": -1})]}, "a number of bytes"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_malformed_requests_are_told_what_was_expected(model, url, case):
    body, text = BAD[case]
    before = model.answered
    response = post(url, body)
    assert response.status_code == 400, response.text
    assert text in response.json()["error"]
    assert model.answered == before


@pytest.mark.parametrize(
    ("length", "size", "tail", "text"),
    [
        ("9999", 128, b"", "between 1 and the body's"),
        ("x", 128, b"", "expected a number of bytes in the header"),
        (None, 127, b"", "expected 128 bytes for FP32 of shape [2, 1, 4, 4], got 127"),
        (None, 200, b"", "expected 200 bytes of binary data"),
        (None, 128, b"more", "expected no bytes after the last tensor, got 4"),
    ],
)
def test_malformed_binary_requests(url, length, size, tail, text):
    described = {"name": "images", "shape": [2, 1, 4, 4], "datatype": "FP32", "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [described]}).encode()
    body = head + X.numpy().tobytes()[:size] + tail
    response = post(url, body, headers={"Inference-Header-Content-Length": length or str(len(head))})
    assert response.status_code == 400
    assert text in response.json()["error"]


def test_a_key_is_asked_for_everywhere_but_by_the_probes():
    model = served()
    with serving(model, api_key="secret-7") as url:
        paths = ("/v2", "/v2/models/linear", "/metrics", "/openapi.json", "/nothing")
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "secret-7"},
            {"X-API-Key": "secret-7"},
        ):
            assert {CLIENT.get(url + path, headers=headers).status_code for path in paths} == {401}
            response = post(url, {"inputs": [tensor(X)]}, headers=headers)
            assert response.status_code == 401
            assert "secret-7" not in response.text
        assert CLIENT.get(f"{url}/v2/health/live").status_code == 200
        assert CLIENT.get(f"{url}/v2/health/ready").status_code == 200
        assert model.answered == 0
        right = {"Authorization": "Bearer secret-7"}
        assert post(url, {"inputs": [tensor(X)]}, headers=right).status_code == 200
        assert model.answered == 2
        count = f'kdlightning_images_answered_total{{model="linear",version="{model.version}"}} 2\n'
        assert count in CLIENT.get(f"{url}/metrics", headers=right).text


def test_too_long_a_body_is_refused_without_reading_it(url):
    port = int(url.rpartition(":")[2])
    head = b"POST /v2/models/linear/infer HTTP/1.1\r\nHost: x\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head + b"Content-Length: 10000000000\r\n\r\n")  # and not a byte of the body
        answer = connection.makefile("rb").read()  # to its end: the server hangs up
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"at most 100000 bytes, got 10000000000" in answer
    sent = 0
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
        connection.setblocking(True)
        connection.settimeout(0.05)
        answer = b""
        while not answer and sent < 50_000_000:
            try:
                connection.sendall(b"%x\r\n%s\r\n" % (10_000, b"0" * 10_000))
                sent += 10_000
            except (BrokenPipeError, ConnectionResetError):
                pass
            try:
                answer = connection.recv(65536)
            except TimeoutError:
                continue
        assert answer.startswith(b"HTTP/1.1 413")
    assert 100_000 < sent < 2_000_000
    assert post(url, {"inputs": [tensor(X)]}).status_code == 200


def test_what_breaks_inside_is_not_told(caplog):
    class Broken(Linear):
        def forward(self, x):
            if len(x) > 1 and not rehearsed(x):
                raise RuntimeError("the weights of the secret project")
            return super().forward(x)

    with serving(served(net=Broken(network().weight))) as url:
        response = post(url, {"inputs": [tensor(X)]})
        assert response.status_code == 500
        assert "secret project" not in response.text
        assert post(url, {"inputs": [tensor(X[:1])]}).status_code == 200


def test_a_stop_lets_answers_finish():
    class Slow(Linear):
        def forward(self, x):
            if len(x) > 1 and not rehearsed(x):
                began.set()
                time.sleep(0.7)
            return super().forward(x)

    began, answers = threading.Event(), []
    with running(create_app(served(net=Slow(network().weight)))) as url:
        thread = threading.Thread(target=lambda: answers.append(post(url, {"inputs": [tensor(X)]}, timeout=30)))
        thread.start()
        assert began.wait(20)
    thread.join(20)
    assert answers[0].status_code == 200


def test_the_count_survives_a_restart(tmp_path):
    for expected in (2, 4):
        model = served(count_file=tmp_path / "count")
        with serving(model) as url:
            post(url, {"inputs": [tensor(X)]})
        assert model.answered == expected


def test_a_network_that_does_not_tell_its_shape_has_to_be_helped():
    with pytest.raises(ValueError, match=r"does not tell the shape of its images; give it \(--shape C H W\)"):
        ServedModel(network(), "linear", "soft")
    with pytest.raises(ValueError, match="does not take images of shape"):
        ServedModel(network(), "linear", "soft", shape=(3, 4, 4))
    own = ServedModel(LeNet5Fifth(num_classes=10), "lenet", "hard")
    assert (own.shape, own.num_classes, own.answered) == ((1, 28, 28), 10, 0)


def start(*arguments, **environment):
    process = subprocess.Popen(
        [sys.executable, "-m", "kdlightning", "serve", *arguments, "--port", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    return process, process.stdout.readline()


def test_the_command_serves_until_it_is_told_to_stop(tmp_path):
    net = LeNet5Fifth(num_classes=10)
    save_network(net, tmp_path / "teacher" / "network")
    (tmp_path / "key").write_text("from-a-file\n")
    process, line = start("teacher/network", "--response", "soft", "--api-key-file", "key")
    try:
        assert line.startswith(
            f"serving teacher (version {fingerprint(net)[:16]}, soft, images [1, 28, 28], 10 classes)"
        )
        url = line.split()[-1]
        assert url.startswith("http://127.0.0.1:")
        assert "from-a-file" not in line
        teacher = RemoteSoftLabelTeacher(url, "teacher", "probabilities", api_key_file="key", ledger=None)
        x = torch.rand(3, 1, 28, 28)
        torch.testing.assert_close(teacher.query(x), SoftLabelTeacher(net).query(x), atol=1e-6, rtol=0)
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=60)[0] == "stopped; 3 images answered\n"
        assert process.returncode == 0
    finally:
        process.kill()


def test_small_answers_do_not_wait_for_acknowledgements():
    with _listen("127.0.0.1", 0) as listening:
        assert listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        with pytest.raises(OSError, match="choose another --port"):
            _listen("127.0.0.1", listening.getsockname()[1])


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["nowhere", "--response", "soft"], "there is no saved network at nowhere"),
        (["net", "--response", "soft", "--host", "0.0.0.0"], "whoever reaches 0.0.0.0 could ask this server"),
        (["net", "--response", "soft", "--api-key-env", "KDL_NO_SUCH_KEY"], "KDL_NO_SUCH_KEY, which is not set"),
        (["net", "--response", "soft", "--api-key-file", "none"], "expected a key in the file none"),
        (["net", "--response", "hard", "--shape", "3", "32", "32"], "does not take images of shape"),
    ],
)
def test_the_command_refuses_with_a_reason(capsys, arguments, text):
    save_network(LeNet5Fifth(num_classes=10), "net")
    assert main(["serve", *arguments]) == 2
    assert text in capsys.readouterr().err


def test_without_the_extra_its_name_is_told(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", "net", "--response", "soft"]) == 2
    assert "pip install starlette uvicorn" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    with pytest.raises(ImportError, match=r"pip install starlette uvicorn"):
        create_app(served())


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
def test_certificates_are_verified(tmp_path, monkeypatch):
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    extension = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*command.split(), *extension], check=True, capture_output=True)
    with running(create_app(served()), ssl_certfile="cert.pem", ssl_keyfile="key.pem") as url:
        url = url.replace("http:", "https:")
        with pytest.raises(RemoteTeacherError, match="certificate cannot be verified"):
            RemoteSoftLabelTeacher(url, "linear", "probabilities", ledger=None)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        teacher = RemoteSoftLabelTeacher(url, "linear", "probabilities", ledger=None)
        assert teacher.query(X).shape == (2, 3)
