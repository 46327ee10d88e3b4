import copy
import json
import logging
import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers import Linear
from jsonargparse import ArgumentParser
from servers import FALSE, FAULTS, Spoiler, answering, serving

from kdlightning.accounting import Budget, QueryBudgetExceededError
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.remote import Patience, RemoteHardLabelTeacher, RemoteSoftLabelTeacher, RemoteTeacherError, Tensors
from kdlightning.remote.protocol import ProtocolError, read, write
from kdlightning.serving import ServedModel
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher

SHAPE = (1, 4, 4)
HASTY = Patience(connect_timeout=30, read_timeout=60, attempts=4, backoff=0.01, longest_backoff=0.05, jitter=0.01)


def network(seed=0):
    return Linear(torch.randn(3, 16, generator=torch.Generator().manual_seed(seed)))


def images(number, seed=0):
    return torch.rand(number, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def models():
    return {
        kind: ServedModel(network(), "linear", kind, shape=SHAPE, max_batch=64) for kind in ("soft", "hard", "logits")
    }


@pytest.fixture(scope="module")
def urls(models):
    with serving(models["soft"]) as soft, serving(models["hard"]) as hard, serving(models["logits"]) as logits:
        yield {"probabilities": soft, "index": hard, "logits": logits}


def teacher(url, outputs="probabilities", **options):
    kind = RemoteHardLabelTeacher if outputs in ("index", "text") else RemoteSoftLabelTeacher
    return kind(url, "linear", outputs, **{"ledger": None, "patience": HASTY, **options})


def local(outputs):
    return (HardLabelTeacher if outputs == "index" else SoftLabelTeacher)(network())


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("outputs", ["probabilities", "logits", "index"])
def test_answers_are_the_local_teacher_s(urls, models, outputs, binary):
    x = images(50)
    remote = teacher(urls[outputs], outputs, tensors=Tensors(binary=binary), max_batch=8, concurrency=3)
    answer, expected = remote.query(x), local(outputs).query(x)
    assert answer.dtype == expected.dtype
    torch.testing.assert_close(answer, expected, atol=0 if outputs == "index" else 1e-6, rtol=0)
    assert remote.num_classes == 3
    assert remote.access == local(outputs).access
    assert not answer.requires_grad


def test_every_image_and_byte_is_counted(urls, models):
    before = models["soft"].answered
    remote = teacher(urls["probabilities"], max_batch=8, concurrency=2)
    remote.query(images(20))
    remote.query(images(3))
    assert remote.paid.queries == models["soft"].answered - before == 23
    assert remote.paid.bytes_up > 23 * 64
    assert remote.paid.bytes_down > 23 * 12


def test_batches_are_split_to_the_lower_limit(urls):
    remote = teacher(urls["probabilities"], max_batch=1000)  # the server takes 64
    assert remote.query(images(150)).shape == (150, 3)


def test_identity_tells_who_answers_and_no_secret(urls, models):
    remote = teacher(urls["probabilities"], known_as="lab")
    assert remote.identity["network"] == "lab/models/linear"
    assert remote.identity["version"] == models["soft"].version
    assert remote.identity["access"] == "soft"
    other = teacher(urls["probabilities"], known_as="other")
    assert other.identity["fingerprint"] != remote.identity["fingerprint"]
    again = teacher(urls["probabilities"], known_as="lab")
    assert again.identity == remote.identity


def test_methods_take_it_by_type_from_a_configuration(urls):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--teacher", type=SoftLabelTeacher | HardLabelTeacher)
    parser.add_argument("--soft", type=SoftLabelTeacher)
    settings = {"url": urls["index"], "model": "linear", "outputs": "index", "patience": {"attempts": 2}, "budget": 9}
    path = "kdlightning.remote.RemoteHardLabelTeacher"
    made = parser.parse_object({"teacher": {"class_path": path, "init_args": settings}})
    remote = parser.instantiate(made).teacher
    assert isinstance(remote, HardLabelTeacher)
    assert remote.query(images(2)).shape == (2,)
    assert remote.budget == 9
    with pytest.raises(Exception, match="RemoteHardLabelTeacher"):
        parser.parse_object({"soft": {"class_path": path, "init_args": settings}})


class TestLedger:
    def test_known_images_are_neither_asked_nor_charged(self, urls, models, tmp_path):
        before, x = models["soft"].answered, images(10)
        first = teacher(urls["probabilities"], ledger="ledger.sqlite", max_batch=4)
        answer = first.query(torch.cat([x, x[:3]]))  # repeats within a query, too
        assert first.paid.queries == 10
        second = teacher(urls["probabilities"], ledger="ledger.sqlite")
        assert torch.equal(second.query(x.flip(0)), answer[:10].flip(0))
        assert second.paid.queries == 0
        second.query(torch.cat([x, images(2, seed=1)]))
        assert second.paid.queries == 2
        assert models["soft"].answered == before + 12
        with QueryLedger("ledger.sqlite", readonly=True) as ledger:
            totals = ledger.totals()
            assert (totals.unique, totals.repeated, totals.paid) == (12, 3 + 10 + 10, 12)
            assert totals.bytes_up == first.paid.bytes_up + second.paid.bytes_up
            assert totals.bytes_down == first.paid.bytes_down + second.paid.bytes_down
            assert ledger.verify() == []

    def test_it_is_on_by_default(self, urls, tmp_path):
        RemoteSoftLabelTeacher(urls["probabilities"], "linear", "probabilities").query(images(1))
        assert (tmp_path / "ledger.sqlite").exists()

    def test_offline_it_answers_alone(self, urls):
        x = images(6)
        answer = teacher(urls["index"], "index", ledger="l.sqlite", known_as="lab").query(x)
        alone = teacher("http://127.0.0.1:9", "index", ledger="l.sqlite", known_as="lab", offline=True)
        assert torch.equal(alone.query(x), answer)
        assert alone.paid.queries == 0
        with pytest.raises(RemoteTeacherError, match="2 images are not in the ledger"):
            alone.query(images(2, seed=5))
        with pytest.raises(ValueError, match="expected one teacher with"):
            teacher("http://127.0.0.1:9", "index", ledger="l.sqlite", offline=True)

    def test_limits_of_bytes_and_price(self, urls):
        remote = teacher(urls["probabilities"], ledger="l.sqlite", price=0.1, budget=Budget(price=1.0), max_batch=4)
        remote.query(images(10))
        with pytest.raises(QueryBudgetExceededError, match="1 units of price have been spent"):
            remote.query(images(1, seed=1))
        assert remote.paid.queries == 10
        other = teacher(urls["probabilities"], ledger="m.sqlite", budget=Budget(bytes=100))
        with pytest.raises(QueryBudgetExceededError, match="bytes"):
            other.query(images(4))
        assert other.paid == (0, 0, 0)
        with pytest.raises(ValueError, match="need a ledger"):
            teacher(urls["probabilities"], budget=Budget(bytes=100))


def test_the_budget_stops_a_query_that_cannot_be_answered_whole(urls, models):
    before = models["soft"].answered
    remote = teacher(urls["probabilities"], budget=10, max_batch=4)
    remote.query(images(8))
    with pytest.raises(QueryBudgetExceededError, match="8 queries have been spent and 3 more"):
        remote.query(images(3))
    assert remote.paid.queries == 8
    remote.query(images(2))
    assert models["soft"].answered == before + 10


def test_images_of_another_shape_are_refused_unpaid(urls):
    remote = teacher(urls["probabilities"])
    with pytest.raises(ValueError, match=r"expected images as \[1, 4, 4\], got \[1, 5, 4\]"):
        remote.query(torch.rand(2, 1, 5, 4))
    assert remote.paid.queries == 0


def test_copies_are_the_same_teacher_and_pickles_are_refused(urls):
    remote = teacher(urls["probabilities"])
    assert copy.deepcopy({"teacher": remote})["teacher"] is remote
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(remote)


class TestSecrets:
    def test_the_key_is_read_where_the_configuration_says(self, models, monkeypatch, tmp_path):
        with serving(models["soft"], api_key="s3cret") as url:
            monkeypatch.setenv("KDL_KEY", "s3cret")
            assert teacher(url, api_key_env="KDL_KEY").query(images(1)).shape == (1, 3)
            (tmp_path / "key").write_text("s3cret\n")
            assert teacher(url, api_key_file="key").query(images(1)).shape == (1, 3)
            monkeypatch.setenv("KDL_KEY", "an0ther")
            for options in ({}, {"api_key_env": "KDL_KEY"}):
                with pytest.raises(RemoteTeacherError, match=r"status 401.*the key is missing or wrong"):
                    teacher(url, **options)

    def test_it_is_shown_nowhere(self, monkeypatch, caplog):
        caplog.set_level(logging.DEBUG)
        monkeypatch.setenv("KDL_KEY", "s3cret")

        def answer(handler, body):
            handler.reply(
                500 if handler.command == "POST" else 200, about() | {"error": handler.headers["Authorization"]}
            )

        with answering(answer) as url:
            remote = teacher(url, api_key_env="KDL_KEY", ledger="l.sqlite")
            with pytest.raises(RemoteTeacherError, match=r"Bearer \*\*\*") as error:
                remote.query(images(1))
            remote.close()
        shown = [repr(remote), str(remote.identity), str(error.value), repr(error.value.__cause__), caplog.text]
        shown += [str(vars(remote)), str(remote.state_dict())]
        assert not any("s3cret" in text for text in shown)
        assert b"s3cret" not in (remote._ledger.path).read_bytes()

    @pytest.mark.parametrize(
        ("url", "options", "text"),
        [
            ("https://me:word@host", {}, "an address with credentials ends up in configurations"),
            ("ftp://host", {}, "expected an address such as"),
            ("host:8000", {}, "expected an address such as"),
            ("http://example.org", {"api_key_env": "KDL_KEY"}, "a key would travel unencrypted"),
            ("https://example.org", {"api_key_env": "KDL_NONE"}, "KDL_NONE, which is not set"),
            ("https://example.org", {"api_key_env": "KDL_KEY", "api_key_file": "key"}, "two places are named"),
        ],
    )
    def test_unsafe_configurations_are_refused(self, monkeypatch, url, options, text):
        monkeypatch.setenv("KDL_KEY", "s3cret")
        with pytest.raises(ValueError, match=text) as error:
            teacher(url, **options)
        assert "word" not in str(error.value)


def about(**changes):
    """Metadata of a server that answers by hand."""
    return {
        "name": "linear", "versions": ["1"], "platform": "",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 1, 4, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 3]}], **changes,
    }  # fmt: skip


