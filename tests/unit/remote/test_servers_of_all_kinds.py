"""Servers of the Open Inference Protocol as they are: fixed batches, no metadata, other kinds of numbers."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from helpers import Linear, shaped
from servers import answering
from torchvision.transforms.functional import normalize

from kdlightning.remote import (
    HTTPSoftLabelTeacher,
    Patience,
    RemoteHardLabelTeacher,
    RemoteSoftLabelTeacher,
    RemoteTeacherError,
    Tensors,
    Writer,
)
from kdlightning.remote.protocol import BF16, read, write
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher

ONCE = Patience(attempts=1)
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def network():
    return Linear(torch.randn(3, 60, generator=torch.Generator().manual_seed(0)))


def images(number):
    return torch.rand(number, 3, 4, 5, generator=torch.Generator().manual_seed(1))


@contextmanager
def server(shape, answer, *, datatype="FP32", output=None, absent=(), seen=None, binary=False):
    """Yields the url of a model ``m`` that takes only the shape that it announces; ``answer(array)``."""

    def respond(handler, body):
        if handler.path in absent:
            return handler.reply(404, {"error": "not found"})
        if handler.command == "GET":
            about = {"inputs": [{"name": "x", "datatype": datatype, "shape": shape}]}
            about["outputs"] = [output or {"name": "y", "datatype": "FP32", "shape": [-1, 3]}]
            return handler.reply(200, about | ({"extensions": ["binary_tensor_data"]} if binary else {}))
        length = handler.headers.get("Inference-Header-Content-Length")
        _, tensors = read(body, int(length) if length else None, "inputs")
        (array,) = tensors.values()
        if seen is not None:
            seen.append(array)
        if len(array.shape) != len(shape) or any(b not in (-1, a) for a, b in zip(array.shape, shape, strict=True)):
            return handler.reply(400, {"error": f"got {array.shape}"})
        reply = answer(array)
        entry = reply if isinstance(reply, dict) else None
        message, length = write({}, "outputs", {} if entry else {"y": reply}, binary=bool(length))
        if entry:
            message = json.dumps({"outputs": [{"name": "y", **entry}]}).encode()
        return handler.reply(200, message, {"Inference-Header-Content-Length": length} if length else {})

    with answering(respond) as url:
        yield url


def scores(array):
    x = torch.tensor(array).reshape(-1, 3, 4, 5)
    return network()(x).softmax(1).numpy()


def soft(url, **options):
    return RemoteSoftLabelTeacher(url, "m", "probabilities", ledger=None, patience=ONCE, **options)


def hard(url, outputs="index", **options):
    return RemoteHardLabelTeacher(url, "m", outputs, ledger=None, patience=ONCE, **options)


@pytest.mark.parametrize(
    ("shape", "batches"),
    [([1, 3, 4, 5], [1, 1, 1, 1, 1]), ([3, 4, 5], [3, 3, 3, 3, 3]), ([2, 3, 4, 5], [2, 2, 2]), ([-1, 3, -1, -1], [5])],
)
def test_a_request_has_as_many_images_as_the_server_takes(shape, batches):
    seen = []
    with server(shape, scores, seen=seen) as url:
        remote = soft(url, concurrency=1)
        torch.testing.assert_close(remote.query(images(5)), SoftLabelTeacher(network()).query(images(5)))
    assert [len(array) for array in seen] == batches
    assert remote.paid.queries == 5


@pytest.mark.parametrize("answer", [lambda x: scores(x)[0], lambda x: scores(x)])
def test_without_a_dimension_for_images_answers_may_lack_it_too(answer):
    with server([3, 4, 5], answer) as url:
        torch.testing.assert_close(soft(url).query(images(2)), SoftLabelTeacher(network()).query(images(2)))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_so_may_labels(shape):
    index = {"name": "y", "datatype": "INT64", "shape": list(shape)}
    with server([3, 4, 5], lambda x: scores(x).argmax().reshape(shape), output=index) as url:
        assert hard(url).query(images(6)).tolist() == HardLabelTeacher(network()).query(images(6)).tolist()


def test_colours_that_come_last_are_seen_in_the_metadata():
    with server([-1, 4, 5, 3], lambda x: scores(x.transpose(0, 3, 1, 2).copy())) as url:
        remote = soft(url)
        assert remote.image_shape == (3, 4, 5)
        torch.testing.assert_close(remote.query(images(3)), SoftLabelTeacher(network()).query(images(3)))


@pytest.mark.parametrize("absent", [("/v2",), ("/v2", "/v2/models/m")])
def test_without_metadata_what_the_configuration_says_will_do(absent):
    with server([-1, 3, 4, 5], scores, absent=absent) as url:
        told = Tensors(input="x", output="y", datatype="FP32")
        torch.testing.assert_close(
            soft(url, tensors=told).query(images(2)), SoftLabelTeacher(network()).query(images(2))
        )
        if len(absent) == 2:
            with pytest.raises(RemoteTeacherError, match=r"status 404.*give tensors\.input and tensors\.datatype"):
                soft(url)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(("datatype", "error"), [("BF16", 2**-8), ("FP16", 2**-11)])
def test_short_floats_in_and_out(binary, datatype, error):
    seen = []

    def answer(array):
        exact = scores(array.astype(np.float32))
        if datatype == "FP16":
            return exact.astype(np.float16)
        bits = torch.tensor(exact).bfloat16().view(torch.int16).numpy().view(np.uint16)
        return bits.view(BF16)

    output = {"name": "y", "datatype": datatype, "shape": [-1, 3]}
    with server([-1, 3, 4, 5], answer, datatype=datatype, output=output, seen=seen, binary=binary) as url:
        found = soft(url).query(images(4))
    torch.testing.assert_close(torch.tensor(seen[0].astype(np.float32)), images(4), atol=error, rtol=0)
    torch.testing.assert_close(found, SoftLabelTeacher(network()).query(images(4)), atol=20 * error, rtol=0)
    torch.testing.assert_close(found.sum(1), torch.ones(4))


@pytest.mark.parametrize(
    ("reply", "options"),
    [
        ({"datatype": "FP32", "shape": [2], "data": [2.0, 0.0]}, {}),
        ({"datatype": "FP32", "shape": [2, 1], "data": [2.0, 0.0]}, {}),
        ({"datatype": "UINT64", "shape": [2], "data": [2, 0]}, {}),
        ({"datatype": "BYTES", "shape": [2, 1], "data": ["0.9:2", "0.8:0:cat"]}, {}),
        ({"datatype": "BYTES", "shape": [2, 2], "data": ["0.9:2:eel", "0.1:1:dog", "0.8:0:cat", "0.1:1:dog"]}, {}),
        (
            {"datatype": "BYTES", "shape": [2, 1], "data": ["0.9:7:eel", "0.8:8:cat"]},
            {"outputs": "text", "labels": ["cat", "dog", "eel"]},
        ),
        ({"datatype": "INT64", "shape": [2], "data": [3, 1]}, {"outputs": "text", "labels": {"1": 0, "2": 1, "3": 2}}),
    ],
)
def test_labels_of_every_kind(reply, options):
    output = {"name": "y", "datatype": reply["datatype"], "shape": [-1, 1]}
    with server([-1, 3, 4, 5], lambda x: reply, output=output) as url:
        assert hard(url, **options).query(images(2)).tolist() == [2, 0]


def test_scores_are_no_class():
    with (
        server([-1, 3, 4, 5], scores) as url,
        pytest.raises(ValueError, match="index needs one number for an image"),
    ):
        hard(url)


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"mean": MEAN, "std": STD}, lambda x: normalize(x, MEAN, STD)),
        ({"mean": 0.5, "std": 0.5}, lambda x: (x - 0.5) / 0.5),
        (
            {"scale": 255.0, "mean": [103.939, 116.779, 123.68], "channels": "BGR"},
            lambda x: x.flip(1) * 255 - torch.tensor([103.939, 116.779, 123.68]).view(3, 1, 1),
        ),
    ],
)
def test_a_server_of_normalised_pixels_gets_them_and_they_are_in_the_identity(tensors, expected):
    seen = []
    with server([-1, 3, 4, 5], scores, seen=seen) as url:
        remote = soft(url, tensors=Tensors(**tensors))
        remote.query(images(2))
        assert remote.identity != soft(url).identity
        assert all(str(value) in remote.identity["pixels"] for key, value in tensors.items() if key != "scale")
    torch.testing.assert_close(torch.tensor(seen[0]), expected(images(2)))


def test_a_json_api_of_normalised_pixels_gets_them_too():
    seen = []

    def answer(handler, body):
        seen.append(json.loads(body)["x"])
        handler.reply(200, [0.5, 0.5])

    with answering(answer) as url:
        options = {"image": "list", "layout": "CHW", "mean": MEAN, "std": STD, "ledger": None}
        HTTPSoftLabelTeacher(url, {"x": "{image}"}, "probabilities", **shaped(**options)).query(images(1))
    torch.testing.assert_close(torch.tensor(seen[0]), normalize(images(1)[0], MEAN, STD))
    with pytest.raises(ValueError, match=r"are of images as lists \(image: list\), got image=png"):
        HTTPSoftLabelTeacher("https://h", {"x": "{image}"}, "probabilities", writer=Writer(mean=MEAN))


def test_numbers_that_do_not_fit_the_channels_are_refused_unpaid():
    with server([-1, 3, 4, 5], scores) as url:
        remote = soft(url, tensors=Tensors(mean=[0.5, 0.5]))
        with pytest.raises(ValueError, match="expected mean to have one number for each of 3 channels"):
            remote.query(images(1))
        assert remote.paid.queries == 0
    for wrong in ({"std": 0.0}, {"scale": -1.0}, {"std": [1.0, 0.0, 1.0]}):
        with pytest.raises(ValueError, match="expected a positive scale and positive std"):
            Tensors(**wrong)
    with (
        server([-1, 3, 4, 5], scores, datatype="UINT8") as url,
        pytest.raises(ValueError, match=r"set tensors\.scale to 255, and neither mean nor std"),
    ):
        soft(url, tensors=Tensors(scale=255.0, mean=0.5))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [({"no": 0, "yes": 1}, {"no": 0, "yes": 1}), ({1: 0, 2: 1}, {"1": 0, "2": 1})],
)
def test_labels_are_texts(labels, expected):
    teacher = HTTPSoftLabelTeacher("https://h", {"x": "{image}"}, "probabilities", labels=labels, ledger=None)
    assert teacher._labels == expected


@pytest.mark.parametrize("labels", [{False: 0, True: 1}, [False, True], {None: 0, "a": 1}, {"True": 0, "False": 1}])
def test_what_yaml_takes_for_no_text_is_told_before_anything_is_paid(labels):
    with pytest.raises(ValueError, match=r"YAML takes bare words such as no.*in quotes"):
        HTTPSoftLabelTeacher("https://h", {"x": "{image}"}, "probabilities", labels=labels, ledger=None)
