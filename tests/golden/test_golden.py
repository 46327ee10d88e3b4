"""Every method computes what it computed when its curves were committed; `make golden` remakes them."""

import inspect
import json

import pytest
from golden.cases import CASES, CURVES, TOLERANCE, differences, run
from lightning.pytorch import LightningModule

from kdlightning import methods
from kdlightning.modules import GeneratorModule


def concrete():
    """Exported classes that can be trained or asked: nothing abstract, and a step of their own."""
    for exported in (*(getattr(methods, name) for name in methods.__all__), GeneratorModule):
        steps = ("training_step", "predict_step")
        own = any(getattr(exported, step, None) is not getattr(LightningModule, step) for step in steps)
        if inspect.isclass(exported) and not inspect.isabstract(exported) and own:
            yield exported.__name__


def test_every_method_has_curves():
    assert set(CASES) == set(concrete()) == {file.stem for file in CURVES.glob("*.json")}


@pytest.mark.parametrize("method", CASES)
def test_a_method_computes_what_it_did(method):
    golden = json.loads((CURVES / f"{method}.json").read_text())
    expected, got = golden["cases"], run(method)
    assert got.keys() == expected.keys()
    lines = [
        line for case in expected for line in differences(method, case, expected[case], got[case], golden["tolerance"])
    ]
    assert not lines, "\n".join(lines)


def test_a_difference_says_where_it_is():
    expected = {"train/kd": [1.0, 2.0, None], "queries": [3, 4], "image": [[7.0, 9.0]], "train/ce": [1.0]}
    same = {"train/kd": [1.0, 2.0001, None], "queries": [3, 4], "image": [[8.0, 9.0]], "train/ce": [1.0]}
    assert differences("KD", "soft", expected, same, TOLERANCE) == []
    got = {"train/kd": [1.0, 2.001, None], "queries": [3, 5], "image": [[7.0, 11.0]], "train/new": [1.0]}
    assert differences("KD", "soft", expected, got, TOLERANCE) == [
        "KD (soft): train/new is new",
        "KD (soft): train/kd, step 2: expected 2.0, got 2.001",
        "KD (soft): queries, row 2: expected 4, got 5",
        "KD (soft): image, row 1 2: expected 9.0, got 11.0",
        "KD (soft): train/ce is missing",
    ]