def by_hand(outputs, metadata=None, seen=None):
    """A server whose model answers ``outputs(pixels)``: name to array."""

    def answer(handler, body):
        if handler.command == "GET":
            handler.reply(200, metadata or about())
            return
        length = handler.headers.get("Inference-Header-Content-Length")
        message, tensors = read(body, int(length) if length else None, "inputs")
        (pixels,) = tensors.values()
        if seen is not None:
            seen.append((handler.path, message, pixels))
        reply, length = write({"id": message["id"]}, "outputs", outputs(pixels), binary=bool(length))
        handler.reply(200, reply, {"Inference-Header-Content-Length": length} if length else {})

    return answering(answer)


UNIFORM = np.full((1, 3), 1 / 3, np.float32)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("labels", [["cat", "dog", "eel"], {"cat": 0, "kitten": 0, "dog": 1, "eel": 2}])
def test_label_texts_are_mapped(labels, binary):
    texts = np.array(["eel", "cat", "dog"], dtype=object)
    metadata = about(outputs=[{"name": "y", "datatype": "BYTES", "shape": [-1, 1]}])
    with by_hand(lambda x: {"y": texts[: len(x), None]}, metadata) as url:
        remote = teacher(url, "text", labels=labels, tensors=Tensors(binary=binary))
        assert remote.query(images(3)).tolist() == [2, 0, 1]
        assert remote.num_classes == 3
        with pytest.raises(RemoteTeacherError, match=r"expected labels among \['cat', .*got \['eel'\]"):
            teacher(url, "text", labels=["cat", "dog", "cow"]).query(images(3))


