"""Hostile clients of `serve`: slow, endless, lying, many. An honest one is answered all the while."""

import json
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx2
import numpy as np
import pytest
import torch
from helpers import Linear
from servers import serving

from kdlightning.networks import save_network
from kdlightning.networks.lenet import LeNet5Fifth
from kdlightning.remote.protocol import ProtocolError
from kdlightning.serving import ServedModel, app, guard

SHAPE = (1, 4, 4)
X = np.full((2, *SHAPE), 0.5, np.float32)
INFER = "/v2/models/linear/infer"
HEAD = f"POST {INFER} HTTP/1.1\r\nHost: x\r\n".encode()


def served(classes=3, **options):
    weight = torch.randn(classes, 16, generator=torch.Generator().manual_seed(0))
    return ServedModel(Linear(weight), "linear", "soft", shape=SHAPE, **options)


def message(images=X):
    data = images.ravel().tolist()
    return {"inputs": [{"name": "images", "shape": list(images.shape), "datatype": "FP32", "data": data}]}


def ask(url, images=X):
    """An honest client's question; seconds until its answer."""
    began = time.monotonic()
    reply = httpx2.post(url + INFER, json=message(images), timeout=30)
    assert reply.status_code == 200, reply.text
    assert np.allclose(np.sum(reply.json()["outputs"][0]["data"]), len(images))
    return time.monotonic() - began


def connect(url, data=b""):
    connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20)
    connection.sendall(data)
    return connection


def rest(connection):
    """All that a connection still says, to its end."""
    said = b""
    with suppress(ConnectionResetError):
        while part := connection.recv(65536):
            said += part
    return said


def readable(connections):
    """The first to which something is said."""
    return select.select(connections, [], [], 20)[0][0]


@pytest.mark.tried("64 bodies that come slowly, or stop", "an honest client is answered at once")
def test_slow_bodies_hold_up_nobody():
    with serving(served()) as url, ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(connect(url, HEAD + b"Content-Length: 1000000\r\n\r\n" + b"0" * 1000))
        assert ask(url) < 5
        assert httpx2.get(f"{url}/v2/health/ready").status_code == 200


@pytest.mark.tried("bodies that fill the memory and stop", "the slowest give way to who comes")
def test_who_fills_the_memory_gives_way(monkeypatch):
    monkeypatch.setattr(guard, "_GRACE", 0.2)
    with serving(served(), max_body=100_000) as url, ExitStack() as stack:
        part = b"Content-Length: 99000\r\n\r\n" + b"0" * 95_000
        slow = [stack.enter_context(connect(url, HEAD + part)) for _ in range(4)]
        time.sleep(0.3)  # 380,000 bytes of 400,000
        more = stack.enter_context(connect(url, HEAD + part))
        assert rest(readable(slow)).startswith(b"HTTP/1.1 408")
        assert ask(url) < 5
        more.sendall(b"0" * 4_000)
        assert more.recv(100).startswith(b"HTTP/1.1 400")  # whole, and no JSON


def test_who_comes_when_nobody_is_slow_is_told_to_come_back(monkeypatch):
    monkeypatch.setattr(guard, "_GRACE", 60)
    with serving(served(), max_body=100_000) as url, ExitStack() as stack:
        part = b"Content-Length: 99000\r\n\r\n" + b"0" * 95_000
        slow = [stack.enter_context(connect(url, HEAD + part)) for _ in range(5)]
        said = rest(readable(slow))
        assert said.startswith(b"HTTP/1.1 503")
        assert b"retry-after: 1" in said


