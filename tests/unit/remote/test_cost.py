import json
import math

import pytest
import torch
from chat import LABELS, REQUEST, Chat, chat_teacher, fails
from jsonargparse import ArgumentParser

from kdlightning.accounting import Budget, QueryBudgetExceededError
from kdlightning.accounting.accounts import Cost
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.accounting.tariff import Tariff, Usage, tariff_of
from kdlightning.accounting.terms import Prices
from kdlightning.remote import HTTPHardLabelTeacher, RemoteTeacherError
from kdlightning.remote.bill import Bill, longest_answer, usage_of
from kdlightning.remote.connection import Reply

MINI = Tariff(input=0.15, output=0.6)  # of 1,000,000 tokens


def images(number, seed=0):
    return torch.randint(256, (number, 3, 4, 4), generator=torch.Generator().manual_seed(seed)) / 255


@pytest.mark.parametrize(
    ("tariff", "images", "usage", "price"),
    [
        (Tariff(image=0.0015), 4, (0, 0), 0.006),
        (Tariff(image=0.001, request=0.01), 4, (0, 0), 0.014),
        (MINI, 1, (1_000_000, 2_000_000), 1.35),
        (MINI, 7, (1, 1), 0.00000075),
        (Tariff(input=0.1, per=1000), 1, (3, 0), 0.0003),
        (Tariff(request=0.1, input=0.2, output=0.3, per=1), 1, (1, 2), 0.9),
        (Tariff(input=0.00000001, per=1), 1, (3, 0), 0.00000003),
    ],
)
def test_a_price_is_exact(tariff, images, usage, price):
    assert tariff.price(images, Usage(*usage)) == price


def test_a_batch_job_costs_its_share():
    assert Tariff(request=1.0, output=3.0, per=1000, batch=0.5).price(1, Usage(5, 500), batch=True) == 1.25
    assert Tariff(request=1.0).price(1, batch=True) == 1.0


def test_many_small_prices_do_not_drift():
    price = MINI.price(1, Usage(1, 0))
    assert sum(Cost(0, 0, price).units()[2] for _ in range(10**5)) == 150 * 10**5  # billionths


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"image": -1.0}, "expected image of at least 0, got -1.0"),
        ({"output": math.nan}, "expected output of at least 0, got nan"),
        ({"per": 0}, "at least 1 token, got per 0"),
        ({"unseen": (0, 5)}, r"at least 1 token, got per 1000000 and unseen \[0, 5\]"),
    ],
)
def test_a_tariff_that_is_none_is_refused(options, told):
    with pytest.raises(ValueError, match=told):
        Tariff(**options)


def test_a_number_is_the_price_of_an_image():
    assert tariff_of(0.25) == Tariff(image=0.25, unbilled=())
    assert tariff_of(MINI) is MINI


@pytest.mark.parametrize(
    ("reply", "usage"),
    [
        ({"usage": {"prompt_tokens": 1117, "completion_tokens": 46, "total_tokens": 1163}}, (1117, 46)),
        ({"usage": {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"cached": 4}}}, (9, 2)),
        ({"usage": {"input_tokens": 2095, "output_tokens": 503}}, (2095, 503)),
        (
            {"usage": {"input_tokens": 50, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 30,
                       "output_tokens": 5}},
            (180, 5),
        ),
        ({"usageMetadata": {"promptTokenCount": 264, "candidatesTokenCount": 2, "totalTokenCount": 266}}, (264, 2)),
        ({"usageMetadata": {"promptTokenCount": 264, "candidatesTokenCount": 2, "thoughtsTokenCount": 31}}, (264, 33)),
        ({"usageMetadata": {"promptTokenCount": 264}}, (264, 0)),  # a blocked answer
        ({"usage": None}, None),
        ({"usage": {"prompt_tokens": "many"}}, None),
        ({"outputs": [[0.1, 0.9]]}, None),
    ],
)  # fmt: skip
def test_usage_is_read_as_vendors_write_it(reply, usage):
    assert usage_of(json.dumps(reply).encode()) == usage


