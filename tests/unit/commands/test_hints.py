import pytest
from jsonargparse import ArgumentParser

from kdlightning.commands.hints import class_of, explain, nearest, public_class
from kdlightning.remote import providers


def test_a_bare_word_that_yaml_takes_for_no_text_is_told():
    message = "Parser key \"labels\":\n    - Expected a <class 'str'>. Got value: False"
    assert "-> YAML takes a bare word for False that was no, on, 1 or the like: write it in quotes" in explain(
        message, ArgumentParser()
    )


def test_suggestions_are_distinct_and_do_not_mind_capitals():
    names = ["ResNet8", "resnet18", "resnet18", "resnet34", "VGG11", "vgg11"]
    assert nearest("Resnet8", names, 3, cutoff=0.6) == ["ResNet8", "resnet18", "resnet34"]
    assert nearest("vgg12", names, 3, cutoff=0.6) == ["VGG11"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("results", "'results' stands within 'reader', as in reader: {results: ...}"),
        ("label_key", "'label_key' stands within 'reader', as in reader: {label: ...}"),
        ("layout", "'layout' stands within 'writer', as in writer: {layout: ...}"),
        ("budget_price", "'budget_price' stands within 'budget', as in budget: {price: ...}"),
        ("budget_bytes", "'budget_bytes' stands within 'budget', as in budget: {bytes: ...}"),
        ("max_total", "there is no argument 'max_total'"),
    ],
)
def test_what_stands_within_another_argument_is_told_where(given, said):
    message = f"class_path 'kdlightning.remote.HTTPSoftLabelTeacher':\n  Option '{given}' is not accepted"
    assert f"\n  -> {said}" in explain(message, ArgumentParser())


@pytest.mark.parametrize("name", providers.__all__)
def test_a_vendors_teacher_is_known_by_its_short_name(name):
    assert public_class(name) is getattr(providers, name)


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("GeminiTeacher", providers.GeminiTeacher),
        ("kdlightning.networks.load_network", "Module"),
        ("kdlightning.commands.hints.nearest", object),  # makes no object of one class
        ("NoSuchTeacher", object),
    ],
)
def test_the_class_of_a_name_is_that_of_what_it_makes(name, made):
    assert class_of(name) is made or class_of(name).__name__ == made