@pytest.mark.parametrize(
    ("layout", "shape", "datatype", "scale"),
    [("NHWC", [-1, 4, 5, 3], "FP32", 1.0), ("flat", [-1, 60], "FP64", 16.0), ("NCHW", [-1, 3, -1, -1], "UINT8", 255.0)],
)
def test_images_are_written_as_the_server_wants_them(layout, shape, datatype, scale):
    seen, x = [], torch.rand(2, 3, 4, 5)
    metadata = about(inputs=[{"name": "x", "datatype": datatype, "shape": shape}])
    with by_hand(lambda x: {"y": UNIFORM.repeat(len(x), 0)}, metadata, seen) as url:
        teacher(url, version="1", tensors=Tensors(layout=layout, scale=scale)).query(x)
        with pytest.raises(ValueError, match="expected images as"):
            teacher(url, tensors=Tensors(layout=layout, scale=scale)).query(x[:, :2])
    path, message, pixels = seen[0]
    assert path == "/v2/models/linear/versions/1/infer"
    assert message["outputs"] == [{"name": "y"}]
    expected = x * scale
    expected = {"NHWC": expected.permute(0, 2, 3, 1), "flat": expected.flatten(1), "NCHW": expected.round()}[layout]
    assert pixels.dtype == {"FP32": np.float32, "FP64": np.float64, "UINT8": np.uint8}[datatype]
    np.testing.assert_allclose(pixels, expected.numpy(), rtol=1e-6)


