import json

import pytest

from kdlightning.accounting import QueryMeter
from kdlightning.accounting.accounts import Cost
from kdlightning.accounting.estimates import outcome, remember
from kdlightning.report import write_report
from kdlightning.report.text import money

PAID = {"price": 0.03012345, "input_tokens": 12_000, "output_tokens": 30}
ESTIMATED = {"price_estimated_least": 0.02, "price_estimated": 0.04, "price_estimated_most": 0.05}


def lines(page, place):
    text = page.read_text().replace("\\", "")  # as Markdown escapes
    return [line.split(" | ") for line in text.splitlines() if line.startswith(f"| {place} ")]


def test_estimated_stands_beside_paid(workspace):
    workspace.run(queries=40, **PAID)
    workspace.run(seed=1)  # cost nothing
    workspace.transfer_set("probed", queries=40, **PAID, **ESTIMATED)
    workspace.transfer_set("fixed", queries=7, **PAID | {"price": 12.5}, **dict.fromkeys(ESTIMATED, 14.0))
    page = write_report([workspace.root]) / "report.md"
    assert "## Costs" in page.read_text()
    root = workspace.root
    assert lines(page, root / "run-01")[0][1:] == ["40", "12,000", "30", "–", "0.03012 |"]
    assert lines(page, root / "run-02") == []
    assert lines(page, root / "probed")[0][1:] == ["40", "12,000", "30", "0.04 (0.02 to 0.05)", "0.03012 |"]
    assert lines(page, root / "fixed")[0][1:] == ["7", "12,000", "30", "14.00", "12.50 |"]
    told = json.loads((page.parent / "transfer-sets.json").read_text())["probed"]
    assert told["price_estimated"] == 0.04


def test_without_money_there_are_no_costs(workspace):
    workspace.run()
    workspace.transfer_set()
    assert "Costs" not in (write_report([workspace.root]) / "report.md").read_text()


def test_a_price_that_is_none_is_told(workspace):
    workspace.run()
    workspace.transfer_set(price="much")
    page = (write_report([workspace.root]) / "report.md").read_text()
    assert "price: expected a number that is not negative" in page


def test_the_last_estimate_before_the_first_question_stays(tmp_path):
    assert outcome(tmp_path, Cost(100, 50)) == {}
    remember(tmp_path / "run", (4.0, 5.0, 6.0))  # of a run that has asked nothing
    remember(tmp_path / "run", (1.0, 2.0, 3.0))
    asking(tmp_path / "run", 1)
    remember(tmp_path / "run", (0.0, 0.5, 1.0))  # of a run that goes on
    told = {"price_estimated_least": 1.0, "price_estimated": 2.0, "price_estimated_most": 3.0}
    assert outcome(tmp_path / "run", Cost(9, 9, 0.5, 7, 8)) == {
        "price": 0.5, "input_tokens": 7, "output_tokens": 8, **told
    }  # fmt: skip
    (tmp_path / "run" / "estimate.json").write_text("{")
    assert outcome(tmp_path / "run", Cost(9)) == {}


def test_a_run_that_began_without_an_estimate_gets_none_when_it_goes_on(tmp_path):
    asking(tmp_path / "run", 207)  # nobody knew the price of a token
    remember(tmp_path / "run", (0.0, 0.001786, 0.001786))  # of the last images
    assert outcome(tmp_path / "run", Cost(9, 9, 0.00576, 12_000, 30)) == {
        "price": 0.00576, "input_tokens": 12_000, "output_tokens": 30
    }  # fmt: skip


def asking(directory, images):
    meter = QueryMeter()
    meter.share(directory / "queries.meter")
    meter.charge(images)


@pytest.mark.parametrize(("amount", "text"), [(None, "–"), (0.0, "0"), (0.0123456, "0.01235"), (1234.5, "1,234.50")])
def test_money_is_short(amount, text):
    assert money(amount) == text
