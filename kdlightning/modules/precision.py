"""In which precision to compute: half of float32's where the hardware does so by itself."""

import logging
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as L
import torch
from lightning.fabric.connector import _PRECISION_INPUT  # type: ignore[attr-defined]

_log = logging.getLogger(__name__)
_CPUINFO = Path("/proc/cpuinfo")
_NATIVE = {"avx512_bf16", "amx_bf16", "bf16"}  # flags of x86 processors, and of Arm's


def best_precision(accelerator: str = "auto") -> Literal["32-true", "bf16-mixed"]:
    """``bf16-mixed`` on GPUs and processors that have bfloat16 themselves, else ``32-true``; a line says why.

    Elsewhere bfloat16 is emulated: on a processor it is slower than float32.

    Args:
        accelerator: the trainer's.
    """
    name = str(accelerator)
    if name in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        native, where = torch.cuda.is_bf16_supported(including_emulation=False), "this GPU"
    elif name in ("auto", "cpu") and not (name == "auto" and torch.backends.mps.is_available()):
        native, where = bool(_NATIVE & _flags()), "this processor"
    else:
        native, where = False, name
    if native:
        _log.info("precision bf16-mixed: %s has bfloat16 of its own", where)
        return "bf16-mixed"
    _log.warning("precision 32-true: %s has no bfloat16 of its own, which would be slower than float32", where)
    return "32-true"


def _flags() -> set[str]:
    """What a processor is able to do, as Linux tells it; nothing elsewhere."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    told = (line.partition(":") for line in lines)
    return next((set(flags.split()) for name, _, flags in told if name.strip() in ("flags", "Features")), set())


class Trainer(L.Trainer):
    """Lightning's, with ``precision="auto"``, see `best_precision`."""

    def __init__(
        self, *args: Any, precision: Literal["auto"] | _PRECISION_INPUT | None = None, **kwargs: Any  # noqa: ANN401
    ) -> None:  # fmt: skip
        chosen = best_precision(kwargs.get("accelerator", "auto")) if precision == "auto" else precision
        super().__init__(*args, precision=chosen, **kwargs)