TENSOR = {"name": "x", "datatype": "FP32", "shape": [-1, 1, 4, 4]}
SCORES = {"name": "y", "datatype": "FP32", "shape": [-1, 3]}


@pytest.mark.parametrize(
    ("metadata", "options", "text"),
    [
        (about(inputs=[TENSOR, TENSOR]), {}, "expected a model of images alone"),
        (about(inputs=[]), {}, r"give tensors\.input and tensors\.datatype"),
        (about(inputs=[{**TENSOR, "datatype": "INT64"}]), {}, "the server's INT64"),
        (about(inputs=[{**TENSOR, "datatype": "UINT8"}]), {}, r"set tensors\.scale to 255"),
        (about(inputs=[{**TENSOR, "shape": [-1, 16]}]), {}, r"set tensors\.layout"),
        (about(), {"tensors": Tensors(input="z")}, "expected 'z' among its inputs"),
        (about(), {"tensors": Tensors(datatype="FP64")}, "of datatype FP64, the server's FP32"),
        (about(outputs=[SCORES, {**SCORES, "name": "z"}]), {}, r"set tensors\.output to one of \['y', 'z'\]"),
        (about(outputs=[{**SCORES, "datatype": "INT64"}]), {}, "take the teacher class of the other access"),
        (about(), {"num_classes": 10}, "expected one number of classes"),
        (about(versions=["1", "2"]), {}, r"set `version` to one of \['1', '2'\]"),
        (about(), {"max_batch": 0}, "max_batch: expected at least 1, got 0"),
        (about(), {"concurrency": 0}, "concurrency: expected at least 1, got 0"),
    ],
)
def test_metadata_that_does_not_fit_is_told_before_anything_is_paid(metadata, options, text):
    seen = []
    with by_hand(lambda x: {}, metadata, seen) as url, pytest.raises(ValueError, match=text):
        teacher(url, **options)
    assert seen == []


def test_what_the_server_does_not_serve_is_no_version(urls):
    def answer(handler, body):
        known = handler.path in ("/v2", "/v2/models/linear")
        handler.reply(200 if known else 404, about(versions=["sklearn/1.7", "numpy/2.4"]) if known else {"error": "no"})

    with answering(answer) as url:
        assert teacher(url).identity["version"] == ""
        with pytest.raises(RemoteTeacherError, match="status 404, 'no': there is no such model or address"):
            teacher(url, version="2")


@pytest.mark.parametrize(
    ("outputs", "options", "text"),
    [("index", {"labels": ["a"]}, "labels with text"), ("text", {}, "labels with text")],
)
def test_arguments_that_do_not_fit_together(outputs, options, text):
    with pytest.raises(ValueError, match=text):
        teacher("http://127.0.0.1:9", outputs, **options)
    with pytest.raises(ValueError, match="expected outputs logits or probabilities"):
        RemoteSoftLabelTeacher("http://127.0.0.1:9", "linear", "index")


def scores(*row):
    return lambda x: {"y": np.array([row] * len(x), np.float32)}


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        (scores(0.5, 0.2, 0.2), "each row's sum 1, got a least value of 0.2 and a sum of 0.9"),
        (scores(1.2, -0.2, 0.0), "none negative"),
        (scores(0.5, 0.5), r"expected probabilities of shape \[4, 3\], got float32 of shape \[4, 2\]"),
        (lambda x: {"y": np.ones((len(x) - 1, 3), np.float32)}, r"got float32 of shape \[3, 3\]"),
        (lambda x: {"y": np.ones((len(x), 3), np.int64)}, "got int64"),
        (lambda x: {"z": np.ones((len(x), 3), np.float32)}, r"expected the output y, got \['z'\]"),
    ],
)
def test_answers_that_were_not_agreed(outputs, text):
    seen = []
    with by_hand(outputs, seen=seen) as url:
        remote = teacher(url, ledger="l.sqlite", patience=HASTY)
        with pytest.raises(RemoteTeacherError, match=rf"{text}.*The reply: .*.id.:.1.,.outputs"):
            remote.query(images(4))
    assert len(seen) == 1  # the same question would be answered alike
    assert remote.paid.queries == 4
    assert QueryLedger("l.sqlite").totals().lost == 4