@pytest.mark.tried("400 heads that never end", "they are closed, and a new connection finds room")
def test_half_heads_are_closed_and_exhaust_nothing(monkeypatch):
    monkeypatch.setattr(guard, "_HEAD_SECONDS", 0.6)
    monkeypatch.setattr(guard, "_CONNECTIONS", 40)
    with serving(served()) as url, ExitStack() as stack:
        heads = [stack.enter_context(connect(url, HEAD)) for _ in range(400)]
        assert ask(url) < 5
        assert rest(heads[0]) == rest(heads[300]) == b""  # the oldest
        began = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - began < 10:  # a byte now and then is no head
                heads[-1].sendall(b"X")
                time.sleep(0.05)
        assert time.monotonic() - began < 8
        with connect(url, b"GET /v2 HTTP/1.1\r\nHost: x\r\n\r\n") as kept:
            assert kept.recv(100).startswith(b"HTTP/1.1 200")
            kept.sendall(b"POST /v2")
            rest(kept)  # ends, too


@pytest.mark.tried("a client that does not take its answer", "its connection is closed")
def test_an_answer_that_nobody_takes_is_given_up(monkeypatch):
    monkeypatch.setattr(guard, "_TAKE_SECONDS", 0.3)
    closed, close = threading.Event(), guard.GuardedProtocol.connection_lost
    monkeypatch.setattr(guard.GuardedProtocol, "connection_lost", lambda *args: (close(*args), closed.set()))
    images = np.full((64, *SHAPE), 0.5, np.float32)
    with serving(served(classes=10_000)) as url, socket.socket() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.settimeout(20)
        lazy.connect(("127.0.0.1", int(url.rpartition(":")[2])))
        body = json.dumps(message(images)).encode()
        lazy.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert closed.wait(20)
        assert 0 < len(rest(lazy)) < 12_000_000  # of some 14 million bytes
        assert ask(url) < 5


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"Content-Length: 10\r\n\r\n{}", b""),  # fewer bytes, then the end
        (b"Content-Length: 2\r\n\r\n{}GARBAGE / HTTP\r\n\r\n", b"400"),
        (b"Content-Length: -1\r\n\r\n", b"400"),
        (b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", b"400"),
        (b"Transfer-Encoding: chunked\r\n\r\n" + b"1;" + b"x" * 100_000, b"400"),
        (b"X: " + b"x" * 100_000 + b"\r\n\r\n", b"400"),
        (b"Inference-Header-Content-Length: 99999999\r\nContent-Length: 0\r\n\r\n", b"413"),
    ],
    ids=["short", "long", "negative", "twice", "chunk", "chunk's name", "head", "tensors' head"],
)
@pytest.mark.tried("lengths that lie", "an error for the liar, answers for others")
def test_lying_lengths(data, status):
    with serving(served()) as url:
        with connect(url, HEAD + data) as liar:
            if not status:
                liar.shutdown(socket.SHUT_WR)
            assert liar.recv(1000)[9:].startswith(status)
        assert ask(url) < 5


def test_long_json_is_refused_and_binary_is_not(monkeypatch):
    monkeypatch.setattr(app, "_JSON", 2_000)
    images = np.full((300, *SHAPE), 0.5, np.float32)
    head = json.dumps({"inputs": [{"name": "images", "shape": list(images.shape), "datatype": "FP32",
                                   "parameters": {"binary_data_size": images.nbytes}}]}).encode()  # fmt: skip
    with serving(served()) as url:
        reply = httpx2.post(url + INFER, json=message(images))
        assert reply.status_code == 413
        assert "at most 2000 bytes" in reply.text
        assert "binary tensors" in reply.text
        length = {"Inference-Header-Content-Length": str(len(head))}
        assert httpx2.post(url + INFER, content=head + images.tobytes(), headers=length).status_code == 200


@pytest.mark.tried("long bodies that are refused", "nothing of them stays in memory")
def test_a_refused_body_leaves_nothing(monkeypatch):
    class Parsed(list):
        pass

    seen = []

    def infer(body, length):
        parsed = Parsed()
        seen.append(weakref.ref(parsed))
        raise ProtocolError(f"expected less, got {len(parsed)}")

    model = served()
    monkeypatch.setattr(model, "infer", infer)
    with serving(model) as url:
        for _ in range(3):
            assert httpx2.post(url + INFER, json=message()).status_code == 400
        assert [reference() for reference in seen] == [None] * 3


