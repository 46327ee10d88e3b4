"""The precision that the hardware has, and losses in float32 under half of it."""

import logging

import pytest
import torch
from golden import cases
from golden.cases import CASES
from helpers import TinyNet, ToyDataModule

from kdlightning.methods import Supervised
from kdlightning.modules import TaughtModule, Trainer, best_precision, precision

X86, ARM = "processor\t: 0\nflags\t\t: fpu avx2 {}\n", "processor\t: 0\nFeatures\t: fp asimd {}\n"


@pytest.fixture
def processor(monkeypatch, tmp_path):
    def of(text):
        (tmp_path / "cpuinfo").write_text(text)
        monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "cpuinfo")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    return of


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (X86.format("avx512f avx512_bf16"), "bf16-mixed"),
        (X86.format("amx_bf16 amx_tile"), "bf16-mixed"),
        (X86.format("avx512f avx512_bf16x"), "32-true"),
        (ARM.format("bf16"), "bf16-mixed"),
        (ARM.format("sve"), "32-true"),
        ("", "32-true"),
    ],
)
def test_bfloat16_where_the_processor_has_it(processor, text, expected, caplog):
    processor(text)
    caplog.set_level(logging.INFO)
    assert best_precision() == best_precision("cpu") == expected
    assert f"precision {expected}: this processor has {'no ' if expected == '32-true' else ''}bfloat16" in caplog.text


def test_a_graphics_card_that_has_it(monkeypatch, processor):
    processor(X86.format(""))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for has, expected in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert best_precision() == best_precision("gpu") == expected
    assert best_precision("mps") == best_precision("cpu") == "32-true"


def test_a_trainer_takes_it(processor, tmp_path):
    processor(X86.format("amx_bf16"))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 1}
    run = Trainer(accelerator="cpu", precision="auto", default_root_dir=tmp_path, **quiet)
    run.fit(Supervised(TinyNet()), datamodule=ToyDataModule())
    assert run.precision == "bf16-mixed"
    assert Trainer(accelerator="cpu", **quiet).precision == "32-true"
    assert Trainer(accelerator="cpu", precision="bf16", **quiet).precision == "bf16-mixed"


@pytest.mark.parametrize("method", CASES)
def test_losses_are_float32_in_half_precision(method, monkeypatch):
    """Every method runs in bfloat16; what it minimises is finite, and float32 throughout."""
    terms, given = [], cases.trainer
    accumulate = TaughtModule._accumulate

    def watched(module, logged):
        terms.extend((name, term.dtype, bool(term.isfinite().all())) for name, term in logged.items())
        accumulate(module, logged)

    monkeypatch.setattr(TaughtModule, "_accumulate", watched)
    monkeypatch.setattr(cases, "trainer", lambda **options: given(precision="bf16-mixed", **options))
    # oneDNN leaves the gradient of weights unset, in bfloat16, where a convolution gets maps of 1 x 1, as critics do
    # from images of 8 pixels
    with torch.backends.mkldnn.flags(enabled=False):
        assert cases.run(method)
    assert not [(name, dtype) for name, dtype, finite in terms if dtype != torch.float32 or not finite]
