"""Servers that mean harm, or are merely broken: raw bytes on a socket, one thread for each connection."""

import gzip
import json
import re
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import torch
from helpers import shaped
from servers import answering

from kdlightning.accounting.ledger import QueryLedger
from kdlightning.remote import (
    HTTPSoftLabelTeacher,
    Patience,
    RemoteSoftLabelTeacher,
    RemoteTeacherError,
)
from kdlightning.remote.protocol import ProtocolError, read
from kdlightning.remote.wire import plain

ONCE = Patience(connect_timeout=5, read_timeout=0.4, attempts=1)
KEY = "k3y-of-forty-two-characters-and-no-fewer--"
ROW = [0.5, 0.25, 0.25]


def images(number, seed=0):
    return torch.rand(number, 1, 4, 4, generator=torch.Generator().manual_seed(seed)).mul(255).round() / 255


@contextmanager
def raw(speak, context=None):
    """A server of raw bytes: ``speak(connection, body)`` for each request, until it returns True; yields its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve(connection):
        with suppress(OSError), context.wrap_socket(connection, server_side=True) if context else connection as peer:
            while not ended.is_set():
                head = b""
                while b"\r\n\r\n" not in head:
                    if not (part := peer.recv(65536)):
                        return
                    head += part
                head, _, body = head.partition(b"\r\n\r\n")
                length = int(re.search(rb"(?i)content-length: (\d+)", head + b"\r\ncontent-length: 0")[1])
                while len(body) < length:
                    body += peer.recv(65536)
                if speak(peer, body):
                    return

    def accept():
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listening.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        ended.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def reply(value, *, headers=()):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    lines = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def soft(url, request=None, **options):
    options = {"outputs": "probabilities", "ledger": None, "patience": ONCE, **options}
    return HTTPSoftLabelTeacher(url, request or {"image": "{image}"}, **shaped(**options))


def drip(connection, pieces, pause=0.02):
    with suppress(OSError):
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)
    return True


def forever(piece):
    while True:
        yield piece


@pytest.mark.parametrize(
    "pieces",
    [
        lambda: forever(b"HTTP/1.1 100 Continue\r\n\r\n"),
        lambda: [b"HTTP/1.1 200 OK\r\n", *(f"X-{k}: 1\r\n".encode() for k in range(2000))],
        lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", *[b"1"] * 2000],
        lambda: [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", *[b"1\r\n \r\n"] * 2000],
        lambda: [b"H"] * 2000,
    ],
    ids=["100 Continue", "head by lines", "body by bytes", "chunks", "first line by bytes"],
)
@pytest.mark.tried("a server talks for ever: 100 Continue, a head by bytes", "the request ends when its time is over")
def test_a_reply_that_never_ends_ends_in_time(pieces):
    with raw(lambda connection, body: drip(connection, pieces())) as port:
        began = time.monotonic()
        with pytest.raises(RemoteTeacherError, match=r"no answer within 0\.4 s|the connection broke"):
            soft(f"http://127.0.0.1:{port}").query(images(1))
        assert time.monotonic() - began < 3


@pytest.mark.tried("a server takes the connection and reads nothing", "the request ends when its time is over")
def test_a_server_that_does_not_read_ends_in_time():
    listening = socket.create_server(("127.0.0.1", 0), backlog=4)
    with listening:
        long = {"image": "{image}", "prompt": " " * 2**24}  # more than the sockets' buffers take
        remote = soft(f"http://127.0.0.1:{listening.getsockname()[1]}", long)
        began = time.monotonic()
        with pytest.raises(RemoteTeacherError, match=r"no answer within 0\.4 s"):
            remote.query(images(1))
        assert time.monotonic() - began < 4


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
@pytest.mark.tried("a reply of 128 MB, gzipped and plain", "it is cut at the limit, and never in memory")
def test_a_bomb_is_cut_at_the_limit_without_its_memory(monkeypatch, encoding):
    monkeypatch.setattr("kdlightning.remote.wire.LONGEST", 2**22)
    content = b" " * 2**27
    body = gzip.compress(content, 1) if encoding == "gzip" else content
    whole = reply(body, headers=[f"Content-Encoding: {encoding}"])
    with raw(lambda connection, _: connection.sendall(whole)) as port:
        remote = soft(f"http://127.0.0.1:{port}", patience=Patience(attempts=1))
        tracemalloc.start()
        with pytest.raises(RemoteTeacherError, match="did not end after 4,194,304 bytes"):
            remote.query(images(1))
        assert tracemalloc.get_traced_memory()[1] < 20 * 2**20
        tracemalloc.stop()
    assert remote.paid.queries == 1


@pytest.mark.parametrize(
    ("body", "encoding", "text"),
    [
        (gzip.compress(b"[1]", mtime=0)[:-5], "gzip", "it is cut"),
        (b"[1]", "gzip", "in its announced encoding, gzip"),
        (b"[1]", "br", "gzip or none, got 'br'"),
    ],
)
@pytest.mark.tried("a reply in another encoding than it says, or cut", "one sentence")
def test_what_cannot_be_unpacked_is_told(body, encoding, text):
    with (
        raw(lambda peer, _: peer.sendall(reply(body, headers=[f"Content-Encoding: {encoding}"]))) as port,
        pytest.raises(RemoteTeacherError, match=text),
    ):
        soft(f"http://127.0.0.1:{port}").query(images(1))


@pytest.mark.parametrize("pause", [0.0, 0.05])
@pytest.mark.tried("a server sends an answer too many", "it goes to no other question")
def test_a_surplus_answer_goes_to_no_other_question(pause):
    """Neither one that comes with the answer, nor one that comes while nobody asks."""

    def speak(connection, body):
        image = json.loads(body)["image"]
        answer, surplus = (
            reply({"of": who, "scores": row}) for who, row in ((image, ROW), ("nobody", [0.0, 0.0, 1.0]))
        )
        if pause:
            connection.sendall(answer)
            time.sleep(pause)
            connection.sendall(surplus)
        else:
            connection.sendall(answer + surplus)

    with raw(speak) as port:
        remote = soft(f"http://127.0.0.1:{port}", answer="scores", patience=Patience(attempts=1))
        for number in range(4):
            assert remote.query(images(1, seed=number)).tolist() == [ROW]
            time.sleep(2 * pause)


def tensor_server(answers):
    """Speaks the Open Inference Protocol; ``answers(handler, message)``."""

    def answer(handler, body):
        if handler.command == "GET":
            about = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 4, 4]}]}
            handler.reply(200, about | {"outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}]})
        else:
            answers(handler, json.loads(body))

    return answering(answer)


@pytest.mark.tried("a server mixes up whose answer is whose", "refused, and kept by nobody")
def test_an_answer_to_another_request_is_refused():
    def answers(handler, message):
        output = {"name": "y", "datatype": "FP32", "shape": [1, 3], "data": ROW}
        handler.reply(200, {"id": "4711", "outputs": [output]})

    with tensor_server(answers) as url:
        remote = RemoteSoftLabelTeacher(url, "m", "probabilities", ledger="l.sqlite", patience=ONCE)
        with pytest.raises(RemoteTeacherError, match="expected the answer to request 1, got that to '4711'"):
            remote.query(images(1))
    totals = QueryLedger("l.sqlite").totals()
    assert (totals.unique, totals.lost) == (0, 1)


DEEP = b"[" * 100 + b"1" + b"]" * 100


@pytest.mark.parametrize(
    "output",
    [
        {"shape": [1, 3], "data": [10**400, 0, 0]},
        {"shape": [1] * 70, "data": [1.0]},
        {"shape": [0, 3], "data": []},
        {"shape": [1, 0], "data": []},
        {"shape": [1, 3], "data": [[[0.5, 0.25], 0.25]]},
        {"shape": [1, 3], "data": json.loads(DEEP)},
        {"shape": [2**31 - 1] * 16, "data": [1.0]},
        {"shape": [1, 3], "data": {"0": 1}},
        {"shape": [1, 3], "data": ROW, "datatype": []},
        {"shape": [1, 3], "parameters": {"binary_data_size": 10**400}},
        {"shape": [1, 3], "parameters": {"binary_data_size": True}},
        {"shape": [1, 3], "data": [1e999, 0, 0]},
    ],
)
@pytest.mark.tried("a tensor of odd shape, kind or numbers in a reply", "one sentence, one request paid")
def test_odd_tensors_are_told_and_paid_once(output):
    asked = []

    def answers(handler, message):
        asked.append(message)
        handler.reply(200, json.dumps({"outputs": [{"name": "y", "datatype": "FP32"} | output]}).encode())

    with tensor_server(answers) as url:
        remote = RemoteSoftLabelTeacher(url, "m", "probabilities", ledger=None)
        with pytest.raises(RemoteTeacherError, match="expected"):
            remote.query(images(1))
    assert len(asked) == remote.paid.queries == 1


@pytest.mark.parametrize("length", ["²", "-1", "1e3", "", "9" * 400])
@pytest.mark.tried("an odd number in a reply's header", "one sentence")
def test_an_odd_length_of_the_header_is_told(length):
    def answers(handler, message):
        handler.reply(200, {"outputs": []}, {"Inference-Header-Content-Length": length})

    with tensor_server(answers) as url, pytest.raises(RemoteTeacherError, match="expected"):
        RemoteSoftLabelTeacher(url, "m", "probabilities", ledger=None).query(images(1))


@pytest.mark.parametrize("score", [int("9" * 401), None, "one", True, [1], {}], ids=lambda score: str(score)[:5])
@pytest.mark.tried("an odd score in a reply", "one sentence, one request paid")
def test_odd_scores_are_told_and_paid_once(score):
    with answering(lambda handler, body: handler.reply(200, json.dumps([score, 0.0]).encode())) as url:
        remote = soft(url, patience=Patience())
        with pytest.raises(RemoteTeacherError, match=r"expected .*The reply: '\["):
            remote.query(images(1))
    assert remote.paid.queries == 1


@pytest.mark.parametrize(
    "metadata",
    [
        [], {"inputs": 5}, {"inputs": [{}]}, {"inputs": [{"name": "x"}]}, {"versions": 5}, {"versions": [[]]},
        {"outputs": [{"name": "y", "datatype": [], "shape": 5}]}, {"outputs": [{"name": "y", "parameters": 5}]},
        {"parameters": {"max_batch": True}, "inputs": [{"name": "x", "datatype": "FP32", "shape": [True]}]},
        {"extensions": 5, "inputs": None}, {"inputs": [{"name": "x", "datatype": {}, "shape": [0, 0, 0, 0]}]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": []}]},
        {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 10**400, 4]}]},
    ],
)  # fmt: skip
@pytest.mark.tried("odd metadata", "one sentence, nothing is asked")
def test_odd_metadata_is_told(metadata):
    with (
        answering(lambda handler, body: handler.reply(200, json.dumps(metadata).encode())) as url,
        pytest.raises((RemoteTeacherError, ValueError), match=r"expected|does not describe|set tensors"),
    ):
        RemoteSoftLabelTeacher(url, "m", "probabilities", ledger=None, patience=ONCE).query(images(1))


@pytest.mark.tried("mutated replies are read", "refused or read, no other error", times=2000)
def test_mutated_messages_raise_nothing_else():
    good = json.dumps({"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 3], "data": ROW}]}).encode()
    random = np.random.default_rng(0)
    tokens = [b"-1", b"1e999", b"[]", b"{}", b"null", b"true", b'"\\u0000"', b"9" * 401, b"0", DEEP, b"NaN", b'"BYTES"']
    spots = [match.span() for match in re.finditer(rb'"[^"]*"|\d[\d.]*|\[|\]', good)]
    taken = 0
    for _ in range(2000):
        start, end = spots[random.integers(len(spots))]
        changed = good[:start] + tokens[random.integers(len(tokens))] + good[end:]
        with suppress(ProtocolError):
            _, tensors = read(changed, None, "outputs")
            for entry in json.loads(changed)["outputs"]:  # what is taken is what stands there
                np.testing.assert_array_equal(tensors[entry["name"]].ravel(), np.float32(entry["data"]))
            taken += 1
    assert 0 < taken < 2000


class TestSecrets:
    def everywhere(self, handler, body):
        """Says the key wherever a reply has room, across the place where messages are cut."""
        key = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        status = {"/401": 401, "/302": 302, "/200": 200, "/500": 500}.get(handler.path[:4], 200)
        handler.reply(status, ("x" * 82 + key).encode(), {"Location": f"https://h/{key}/x?y={key}"})

    @pytest.mark.parametrize("path", ["/401", "/302", "/200", "/500"])
    @pytest.mark.tried("a server says the key where messages are cut", "no part of it is shown or logged")
    def test_not_even_a_part_of_a_key_is_in_a_message(self, monkeypatch, caplog, path):
        monkeypatch.setenv("KDL_LONG", KEY)
        caplog.set_level("DEBUG")
        with answering(self.everywhere) as url:
            remote = soft(f"{url}{path}", headers={"Authorization": "Bearer env:KDL_LONG"})
            with pytest.raises(RemoteTeacherError) as error:
                remote.query(images(1))
        shown, chain = [caplog.text], error.value
        while chain is not None:
            shown, chain = [*shown, str(chain), repr(chain)], chain.__cause__
        assert [text for text in shown if KEY[:6] in text] == []

    @pytest.mark.tried("a server says the key in its metadata", "no part of it is shown")
    def test_metadata_that_tells_the_key_does_not_spread_it(self, monkeypatch):
        monkeypatch.setenv("KDL_LONG", KEY)

        def answer(handler, body):
            tensor = {"name": KEY, "datatype": KEY, "shape": [-1, 1, 4, 4]}
            handler.reply(200, {"versions": [KEY], "inputs": [tensor], "outputs": [tensor, tensor]})

        with answering(answer) as url, pytest.raises(ValueError, match=r"expected|several") as error:
            RemoteSoftLabelTeacher(url, "m", "probabilities", api_key_env="KDL_LONG", ledger=None)
        assert KEY[:6] not in str(error.value)

    @pytest.mark.parametrize("parameter", ["code", "sig", "pass", "k", "sas", "key", "subscription-key"])
    def test_a_parameter_is_taken_by_reference_alone(self, monkeypatch, parameter):
        monkeypatch.setenv("KDL_LONG", KEY)
        with pytest.raises(ValueError, match=f"the parameter {parameter} looks like a secret: write env:NAME") as error:
            soft(f"https://h/classify?{parameter}=hunter22")
        assert "hunter22" not in str(error.value)
        asked = []

        def answer(handler, body):
            asked.append(handler.path)
            handler.reply(200, ROW)

        with answering(answer) as url:
            remote = soft(f"{url}/c?a=1&{parameter}=env:KDL_LONG", ledger="l.sqlite")
            remote.query(images(1))
        assert asked == [f"/c?a=1&{parameter}={KEY}"]
        assert KEY not in str(remote.identity) + str(vars(remote))
        assert KEY.encode() not in remote._ledger.path.read_bytes()

    def test_a_number_of_answers_is_no_secret(self):
        assert soft("https://h/classify?k=5&code=true").num_classes is None

    @pytest.mark.parametrize(
        "header",
        [{"X-Pass": "a"}, {"Ocp-Apim-Subscription-Key": "a"}, {"X-Custom": "sk-abcdefghijkl0123"}, {"X-Code": "a"},
         {"X-Any": "0123456789abcdef0123456789abcdef"}],
    )  # fmt: skip
    def test_a_header_is_taken_by_reference_alone(self, header):
        with pytest.raises(ValueError, match=rf"the header {next(iter(header))} looks like a secret"):
            soft("https://h", headers=header)

    def test_a_key_in_the_request(self, monkeypatch):
        monkeypatch.setenv("KDL_LONG", KEY)
        with pytest.raises(ValueError, match="the request's api_key looks like a secret"):
            soft("https://h", {"api_key": "hunter22", "image": "{image}"})
        seen = []
        template = {"auth": {"api_key": "env:KDL_LONG"}, "model": "claude-sonnet-4-20250514", "image": "{image}"}

        def answer(handler, body):
            seen.append(json.loads(body))
            handler.reply(400, body[:90])

        with answering(answer) as url:
            remote = soft(url, template)
            with pytest.raises(RemoteTeacherError, match="status 400") as error:
                remote.query(images(1))
        assert seen[0]["auth"] == {"api_key": KEY}
        assert KEY[:6] not in str(error.value)
        monkeypatch.setenv("KDL_LONG", "changed")
        assert soft(url, template).identity == remote.identity


class TestProxies:
    @pytest.fixture
    def proxy(self, monkeypatch):
        seen = []

        def speak(connection, body):
            seen.append(body)
            connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

        with raw(speak) as port:
            for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
                monkeypatch.delenv(name, raising=False)
            monkeypatch.setenv("http_proxy", f"http://me:pr0xy-word@127.0.0.1:{port}")
            monkeypatch.setenv("https_proxy", f"http://me:pr0xy-word@127.0.0.1:{port}")
            yield seen

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    @pytest.mark.tried("the environment names a proxy, the teacher is on this machine", "the proxy sees nothing")
    def test_no_proxy_sees_what_goes_to_this_machine(self, monkeypatch, proxy, host):
        monkeypatch.setenv("KDL_LONG", KEY)
        with answering(lambda handler, body: handler.reply(200, ROW)) as url:
            headers = {"X-Key": "env:KDL_LONG"}
            soft(url.replace("127.0.0.1", host), headers=headers).query(images(1))
        assert proxy == []

    @pytest.mark.parametrize("scheme", ["http", "https"])
    @pytest.mark.tried("a proxy refuses", "told, without its password")
    def test_one_that_refuses_is_named_without_its_password(self, proxy, scheme):
        with pytest.raises(RemoteTeacherError, match="407") as error:
            soft(f"{scheme}://teacher.invalid").query(images(1))
        assert len(proxy) == 1
        assert "pr0xy-word" not in str(error.value)

    @pytest.mark.tried("a proxy is dead", "named, without its password")
    def test_one_that_is_dead_is_named(self, monkeypatch):
        monkeypatch.setenv("https_proxy", "http://me:pr0xy-word@127.0.0.1:9")
        text = r"no connection through the proxy http://127\.0\.0\.1:9, which the environment names"
        with pytest.raises(RemoteTeacherError, match=text) as error:
            soft("https://teacher.invalid").query(images(1))
        assert "pr0xy-word" not in str(error.value)

    @pytest.mark.parametrize(
        ("proxy", "text"),
        [
            ("socks5://127.0.0.1:1080", r"ALL_PROXY names socks5://127.0.0.1:1080, and a SOCKS proxy needs .*socksio"),
            ("socks://127.0.0.1:1080/", r"ALL_PROXY names socks5://127.0.0.1:1080/, and a SOCKS proxy needs"),
            ("ftp://127.0.0.1:21", r"expected a proxy such as http://host:3128 .* NO_PROXY=teacher.invalid"),
        ],
    )
    def test_one_of_another_kind_is_told(self, monkeypatch, proxy, text):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("ALL_PROXY", proxy)
        with pytest.raises(ValueError, match=text):
            soft("https://teacher.invalid")
        assert soft("http://127.0.0.1:9").num_classes is None


@pytest.mark.tried("a server redirects", "not followed, the key stays here, nothing is paid")
def test_a_redirect_is_not_followed_with_the_key(monkeypatch):
    monkeypatch.setenv("KDL_LONG", KEY)
    elsewhere = []
    with answering(lambda handler, body: elsewhere.append(body)) as other:
        for status in (301, 302, 307, 308):
            with answering(lambda handler, body: handler.reply(status, b"", {"Location": other})) as url:  # noqa: B023
                remote = soft(url, headers={"X-Key": "env:KDL_LONG"})
                with pytest.raises(RemoteTeacherError, match="redirects are not followed"):
                    remote.query(images(1))
                assert remote.paid.queries == 0
    assert elsewhere == []


@pytest.mark.tried("a self-signed certificate", "refused, nothing is sent or paid")
def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path):
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key", "-out", "cert", "-days", "2"]
    with suppress(FileNotFoundError):
        subprocess.run([*made, "-subj", "/CN=localhost"], cwd=tmp_path, check=True, capture_output=True)
    if not (tmp_path / "cert").exists():
        pytest.skip("openssl is not installed")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")
    seen = []
    with raw(lambda connection, body: seen.append(body), context) as port:
        remote = soft(f"https://localhost:{port}")
        with pytest.raises(RemoteTeacherError, match=r"its certificate cannot be verified .*SSL_CERT_FILE"):
            remote.query(images(1))
    assert (seen, remote.paid.queries) == ([], 0)


@pytest.mark.parametrize(
    ("url", "headers", "text"),
    [
        ("https://host:port", {}, "got one that cannot be read"),
        ("https://a..b", {}, "got one that cannot be read"),
        (f"https://{'a' * 70}.org", {}, "got one that cannot be read"),
        ("https://[::1", {}, "got one that cannot be read"),
        (
            "https://h",
            {"X-Name": "a\r\nX-Other: b"},
            "'X-Name' has characters that no HTTP header can carry",
        ),
        ("https://h", {"X-Näme": "a"}, "the header 'X-Näme' has characters"),
    ],
)
def test_addresses_and_headers_that_cannot_be_sent_are_refused(url, headers, text):
    with pytest.raises(ValueError, match=text):
        soft(url, headers=headers)


def test_addresses_of_any_letters_are_sent_in_those_of_http():
    assert plain("http://[::1]:8000/a b/%2F?q=ä&r=1") == "http://[::1]:8000/a%20b/%2F?q=%C3%A4&r=1"
    assert plain("https://bücher.example") == "https://xn--bcher-kva.example/"