@pytest.mark.tried("a queue of long bodies", "a short one goes first")
def test_a_short_body_waits_for_one_long_one_at_most(monkeypatch):
    model, order = served(), []
    infer, begun, go = model.infer, threading.Event(), threading.Event()

    def slowly(body, length):
        order.append(len(body))
        begun.set()
        go.wait(20)
        return infer(body, length)

    monkeypatch.setattr(model, "infer", slowly)
    many = np.full((200, *SHAPE), 0.5, np.float32)
    with serving(model) as url:
        threads = [threading.Thread(target=ask, args=(url, many)) for _ in range(4)]
        for thread in threads:
            thread.start()
        assert begun.wait(20)
        short = threading.Thread(target=ask, args=(url,))
        short.start()
        time.sleep(0.5)
        go.set()
        for thread in [*threads, short]:
            thread.join(20)
    assert order[1] == min(order) < order[0] == max(order)
    assert len(order) == 5


def attack(url, stop, seed):
    """One hostile client after another until it is over."""
    draw = random.Random(seed)
    bodies = [
        lambda: HEAD + b"Content-Length: 1000000\r\n\r\n" + b"[" * draw.randrange(100_000),
        lambda: HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"fff\r\n" + b"9" * 0xFFF + b"\r\n",
        lambda: HEAD[: draw.randrange(1, len(HEAD))],
        lambda: draw.randbytes(draw.randrange(1, 5000)),
        lambda: HEAD + b"Content-Length: 30\r\n\r\n" + b'{"inputs": [{"name": "images"}',
        lambda: HEAD + b"Content-Length: 4000000\r\n\r\n" + b"[" + b"0.123," * 600_000 + b"0" * 399_999,
    ]
    while not stop.is_set():
        with suppress(OSError), connect(url, draw.choice(bodies)()) as connection:
            connection.settimeout(draw.uniform(0.01, 1))
            connection.recv(100)


def besiege(url, seconds, attackers, honest, images=X):
    """Attack, and ask honestly meanwhile; how long the answers took."""
    stop, took = threading.Event(), []

    def questions():
        while not stop.is_set():
            try:
                took.append(ask(url, images=images))
            except BaseException as error:  # noqa: BLE001 - told at the end
                took.append(repr(error))

    threads = [threading.Thread(target=attack, args=(url, stop, seed)) for seed in range(attackers)]
    threads += [threading.Thread(target=questions) for _ in range(honest)]
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join(60)
    return took


def test_a_short_siege():
    with serving(served(), max_body=10_000_000) as url:
        took = besiege(url, 1.0, attackers=8, honest=1)
        assert ask(url) < 5
    assert took
    assert [answer for answer in took if not isinstance(answer, float) or answer > 5] == []


def memory(process):
    status = Path(f"/proc/{process}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) >> 10


@pytest.mark.slow
@pytest.mark.tried("64 hostile clients at once for a minute", "right answers in time, memory flat", times=64)
def test_a_siege_of_a_minute_and_a_stop_in_mid_request(tmp_path):
    torch.manual_seed(0)
    save_network(LeNet5Fifth(num_classes=3), tmp_path / "linear" / "network")
    command = [sys.executable, "-m", "kdlightning", "serve", "linear/network", "--response", "soft", "--port", "0"]
    process = subprocess.Popen([*command, "--grace", "5"], stdout=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().split()[-1]
        images = np.full((2, 1, 28, 28), 0.5, np.float32)
        ask(url, images=images)
        besiege(url, 10, attackers=64, honest=2, images=images)
        before = memory(process.pid)
        took = besiege(url, 50, attackers=64, honest=2, images=images)
        assert memory(process.pid) - before < 200
        assert [answer for answer in took if not isinstance(answer, float) or answer > 20] == []
        assert len(took) > 50
        with ExitStack() as stack:
            for _ in range(20):  # bodies that never end
                stack.enter_context(connect(url, HEAD + b"Content-Length: 100000\r\n\r\n" + b"[" * 10))
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert process.wait(30) == 0
            assert time.monotonic() - began < 15
        assert "images answered" in process.stdout.read()
    finally:
        process.kill()
