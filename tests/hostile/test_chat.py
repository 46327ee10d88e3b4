"""500 images through a chat server with limits, failures, refusals and a bill by tokens; its client is killed."""

import hashlib
import json
import multiprocessing
import os
import random
import zlib
from collections import Counter

import numpy as np
import pytest
from chat import LABELS, Chat, Killer, Limited, chat_teacher, fails_at_random
from helpers import ToyDataModule, trainer

from kdlightning.accounting import Budget
from kdlightning.accounting.accounts import Cost
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.accounting.tariff import Tariff, Usage
from kdlightning.data import NoiseDataModule, TransferSet
from kdlightning.methods import TeacherAnswers

FORK = multiprocessing.get_context("fork")
NUMBER, AT_ONCE = 500, 4
TARIFF = Tariff(input=0.15, output=0.6, unbilled=(500, 502, 503))


def label(url, directory):
    """Label all images, in a process of its own."""
    os.chdir(directory)
    options = {"price": TARIFF, "budget": Budget(price=0.05), "max_unanswered": 0.3}  # the first fifty may be unlucky
    teacher = chat_teacher(url, concurrency=AT_ONCE, **options)
    data = NoiseDataModule(ToyDataModule(eval_batch_size=32), NUMBER)
    trainer(directory).predict(TeacherAnswers(teacher, "set"), datamodule=data, return_predictions=False)
    os._exit(0)


def say(image):
    """Of a hundred images ten are refused, and five are answered by what names no class, or two."""
    draw = zlib.crc32(image.encode())
    if draw % 100 < 10:
        return "I'm sorry, but I can't help with identifying this image."
    if draw % 100 < 15:
        return ("<|im_start|>\ufffd\ufffd", "a cat or a dog")[draw // 100 % 2]
    return LABELS[draw // 100 % len(LABELS)]


def nano(price):
    return Cost(0, 0, price).units()[2]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))])
def test_every_image_is_asked_once_and_paid_to_the_token(tmp_path, seed):
    draw = random.Random(seed)
    moments = dict(zip(draw.sample(range(5, NUMBER - 20), 3), ("billing", "reply", "end"), strict=True))
    killer, limit = Killer(moments), Limited(40)
    known, book = [], QueryLedger("ledger.sqlite")

    def asked_again(chat, handler, image):
        key = hashlib.sha256(json.dumps(image).encode()).digest()
        with book._file.transaction(write=False) as connection:
            known.extend(connection.execute("SELECT image FROM answers WHERE image = ?", (key,)))

    troubles = [asked_again, killer, limit, fails_at_random(seed, 0.02)]
    chat = Chat(say, troubles=troubles, headers=limit.headers)
    status, kills = None, 0
    with chat.serving() as url:
        while status != 0:
            process = FORK.Process(target=label, args=(url, tmp_path))
            process.start()
            killer.client = process.pid
            process.join(120)
            kills, status = kills + (process.exitcode == -9), process.exitcode
            assert status in (0, -9)
    assert kills == 3
    assert known == []  # nothing that was answered was asked again

    made = TransferSet("set")
    assert len(made) + len(made.unanswered["index"]) == made.manifest["queries"] == NUMBER
    with QueryLedger("ledger.sqlite") as ledger:
        totals, entries = ledger.totals(), list(ledger.answers())
        assert ledger.verify() == []
    assert (totals.unique, totals.twice, totals.lost) == (NUMBER, 0, 0)

    # settled to the token: what the server billed for the answers, and for what flew at a kill the worst case
    billed = Counter(image for image, _ in chat.billed)
    assert len(billed) == NUMBER
    assert sum(billed.values()) - NUMBER <= totals.in_flight <= kills * AT_ONCE
    true = {image: chat.tokens(image) for image in billed}
    assert Counter((entry.input_tokens, entry.output_tokens) for entry in entries) == Counter(true.values())
    told = [say(image) for image in billed]
    labels = Counter(text for text in told if text in LABELS)  # an answer that is none is an int8
    assert labels == Counter(LABELS[label] for label in made.column("answer").tolist())
    assert labels == Counter(LABELS[int(entry.answer)] for entry in entries if entry.answer.dtype != np.int8)
    assert 400 < labels.total() < 450
    settled = Usage(*(sum(usage[side] for usage in true.values()) for side in (0, 1)))
    flying = Usage(totals.input_tokens - settled.input_tokens, totals.output_tokens - settled.output_tokens)
    assert flying.output_tokens == 9 * totals.in_flight  # max_tokens
    assert 106 * totals.in_flight <= flying.input_tokens <= 130 * totals.in_flight  # 85 to 104, and a quarter
    paid = sum(nano(TARIFF.price(1, usage)) for usage in true.values())
    assert nano(totals.price) - paid == pytest.approx(nano(TARIFF.price(1, flying)), abs=totals.in_flight)
    assert nano(totals.price) >= sum(nano(TARIFF.price(1, usage)) for _, usage in chat.billed)
