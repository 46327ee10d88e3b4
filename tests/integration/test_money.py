"""A teacher that is billed by tokens: estimated, probed, labelled within a budget, and told in a report."""

import re
from pathlib import Path

import pytest
import yaml
from chat import HASTY, LABELS, REQUEST, Chat
from helpers import ToyDataModule

from kdlightning.__main__ import main
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.accounting.tariff import Tariff, Usage
from kdlightning.data import TransferSet

PRICE = {"input": 2.5, "output": 10.0}
DATA = {"class_path": "helpers.ToyDataModule", "init_args": {"number": 40, "eval_batch_size": 8}}


def write(url, file="labels.yaml", **options):
    patience = {name: getattr(HASTY, name) for name in ("attempts", "backoff", "longest_backoff", "jitter")}
    settings = {
        "url": url, "request": REQUEST, "outputs": "text", "labels": LABELS,
        "reader": {"answer": "choices.0.message.content"},
        "known_as": "chat", "price": PRICE, "patience": patience, "concurrency": 2,
    }  # fmt: skip
    teacher = {"class_path": "HTTPHardLabelTeacher", "init_args": {**settings, **options}}
    model = {"class_path": "TeacherAnswers", "init_args": {"teacher": teacher, "output": "set"}}
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    Path(file).write_text(yaml.safe_dump({"model": model, "data": DATA, "trainer": quiet}))


def words(capsys):
    return re.sub(r"\s+", " ", capsys.readouterr().out)


def billed(chat):
    tariff = Tariff(**PRICE)
    return sum(round(1e9 * tariff.price(1, usage)) for _, usage in chat.billed) / 1e9


def test_estimate_probe_label_and_report(capsys):
    """Tokens by the order of the answers: the five of the probe have 100, 200, ... 500, the others 300."""
    assert len(ToyDataModule(number=40).load()[0].labels) == 52
    counts = iter([100, 200, 300, 400, 500])
    chat = Chat(tokens=lambda image: Usage(next(counts, 300), 2))
    with chat.serving() as url:
        write(url)
        assert main(["estimate", "--config", "labels.yaml"]) == 0
        assert "price nobody knows yet: it is by tokens, which `--probe 5` measures" in words(capsys)
        assert chat.billed == []
        assert main(["estimate", "--config", "labels.yaml", "--probe", "5"]) == 0
        told = words(capsys)
        assert "probe 5 images asked, 1,500 tokens in, 10 out, price 0.00385" in told
        assert "tokens an image 300.0 in, 2.0 out, the mean of 5 requests" in told
        # 35 more, or all 40 where the ledger's are others: 770, 270 and 1,270 millionths of an image
        assert (
            "price at most 0.0308, at least 0.02695 by that mean; 0.00945 to 0.0508 by the cheapest and the dearest"
            in told
        )
        assert len(chat.billed) == 5

        write(url, budget={"price": 0.002})
        with pytest.raises(SystemExit):
            main(["predict", "--config", "labels.yaml"])
        assert "needs at least 0.00945 units of price, but the budget is 0.002" in capsys.readouterr().err
        write(url, budget={"price": 0.0508})
        assert main(["predict", "--config", "labels.yaml"]) == 0
    assert len(chat.billed) == 40
    manifest = TransferSet("set").manifest
    with QueryLedger("ledger.sqlite") as ledger:
        assert ledger.totals().price == pytest.approx(billed(chat), abs=1e-12) == 0.0308
    assert (manifest["price"], manifest["input_tokens"], manifest["output_tokens"]) == (0.02695, 35 * 300, 70)
    names = ("price_estimated_least", "price_estimated", "price_estimated_most")
    assert [manifest[name] for name in names] == pytest.approx([0.00945, 0.0308, 0.0508], abs=1e-12)
    assert not Path("set/estimate.json").exists()


def test_a_server_that_is_down_is_estimated_by_its_price_list(capsys):
    write("http://127.0.0.1:9", price={"image": 0.01, "request": 0.02}, budget=30)
    assert main(["estimate", "--config", "labels.yaml"]) == 0
    assert "price 1.2 " in words(capsys)
    write("http://127.0.0.1:9", file="tokens.yaml")
    assert main(["estimate", "--config", "tokens.yaml"]) == 0
    assert "price nobody knows yet: it is by tokens" in words(capsys)


def test_a_recipe_is_summed_without_what_nobody_knows(capsys):
    write("http://127.0.0.1:9")
    write("http://127.0.0.1:9", file="fixed.yaml", price=0.01)
    stages = []
    for name, file in (("tokens", "labels.yaml"), ("fixed", "fixed.yaml")):
        config = yaml.safe_load(Path(file).read_text().replace("{image}", "{{image}}"))  # no variable of the recipe
        config["model"]["init_args"]["output"] = f"{{output}}/{name}"
        stages.append({"name": name, "command": "predict", "config": config})
    Path("recipe.yaml").write_text(yaml.safe_dump({"output": "runs/x", "stages": stages}))
    assert main(["estimate", "recipe.yaml"]) == 0
    assert "all: to pay 80 images, price 0.4; without TeacherAnswers" in words(capsys)
