from jsonargparse import ArgumentParser

from kdlightning.commands.hints import explain


def test_a_bare_word_that_yaml_takes_for_no_text_is_told():
    message = "Parser key \"labels\":\n    - Expected a <class 'str'>. Got value: False"
    assert "-> YAML takes a bare word for False that was no, on, 1 or the like: write it in quotes" in explain(
        message, ArgumentParser()
    )