def test_usage_is_read_at_own_paths():
    body = json.dumps({"meta": {"tokens": [{"in": 5, "out": 7.0}]}}).encode()
    assert usage_of(body, ("meta.tokens.0.in", "meta.tokens.0.out")) == (5, 7)
    assert usage_of(body, ("meta.tokens.0.in", "meta.billed")) == (5, 0)
    assert usage_of(body, ("meta.cost.in", "meta.cost.out")) is None
    assert usage_of(b'{"meta": <html>', ("meta.in", "meta.out")) is None


@pytest.mark.parametrize(
    ("request_", "longest"),
    [
        ({"max_tokens": 16, "messages": []}, 16),
        ({"max_completion_tokens": 300}, 300),
        ({"generationConfig": {"maxOutputTokens": 12}}, 12),
        ({"options": {"num_predict": 8}}, 8),
        ([{"max_tokens": 3}, {"max_tokens": 5}], 5),
        ({"max_tokens": "{image}"}, None),
        ({"messages": ["max_tokens"]}, None),
    ],
)
def test_the_longest_answer_is_what_the_request_allows(request_, longest):
    assert longest_answer(request_) == longest


def test_the_worst_case_is_the_largest_seen_with_a_margin():
    bill = Bill(MINI)
    assert bill.worst(2, 300) == Cost(300, 0, MINI.price(2, Usage(40_000, 8_000)), 40_000, 8_000)  # nothing seen
    bill.learn([(1, 100, 4), (4, 160, 8)])
    assert bill.worst(1, 9)[3:] == (200, 10)  # a request of four may have been mostly its prompt
    assert bill.worst(4, 9)[3:] == (500, 20)  # four times what one image took
    bill.longest = 9
    assert bill.worst(4, 9) == Cost(9, 0, MINI.price(4, Usage(500, 9)), 500, 9)


def test_without_prices_by_tokens_none_are_reserved_before_some_are_seen():
    bill = Bill(tariff_of(0.5))
    assert bill.worst(2, 9) == Cost(9, 0, 1.0)
    reply = Reply({}, b'{"usage": {"input_tokens": 8, "output_tokens": 2}}', 50)
    assert bill.true(2, bill.worst(2, 9), reply) == Cost(9, 50, 1.0, 8, 2)
    assert bill.worst(2, 9) == Cost(9, 0, 1.0, 10, 3)


def test_a_reply_without_usage_costs_what_was_reserved(caplog):
    bill = Bill(Tariff(input=1.0, output=1.0, per=1, unseen=(10, 2)))
    for _ in range(2):
        assert bill.true(1, bill.worst(1, 9), Reply({}, b"{}", 2)) == Cost(9, 2, 12.0)
    assert [record.message for record in caplog.records] == [
        "teacher: the price is by tokens, but a reply tells none: what was reserved counts as its price; name the "
        "places of their numbers with price.usage"
    ]


def test_costs_are_settled_to_the_token():
    chat = Chat()
    with chat.serving() as url:
        teacher = chat_teacher(url, price=MINI)
        teacher.query(images(30))
        teacher.query(images(40))
    each = [MINI.price(1, usage) for _, usage in chat.billed]
    assert len(each) == 40
    with QueryLedger("ledger.sqlite") as ledger:
        totals = ledger.totals()
        assert (totals.unique, totals.repeated, totals.in_flight, totals.lost) == (40, 30, 0, 0)
        assert (totals.input_tokens, totals.output_tokens) == chat.total
        assert Cost(0, 0, totals.price).units()[2] == sum(Cost(0, 0, price).units()[2] for price in each)
        entries = {(entry.input_tokens, entry.output_tokens, entry.price) for entry in ledger.answers()}
        assert entries == {(*usage, MINI.price(1, usage)) for _, usage in chat.billed}
    assert teacher.cost[2:] == totals[7:]


def test_without_a_ledger_the_process_counts():
    chat = Chat()
    with chat.serving() as url:
        teacher = chat_teacher(url, price=MINI, ledger=None)
        teacher.query(images(5))
    assert teacher.cost[3:] == chat.total
    assert teacher.cost.price == pytest.approx(sum(MINI.price(1, usage) for _, usage in chat.billed), abs=1e-12)


