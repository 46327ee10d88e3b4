"""The cost of shader KD's attack over the forward and backward passes that it is made of. One run, one core.

    python benchmarks/attack.py                                # less than a minute
    python benchmarks/attack.py --images 128 --turns 15 --output benchmarks/results/attack-digits.json    # two minutes

A teacher (ResNet-18 of an eighth of the width, and LeNet-5, the cheapest that there is) learns scikit-learn's digits;
mixtures of test digits are attacked as in a training step: border attack, then the deeper one for the pairs that are
left. Prints for each teacher and writes to --output as JSON:
1. ``ratio``: time of the whole attack over that of its floor, the same passes alone, batch by batch: forwards with the
   same numbers of images, and of those that were followed by one the backward to the pixels, without loss, softmax,
   decisions, steps and books. Attack and floor take turns, the median over all turns counts, in CPU seconds of the
   process (in seconds on a GPU), because the machine's speed wanders. Aim: at most 1.15;
2. images that went forward and backward, and how many the released scheme sends (no image leaves before all have
   succeeded, a second forward to judge every step), each as a multiple of the attacked images.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlightning.data import DigitsDataModule
from kdlightning.functional.adversarial import BorderPairs, border_attack, deeper_attack
from kdlightning.networks import LeNet5, ResNet18

ITERATIONS = 12
Pass = tuple[int, bool]  # images of a forward, and whether a backward followed


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> nn.Module:
    """A teacher from labels."""
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), device=images.device).split(64):
            loss = F.cross_entropy(network(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval().requires_grad_(False)


class Counted:
    """A network's forward that writes down every pass."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.passes: list[Pass] = []

    def __call__(self, x: Tensor) -> Tensor:
        """Pixels ``(M, C, H, W)`` to logits ``(M, K)``."""
        number = len(self.passes)
        self.passes.append((len(x), False))
        logits: Tensor = self.network(x)
        if logits.requires_grad:
            logits.register_hook(lambda _: self.passes.__setitem__(number, (len(x), True)))
        return logits


def attack(logits_of: Callable[[Tensor], Tensor], x: Tensor, target: Tensor) -> BorderPairs:
    """The attack of one training step."""
    pairs = border_attack(logits_of, x, target, iterations=ITERATIONS)
    kept = pairs.success
    deeper_attack(
        logits_of,
        torch.cat([pairs.post[kept], pairs.pre[kept]]),
        torch.cat([pairs.post_class[kept], pairs.pre_class[kept]]),
    )
    return pairs


def alone(network: nn.Module, passes: list[Pass], leaves: dict[int, Tensor], above: dict[int, Tensor]) -> None:
    """The floor: the same forwards and backwards on ready pixels, with ready gradients of the logits."""
    for number, backward in passes:
        logits = network(leaves[number])
        if backward:
            torch.autograd.grad(logits, leaves[number], above[number])


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """What one call takes: CPU seconds of the process, or seconds until the GPU is done."""
    if device.type == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


def measure(network: nn.Module, x: Tensor, target: Tensor, turns: int) -> dict[str, object]:
    """The figures of one teacher."""
    counted = Counted(network)
    pairs = attack(counted, x, target)
    passes = counted.passes
    sizes = {number for number, _ in passes}
    largest = x.repeat(2, 1, 1, 1)
    leaves = {number: largest[:number].clone().requires_grad_() for number in sizes}
    above = {number: torch.randn(number, 10, device=x.device) for number in sizes}
    for warm_up in (lambda: attack(network, x, target), lambda: alone(network, passes, leaves, above)):
        warm_up()
    whole, floor = [], []
    for _ in range(turns):
        whole.append(seconds(lambda: attack(network, x, target), x.device))
        floor.append(seconds(lambda: alone(network, passes, leaves, above), x.device))
    ratios = sorted(one / other for one, other in zip(whole, floor, strict=True))
    border = passes[: int(pairs.iterations.max()) + 1]
    forward, backward = (sum(number for number, one in border if one or not only) for only in (False, True))
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "images": len(x),
        "success": round(float(pairs.success.float().mean()), 3),
        "mean_iterations": round(float(pairs.iterations.float().mean()), 2),
        "passes": passes,
        "attack_ms": round(1000 * statistics.median(whole), 2),
        "floor_ms": round(1000 * statistics.median(floor), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(ratios[len(ratios) * q // 4], 3) for q in (1, 3)],
        "border_forward": round(forward / len(x), 2),
        "border_backward": round(backward / len(x), 2),
        "released_forward": 2 * int(pairs.iterations.max()),
        "released_backward": int(pairs.iterations.max()),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64, help="attacked at once")
    parser.add_argument("--turns", type=int, default=7, help="of attack and floor")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    record: dict[str, object] = {"torch": torch.__version__, "processor": platform.processor() or platform.machine()}
    for name, network, size, epochs in (
        ("ResNet18/8", ResNet18(in_channels=1, width=0.125), 32, 2),
        ("LeNet5", LeNet5(), 28, 8),
    ):
        data = DigitsDataModule(image_size=size)
        data.setup()
        pixels, test = (part.images.float().div(255).to(options.device) for part in (data.train_set, data.test_set))
        teacher = train(network.to(options.device), pixels, data.train_set.labels.to(options.device), epochs)
        share = torch.rand(options.images, 1, 1, 1, device=options.device)
        rows = torch.randint(len(test), (2, options.images), device=options.device)
        x = share * test[rows[0]] + (1 - share) * test[rows[1]]
        with torch.no_grad():
            accuracy = (teacher(test).argmax(1) == data.test_set.labels.to(options.device)).float().mean()
            target = (teacher(x).argmax(1) + torch.randint(1, 10, (len(x),), device=options.device)) % 10
        figures = measure(teacher, x, target, options.turns)
        record[name] = {"image_size": size, "teacher_accuracy": round(float(accuracy), 4), **figures}
        print(
            f"{name} ({accuracy:.1%}): {figures['attack_ms']} ms over {figures['floor_ms']} ms, ratio"
            f" {figures['ratio']} {figures['ratio_quartiles']}; success {figures['success']}; per image"
            f" {figures['border_forward']} forwards and {figures['border_backward']} backwards, released scheme"
            f" {figures['released_forward']} and {figures['released_backward']}",
            flush=True,
        )
    if options.output:
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
