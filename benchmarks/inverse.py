"""Whether MEKD's generator inverts the teacher: what it draws of an answer, beside the image that was answered.

    python benchmarks/inverse.py --run runs/mnist-curves-mekd --teacher DIR

of the run of ``experiments/mnist/curves/mekd.yaml``. The map of ``response: aligned`` is fitted on the first rows of
the pool; everything is measured on others. Half a minute; writes ``benchmarks/results/inverse-mnist.json``.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor

from kdlightning.callbacks.result import commit
from kdlightning.data import GeneratedDataModule, MNISTDataModule
from kdlightning.functional.divergence import centred
from kdlightning.methods import MEKD
from kdlightning.networks import LeNet5Half, load_network

OUTPUT = Path(__file__).parent / "results/inverse-mnist.json"
HELD_OUT = 2000


@torch.no_grad()
def measured(drawn: Tensor, pixels: Tensor, answer: Tensor, teacher: torch.nn.Module) -> dict[str, float]:
    """Of images drawn of answers ``(N, K)``: how many show the answer's class, and how far they are from ``pixels``."""
    same = teacher(drawn).argmax(1) == answer.argmax(1)
    return {"same_class": round(float(same.float().mean()), 4), "distance": _distance(drawn, pixels)}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--root", default="data", help="where MNIST/raw lies")
    parser.add_argument("--teacher", type=Path, help="its network; of the run where left out")
    parser.add_argument("--fitted", type=int, nargs="+", default=[300, 1000, 10000], help="rows of the pool")
    options = parser.parse_args()
    teacher = load_network(options.teacher or options.run / "teacher/network").eval()
    found: list[dict[str, object]] = []
    for access in ("Soft", "Hard"):
        data = GeneratedDataModule(
            MNISTDataModule(options.root, num_val=6000), path=str(options.run / f"pool-{access}")
        )
        data.setup("fit")
        latent, answer = data.latents(), data.answered.answer
        pixels = data.answered.images[-HELD_OUT:].float() / 255
        given, row = answer[-HELD_OUT:], {"access": access.lower(), "rows": HELD_OUT}
        other = {"distance": _distance(pixels, pixels.roll(1, 0))}
        found.append({**row, "drawn_of": "another image of the pool", **other})
        for tau in (1.0, 5.0, 20.0):
            module = _module(options.run, access, "centred", tau)
            drawn = _drawn(module, given)
            found.append(
                {**row, "drawn_of": "the answer over τ", "tau": tau, **measured(drawn, pixels, given, teacher)}
            )
        for number in options.fitted:
            module = _module(options.run, access, "aligned", 5.0)
            module.align(answer[:number], latent[:number])
            drawn = _drawn(module, given)
            told = {"drawn_of": "the aligned answer", "fitted": number}
            found.append({**row, **told, **measured(drawn, pixels, given, teacher)})
    for line in found:
        print(line)
    OUTPUT.write_text(json.dumps({"commit": commit(), "measured": found}, indent=1) + "\n")


def _distance(one: Tensor, other: Tensor) -> float:
    return round(float((one - other).abs().mean()), 4)


def _module(run: Path, access: str, response: str, tau: float) -> MEKD:
    module = MEKD(LeNet5Half(), str(run / "generator/network"), response=response, temperature=tau)  # type: ignore[arg-type]
    module.access = access.lower()
    return module


@torch.no_grad()
def _drawn(module: MEKD, answer: Tensor) -> Tensor:
    return module.generator(module.latent(centred(module.probabilities(answer).log())))


if __name__ == "__main__":
    main()