@pytest.mark.parametrize(
    ("status", "price", "paid"), [(500, MINI, 2), (503, MINI, 2), (502, MINI, 3), (500, 0.1, 3), (429, 0.1, 2)]
)
def test_what_a_vendor_does_not_bill_is_not_paid(status, price, paid):
    chat = Chat(troubles=[fails([0, status])])
    with chat.serving() as url:
        teacher = chat_teacher(url, price=price, concurrency=1)
        teacher.query(images(2))
    assert sum(chat.asked.values()) == 3
    with QueryLedger("ledger.sqlite") as ledger:
        assert ledger.totals()[:5] == (2, 0, 0, 0, paid - 2)
    assert teacher.paid.queries == paid


def test_an_answer_that_cannot_be_read_costs_its_tokens():
    chat = Chat(say=lambda image: "I cannot help with that.")
    with chat.serving() as url:
        teacher = chat_teacher(url, price=MINI)
        with pytest.raises(RemoteTeacherError):
            teacher.query(images(1))
    ((_, usage),) = chat.billed
    with QueryLedger("ledger.sqlite") as ledger:
        totals = ledger.totals()
    assert (totals.input_tokens, totals.output_tokens, totals.price) == (*usage, MINI.price(1, usage))


def test_a_budget_of_money_holds_by_the_worst_case():
    """85 to 104 tokens an image; 130 (104 and a margin) have to fit before another one is asked."""
    tariff = Tariff(input=1.0, per=1, unseen=(110, 1))
    chat = Chat(tokens=lambda image: Usage(104, 1))
    with chat.serving() as url:
        teacher = chat_teacher(url, price=tariff, budget=Budget(price=1000.0), concurrency=1)
        teacher.query(images(9))
        with pytest.raises(QueryBudgetExceededError, match=r"936 units of price .* 130 more were asked for"):
            teacher.query(images(1, seed=1))
    assert len(chat.billed) == 9
    assert teacher.cost.price == 936.0


def test_an_unseen_worst_case_is_refused_before_anything_is_asked():
    chat = Chat()
    with chat.serving() as url, pytest.raises(QueryBudgetExceededError, match=r"0\.003005\d* more were asked for"):
        chat_teacher(url, price=MINI, budget=Budget(price=0.003)).query(images(1))  # 20,000 in, max_tokens 9 out
    assert chat.asked == {}


def test_a_second_run_knows_the_largest_from_the_ledger():
    chat = Chat(tokens=lambda image: Usage(1000, 1))
    with chat.serving() as url:
        chat_teacher(url, price=MINI).query(images(3))
        assert chat_teacher(url, price=MINI)._bill.worst(1, 5)[3:] == (1250, 9)


def test_terms_tell_the_range_of_prices():
    tokens = iter([100, 300, 200])
    chat = Chat(tokens=lambda image: Usage(next(tokens), 2))
    tariff = Tariff(input=2.0, output=1.0, per=1)
    with chat.serving() as url:
        teacher = chat_teacher(url, price=tariff, concurrency=1)
        assert teacher.terms((3, 4, 4), "queries.meter").price is None
        teacher.query(images(3))
        assert teacher.terms((3, 4, 4), "queries.meter").price == Prices(202.0, 402.0, 602.0, 200.0, 2.0, 3)
    assert Bill(Tariff(image=1.0, request=6.0)).prices([], 3) == Prices(3.0, 3.0, 7.0)


def test_a_tariff_in_yaml():
    parser = ArgumentParser()
    parser.add_argument("--teacher", type=HTTPHardLabelTeacher)
    given = {
        "class_path": "kdlightning.remote.HTTPHardLabelTeacher",
        "init_args": {
            "url": "http://127.0.0.1:9", "request": REQUEST, "outputs": "text", "labels": LABELS,
            "price": {"input": 0.15, "output": 0.6, "usage": ["a.b", "a.c"]},
        },
    }  # fmt: skip
    teacher = parser.instantiate(parser.parse_object({"teacher": given})).teacher
    assert teacher._bill.tariff == Tariff(input=0.15, output=0.6, usage=("a.b", "a.c"))
    given["init_args"]["price"] = 0.01
    teacher = parser.instantiate(parser.parse_object({"teacher": given})).teacher
    assert teacher._bill.tariff == Tariff(image=0.01, unbilled=())
