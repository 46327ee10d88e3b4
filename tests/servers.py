"""Servers on 127.0.0.1 for tests: ours in a thread, one that does what a test says, and a proxy that spoils answers."""

import http.client
import http.server
import json
import random
import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress

import numpy as np
import uvicorn

from kdlightning.serving import create_app
from kdlightning.serving.guard import GuardedProtocol


@contextmanager
def serving(model, **options):
    """Our server in a thread; yields its url."""
    with running(create_app(model, **options)) as url:
        yield url


@contextmanager
def running(app, **options):
    """Any application in a thread; yields its url."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    options = {"lifespan": "off", "timeout_graceful_shutdown": 5, "http": GuardedProtocol, "ws": "none", **options}
    config = uvicorn.Config(app, log_level="critical", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    answer = None

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    do_GET = do_PUT = do_POST  # noqa: N815 - http.server's names

    def reply(self, status, body=b"", headers=(), cut=None):
        """Answer; ``cut``: hang up after so many bytes of the body."""
        body = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.hang_up()

    def hang_up(self):
        """Close with a reset, as a process that dies does."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def finish(self):
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *arguments):
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *arguments):
        self.connections = []
        super().__init__(*arguments)

    def get_request(self):
        self.connections.append(super().get_request())
        return self.connections[-1]

    def handle_error(self, request, client_address):
        pass  # clients that gave up

    def hang_up(self):
        for connection, _ in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def answering(answer, port=0):
    """A server whose answers are ``answer(handler, body)``; yields its url."""
    handler = type("Handler", (_Handler,), {"answer": lambda handler, body: answer(handler, body)})
    server = _Server(("127.0.0.1", port), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        server.hang_up()
        thread.join(20)


FAULTS = (
    "429", "503 with Retry-After", "503", "500 before", "502 after", "hang up before", "hang up after",
    "hang up in the body", "time-out", "HTML", "wrong shape", "NaN", "no probabilities", "no JSON",
)  # fmt: skip
FALSE = ("wrong shape", "NaN", "no probabilities")  # said in a whole message: nobody asks again


class Spoiler:
    """Passes requests on to ``upstream`` and spoils the inference answers as the seeded schedule says.

    Attributes:
        again: images that were asked although ``known`` knew them, as the bytes that were sent.
        happened: how often each fault was injected.
    """

    def __init__(self, upstream, seed, faults=FAULTS, clean=0.5, sleep=1.2, known=lambda image: False):
        self.host = upstream.removeprefix("http://")
        self.sleep = sleep
        self.random = random.Random(seed)
        self.schedule = []
        self.faults, self.clean = faults, clean
        self.lock = threading.Lock()
        self.known, self.again, self.happened = known, [], {}

    def next_fault(self):
        with self.lock:
            if not self.schedule:  # every fault comes before one comes again
                number = int(len(self.faults) * self.clean / (1 - self.clean))
                self.schedule = [*self.faults, *[None] * number]
                self.random.shuffle(self.schedule)
            fault = self.schedule.pop()
            if fault:
                self.happened[fault] = self.happened.get(fault, 0) + 1
            return fault

    def __call__(self, handler, body):
        if handler.command == "GET":
            status, headers, answer = self.forward(handler, body)
            handler.reply(status, answer, headers)
            return
        self.again += [image for image in self.images(handler, body) if self.known(image)]
        self.spoil(handler, body, self.next_fault())

    def spoil(self, handler, body, fault):
        if fault in ("429", "503 with Retry-After"):
            handler.reply(int(fault[:3]), {"error": "slow down"}, {"Retry-After": "0"})
        elif fault in ("503", "500 before"):
            handler.reply(int(fault[:3]), b"upstream is away")
        elif fault == "hang up before":
            handler.hang_up()
        else:
            status, headers, answer = self.forward(handler, body)
            assert status == 200, answer
            if fault is None:
                handler.reply(200, answer, headers)
            elif fault == "502 after":
                handler.reply(502, b"<html>Bad gateway</html>")
            elif fault == "hang up after":
                handler.hang_up()
            elif fault == "hang up in the body":
                handler.reply(200, answer, headers, cut=len(answer) // 2)
            elif fault == "time-out":
                time.sleep(self.sleep)
                handler.hang_up()
            elif fault in ("HTML", "no JSON"):
                handler.reply(200, b"<html>Sign in</html>" if fault == "HTML" else answer[: len(answer) // 3])
            else:
                length = {name.lower(): value for name, value in headers.items()}.get("inference-header-content-length")
                handler.reply(200, self.falsify(answer, length and int(length), fault))

    @staticmethod
    def falsify(answer, length, fault):
        """A wrong answer, in JSON."""
        message = json.loads(answer[:length])
        output = message["outputs"][0]
        if length:
            dtype = {"FP32": "<f4", "INT64": "<i8"}[output["datatype"]]
            output["data"] = np.frombuffer(answer[length:], dtype).tolist()
            output.pop("parameters")
        if fault == "wrong shape":
            output["shape"] = [1, *output["shape"]]
        elif output["datatype"] != "FP32":
            output["data"][0] = 1000
        elif fault == "NaN":
            output["data"][0] = float("nan")
        else:
            output["data"][0] += 0.1
        return message

    @staticmethod
    def images(handler, body):
        """The images of a request with binary tensors, each as its bytes."""
        length = handler.headers.get("Inference-Header-Content-Length")
        if length is None:
            return []
        number = json.loads(body[: int(length)])["inputs"][0]["shape"][0]
        data = body[int(length) :]
        size = len(data) // number
        return [data[k * size : (k + 1) * size] for k in range(number)]

    def forward(self, handler, body):
        connection = http.client.HTTPConnection(self.host, timeout=30)
        try:
            names = ("Content-Type", "Inference-Header-Content-Length", "Authorization")
            headers = {name: handler.headers[name] for name in names if name in handler.headers}
            connection.request(handler.command, handler.path, body, headers)
            response = connection.getresponse()
            names = ("content-type", "inference-header-content-length")
            return (
                response.status,
                {name: value for name, value in response.getheaders() if name.lower() in names},
                response.read(),
            )
        finally:
            connection.close()
