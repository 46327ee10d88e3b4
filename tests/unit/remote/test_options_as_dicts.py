"""Options that stand in groups are taken as dicts from Python, as in a file; what is none is said in a sentence."""

import pytest
from helpers import Linear
from torch import ones

from kdlightning.accounting import Budget
from kdlightning.accounting.pace import Pace
from kdlightning.accounting.tariff import Tariff
from kdlightning.remote import HTTPHardLabelTeacher, Patience
from kdlightning.remote.providers import OpenAIChatTeacher
from kdlightning.remote.reading import Reader
from kdlightning.remote.writing import Writer
from kdlightning.teachers import SoftLabelTeacher

URL = "http://127.0.0.1:9/v1"


def chat(**options):
    return OpenAIChatTeacher("m", ["cat", "dog"], url=URL, **options)


def test_a_dict_is_the_group_of_options():
    teacher = chat(
        price={"input": 2.5, "output": 10},
        budget={"queries": 1000, "price": 20},
        pace={"requests_per_minute": 60},
        patience={"attempts": 2},
    )
    assert teacher._bill.tariff == Tariff(input=2.5, output=10)
    assert (teacher.budget, teacher._limits.price) == (1000, 20)
    assert teacher._pace == Pace(requests_per_minute=60)
    assert teacher._patience == Patience(attempts=2)
    same = chat(price=Tariff(input=2.5, output=10), budget=Budget(1000, price=20))
    assert (same._bill.tariff, same._limits, same.budget) == (teacher._bill.tariff, teacher._limits, teacher.budget)
    assert chat(budget=5).budget == 5
    assert chat(price=0.25)._bill.tariff == Tariff(image=0.25, unbilled=())
    any_api = HTTPHardLabelTeacher(
        URL, {"image": "{image}"}, "text", labels=["a"], reader={"answer": "x.y"}, writer={"image": "jpeg"}
    )
    assert (any_api._reader, any_api._writer) == (Reader(answer="x.y"), Writer(image="jpeg"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"price": {"inputs": 2.5}}, "price: expected a Tariff, or a dict with image, request, input, .*; got inputs"),
        ({"price": "2.5"}, r"price: expected that of an image, or a price list such as {'input': 2.5}, got '2.5'"),
        ({"price": {"input": "2.5"}}, r"price: expected a Tariff, got {'input': '2.5'} \("),
        ({"budget": {"money": 3}}, "budget: expected a Budget, or a dict with queries, bytes, price; got money"),
        ({"budget": "5"}, r"budget: expected a whole number of images, or limits such as {'price': 20}, got '5'"),
        ({"budget": 2.5}, r"budget: expected a whole number of images, or limits such as {'price': 20}, got 2.5"),
        ({"pace": 60}, "pace: expected a Pace, or a dict with requests_per_minute, tokens_per_minute; got 60"),
        ({"patience": {"tries": 3}}, "patience: expected a Patience, or a dict with .*; got tries"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value),
)
def test_what_is_none_is_said(options, said):
    with pytest.raises(TypeError, match=said):
        chat(**options)


def test_a_value_out_of_range_is_said_as_ever():
    with pytest.raises(ValueError, match="tariff: expected input of at least 0, got -1"):
        chat(price={"input": -1})


@pytest.mark.parametrize("budget", [{"price": 3}, 2.5, "5", True])
def test_a_network_of_this_process_takes_a_number_of_images(budget):
    with pytest.raises(TypeError, match="a query budget is a whole number of images or None, got"):
        SoftLabelTeacher(Linear(ones(3, 4)), budget)