def test_the_first_answer_is_checked_before_others_are_paid():
    seen = []
    with by_hand(lambda x: {"y": np.ones((len(x), 2), np.float32)}, seen=seen) as url:
        remote = teacher(url, max_batch=2, concurrency=4)
        with pytest.raises(RemoteTeacherError, match=r"expected probabilities of shape \[2, 3\]"):
            remote.query(images(40))
    assert (len(seen), remote.paid.queries) == (1, 2)


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in FALSE])
def test_each_fault_is_survived_and_counted(urls, models, fault):
    """Once, then the answer: paid again only where the first attempt may have been answered."""
    before, x = models["logits"].answered, images(4)
    spoiler = Spoiler(urls["logits"], seed=0, sleep=1.5)
    spoiler.schedule = [None, fault]
    patience = Patience(read_timeout=1 if fault == "time-out" else 60, attempts=20, backoff=0.01, jitter=0.01)
    with answering(spoiler) as url:
        remote = teacher(url, "logits", ledger="l.sqlite", tensors=Tensors(binary=False), patience=patience)
        torch.testing.assert_close(remote.query(x), local("logits").query(x), atol=1e-6, rtol=0)
    refused = fault in ("429", "503 with Retry-After")
    totals = QueryLedger("l.sqlite").totals()
    if fault == "time-out":  # of which a busy machine has more
        assert totals.lost >= 4
    else:
        assert totals.lost == (0 if refused else 4)
    assert (totals.unique, totals.in_flight) == (4, 0)
    assert remote.paid.queries == totals.paid == 4 + totals.lost
    assert totals.paid >= models["logits"].answered - before


def test_no_connection_costs_nothing(urls):
    patience = Patience(connect_timeout=30, attempts=3, backoff=0.01, jitter=0.01)
    with by_hand(scores(0.5, 0.25, 0.25)) as url:
        remote = teacher(url, patience=patience, ledger="l.sqlite")
    with pytest.raises(RemoteTeacherError, match=r"no connection .*asked 3 times.*run the same command to go on"):
        remote.query(images(4))
    assert remote.paid == (0, 0, 0)
    assert QueryLedger("l.sqlite").totals().paid == 0
    with pytest.raises(RemoteTeacherError, match="no connection"):
        teacher(url, patience=patience)


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ((400, {"error": "bad pixels"}), "status 400, 'bad pixels'"),
        ((404, {"error": "gone"}), "there is no such model or address"),
        ((413, b""), "lower max_batch"),
        ((302, b"", {"Location": "https://elsewhere/?key=1"}), "redirected to https://elsewhere/: redirects are not"),
    ],
)
def test_refusals_end_at_once_and_cost_nothing(reply, text):
    asked = []

    def answer(handler, body):
        asked.append(handler.command)
        handler.reply(*(reply if handler.command == "POST" else (200, about())))

    with answering(answer) as url:
        remote = teacher(url)
        with pytest.raises(RemoteTeacherError, match=text):
            remote.query(images(2))
    assert asked.count("POST") == 1
    assert remote.paid.queries == 0


def test_retry_after_is_waited_for_and_ends_patience_if_too_long():
    times, wait = [], ["0.4"]

    def answer(handler, body):
        if handler.command == "GET":
            return handler.reply(200, about())
        times.append(time.monotonic())
        if len(times) % 2:
            return handler.reply(429, b"", {"Retry-After": wait[0]})
        output = {**SCORES, "shape": [1, 3], "data": [0.5, 0.25, 0.25]}
        return handler.reply(200, {"outputs": [output]})

    with answering(answer) as url:
        remote = teacher(url)
        remote.query(images(1))
        assert times[1] - times[0] >= 0.4
        wait[0] = "3600"
        with pytest.raises(RemoteTeacherError, match="asks to be left alone for 3600 s"):
            remote.query(images(1))
    assert remote.paid.queries == 1


