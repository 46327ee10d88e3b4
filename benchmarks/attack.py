"""The cost of shader KD's attack over the forward and backward passes that it is made of. One run, one core.

    python benchmarks/attack.py                                # less than a minute
    python benchmarks/attack.py --images 128 --turns 15 --output benchmarks/results/attack-digits.json    # two minutes

A teacher (ResNet-18 of an eighth of the width, and LeNet-5, the cheapest that there is) learns scikit-learn's digits;
mixtures of test digits are attacked as in a training step: border attack, then the deeper one for the pairs that are
left. Prints for each teacher and writes to --output as JSON:
1. ``attack``: time of the whole attack over that of its floor, the same passes alone, batch by batch: forwards with the
   same numbers of images, and of those that were followed by one the backward to the pixels, without loss, softmax,
   decisions, steps and books. Attack and floor take turns, the median over all turns counts, in CPU seconds of the
   process (in seconds on a GPU), because the machine's speed wanders. Aim: at most 1.15;
2. ``step``: the same of a whole step of ShaderKD (a student like the teacher; the attack, the teacher's answers
   for what it made, the loss and the student's backward pass), over all of its passes alone. Aim: at most 1.15;
3. images that went forward and backward, and how many the released scheme sends (no image leaves before all have
   succeeded, a second forward to judge every step), each as a multiple of the attacked images.
"""

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdlightning.data import DigitsDataModule
from kdlightning.functional.adversarial import BorderPairs, border_attack, deeper_attack
from kdlightning.methods import ShaderKD
from kdlightning.networks import LeNet5, ResNet18
from kdlightning.teachers import WhiteBoxTeacher
from kdlightning.types import Batch

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


@contextmanager
def counted(network: nn.Module) -> Iterator[list[Pass]]:
    """Write down every pass of a network."""
    passes: list[Pass] = []

    def note(_: nn.Module, images: tuple[Tensor], logits: Tensor) -> None:
        number = len(passes)
        passes.append((len(images[0]), False))
        if logits.requires_grad:
            logits.register_hook(lambda _: passes.__setitem__(number, (len(images[0]), True)))

    handle = network.register_forward_hook(note)
    yield passes
    handle.remove()


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


def step(module: ShaderKD, batch: Batch) -> None:
    """A whole step of ShaderKD, but for the optimiser's."""
    module.losses(batch)["kd"].backward()


def step_alone(network: nn.Module, module: ShaderKD, passes: list[Pass], x: Tensor) -> Callable[[], None]:
    """Its floor: the passes of teacher and student on ready pixels."""
    sizes = {number for number, _ in passes}
    largest = x.repeat(1 + max(sizes) // len(x), 1, 1, 1)
    leaves = {number: largest[:number].clone().requires_grad_() for number in sizes}
    above = {number: torch.randn(number, 10, device=x.device) for number in sizes}
    learnt = passes[-1][0]  # the teacher's last pass answers for what the student learns from

    def run() -> None:
        alone(network, passes[:-1], leaves, above)
        with torch.no_grad():
            network(leaves[learnt])
        module(leaves[learnt].detach()).backward(above[learnt])

    return run


def ratio(whole: Callable[[], None], floor: Callable[[], None], turns: int, device: torch.device) -> dict[str, object]:
    """Both in turns, after one to warm up."""
    whole()
    floor()
    times = [(seconds(whole, device), seconds(floor, device)) for _ in range(turns)]
    ratios = sorted(one / other for one, other in times)
    return {
        "ms": round(1000 * statistics.median(one for one, _ in times), 2),
        "floor_ms": round(1000 * statistics.median(other for _, other in times), 2),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(ratios[len(ratios) * q // 4], 3) for q in (1, 3)],
    }


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
    with counted(network) as passes:
        pairs = attack(network, x, target)
    sizes = {number for number, _ in passes}
    largest = x.repeat(2, 1, 1, 1)
    leaves = {number: largest[:number].clone().requires_grad_() for number in sizes}
    above = {number: torch.randn(number, 10, device=x.device) for number in sizes}
    module = ShaderKD(WhiteBoxTeacher(network), copy.deepcopy(network).requires_grad_().train(), mixup=False)
    batch = Batch(x, torch.arange(len(x), device=x.device), target)
    with counted(module.teacher.network) as all_passes:
        step(module, batch)
    of_attack = ratio(
        lambda: attack(network, x, target), lambda: alone(network, passes, leaves, above), turns, x.device
    )
    of_step = ratio(lambda: step(module, batch), step_alone(network, module, all_passes, x), turns, x.device)
    border = passes[: int(pairs.iterations.max()) + 1]
    forward, backward = (sum(number for number, one in border if one or not only) for only in (False, True))
    return {
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "images": len(x),
        "success": round(float(pairs.success.float().mean()), 3),
        "mean_iterations": round(float(pairs.iterations.float().mean()), 2),
        "passes": passes,
        "attack": of_attack,
        "step": of_step,
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
            f"{name} ({accuracy:.1%}): attack {figures['attack']}; step {figures['step']}; success"
            f" {figures['success']}; per image"
            f" {figures['border_forward']} forwards and {figures['border_backward']} backwards, released scheme"
            f" {figures['released_forward']} and {figures['released_backward']}",
            flush=True,
        )
    if options.output:
        options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
