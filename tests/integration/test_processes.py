"""Two real processes see what one sees: every image once."""

import json
import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest
import torch
from helpers import TinyNet, ToyDataModule, trainer

from kdlightning.callbacks import Agreement, ConfusionMatrix, RunResult
from kdlightning.data.sets import each_once
from kdlightning.methods import Supervised
from kdlightning.teachers import SoftLabelTeacher


class Many(ToyDataModule):
    """397 test images, a prime number, of which the last ones are hard; 41 to validate on."""

    def load(self):
        train, _, test = super().load()
        wide = torch.arange(397) % len(test)
        tested = type(test)(test.images[wide].clone(), torch.arange(397), test.labels[wide])
        tested.images[-3:] = 0
        return train, None, tested


def measure(root, **options):
    torch.manual_seed(0)
    module, data = Supervised(TinyNet()), Many(number=40, num_val=41, eval_batch_size=30)
    watching = [ConfusionMatrix(), Agreement(SoftLabelTeacher(TinyNet())), RunResult()]
    run = trainer(root, max_epochs=0, callbacks=watching, **options)
    (validated,) = run.validate(module, datamodule=data, verbose=False)
    watching[0].on_fit_end(run, module)  # as if it had been fitted
    (tested,) = run.test(module, datamodule=data, verbose=False)
    if run.is_global_zero:
        counted = {"images": watching[2]._tested, "mark": watching[2]._mark}
        (Path(root) / "metrics.json").write_text(json.dumps({**validated, **tested, **counted}))


SCRIPT = """
import sys, torch
sys.path[:0] = [{tests!r}, {here!r}]
from test_processes import measure
torch.set_num_threads(1)
measure("two", devices=2, strategy="ddp")
"""


@pytest.mark.timeout(300)  # two interpreters start: 20 s, more on a busy machine
def test_two_processes_measure_what_one_measures(tmp_path):
    here = Path(__file__).parent
    (tmp_path / "run.py").write_text(SCRIPT.format(tests=str(here.parent), here=str(here)))
    for root in ("one", "two"):
        (tmp_path / root).mkdir()
    process = subprocess.run(
        [sys.executable, "run.py"], cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr[-3000:]
    measure("one")
    one, two = (json.loads((tmp_path / root / "metrics.json").read_text()) for root in ("one", "two"))
    assert one == two
    assert one["images"] == 397
    assert one["mark"] > 2**32
    assert {"val/accuracy", "test/accuracy", "test/agreement"} <= set(one)
    counts = [json.loads((tmp_path / root / "confusion.json").read_text())["counts"] for root in ("one", "two")]
    assert counts[0] == counts[1]
    assert torch.tensor(counts[0]).sum() == 397


class Place:
    def __init__(self, world_size, global_rank):
        self.world_size, self.global_rank = world_size, global_rank


@pytest.mark.parametrize(("images", "processes"), [(397, 2), (397, 4), (20, 7), (3, 3), (0, 2)])
def test_every_image_is_shared_out_once(images, processes):
    shares = [list(each_once(range(images), Place(processes, rank))) for rank in range(processes)]
    assert sorted(chain(*shares)) == list(range(images))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_without_an_image_is_refused():
    assert each_once(range(3), None) is each_once(range(3), Place(1, 0)) is None
    with pytest.raises(ValueError, match=r"8 processes share out 3 images.*--trainer.devices"):
        each_once(range(3), Place(8, 0))