def test_a_model_that_changes_in_the_middle_stops_the_run(urls, models):
    other = ServedModel(network(seed=1), "linear", "soft", shape=SHAPE)
    with serving(other) as second:
        spoiler = Spoiler(urls["probabilities"], seed=0, faults=())
        spoiler.next_fault = lambda: None
        with answering(spoiler) as url:
            remote = teacher(url, ledger="l.sqlite")
            first = remote.query(images(3))
            spoiler.host = second.removeprefix("http://")
            text = f"expected answers of version {models['soft'].version}, got one of version {other.version}"
            with pytest.raises(RemoteTeacherError, match=text):
                remote.query(images(3, seed=1))
            assert torch.equal(remote.query(images(3)), first)  # kept
            fresh = teacher(url, ledger="l.sqlite")
            torch.testing.assert_close(fresh.query(images(3)), SoftLabelTeacher(network(seed=1)).query(images(3)))
            assert fresh.paid.queries == 3  # answers of another version are no repeats


def test_requests_in_flight_are_bounded_and_survivors_of_a_failure_are_kept():
    lock, full, flying, most, asked = threading.Lock(), threading.Event(), [0], [0], []

    def answer(handler, body):
        if handler.command == "GET":
            return handler.reply(200, about())
        with lock:
            flying[0] += 1
            asked.append(json.loads(body)["inputs"][0]["data"])
            most[0] = max(most[0], flying[0])
            number = len(asked)
            if flying[0] == 3:
                full.set()
        if number > 1:
            full.wait(60)  # for each other; the first one is asked alone
        with lock:
            flying[0] -= 1
        if broken[0] and number == 4:
            return handler.reply(400, {"error": "no"})
        return handler.reply(200, {"outputs": [{**SCORES, "shape": [2, 3], "data": [0.5, 0.25, 0.25] * 2}]})

    with answering(answer) as url:
        broken = [True]
        remote = teacher(url, max_batch=2, concurrency=3, ledger="l.sqlite")
        with pytest.raises(RemoteTeacherError, match="status 400"):
            remote.query(images(40))
        kept = QueryLedger("l.sqlite").totals()
        assert (kept.in_flight, kept.lost) == (0, 0)
        assert kept.unique == remote.paid.queries == 2 * (len(asked) - 1)
        assert len(asked) < 20  # not all were begun
        broken[0] = False
        remote.query(images(40))
        assert most[0] == 3
        assert QueryLedger("l.sqlite").totals().paid == remote.paid.queries == 40


def test_threads_share_one_budget(urls):
    remote = teacher(urls["probabilities"], budget=40, max_batch=1, concurrency=8)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(remote.query, images(10, seed)) for seed in range(4)]:
            future.result()
    assert remote.paid.queries == 40


def test_without_the_extra_its_name_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpcore2", None)
    with pytest.raises(ImportError, match=r"needs httpcore2: pip install httpcore2 tenacity"):
        teacher("http://127.0.0.1:9")


class TestProtocol:
    @pytest.mark.parametrize("binary", [False, True])
    def test_tensors_survive_the_journey(self, binary):
        tensors = {
            "a": np.arange(6, dtype=np.int64).reshape(2, 3) - 2**60,
            "b": np.float32([[0.1, 1e-30], [3.4e38, -0.0]]),
            "c": np.array(["é", "", "two words"], dtype=object),
            "d": np.array([True, False]),
            "e": np.zeros((0, 3), np.float16),
        }
        body, length = write({"id": "1"}, "outputs", tensors, binary=binary)
        message, found = read(body, length, "outputs")
        assert message["id"] == "1"
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype
            np.testing.assert_array_equal(found[name], tensor)

    @pytest.mark.parametrize("seed", range(4))
    def test_noise_is_refused_and_never_breaks_the_reader(self, seed):
        generator = np.random.default_rng(seed)
        body, length = write({}, "inputs", {"x": np.ones((2, 3), np.float32)}, binary=seed % 2 == 0)
        refused = 0
        for _ in range(300):
            noisy = bytearray(body)
            for at in generator.integers(0, len(body), generator.integers(1, 6)):
                noisy[at] = generator.integers(256)
            cut = bytes(noisy[: generator.integers(len(noisy) + 1)])
            try:
                read(cut, length, "inputs")
            except ProtocolError:
                refused += 1
        assert 200 < refused <= 300  # changes within the numbers alone are no mistakes

    def test_texts_that_are_cut_are_refused(self):
        body, length = write({}, "inputs", {"x": np.array(["abc"], dtype=object)}, binary=True)
        cut = body[:length].replace(b'"binary_data_size":7', b'"binary_data_size":5') + body[length:-2]
        with pytest.raises(ProtocolError, match="the data is cut"):
            read(cut, length, "inputs")
