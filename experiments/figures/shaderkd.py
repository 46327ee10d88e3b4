"""Figures of shader KD: a contact sheet of the pool, and what the attack does to images.

    python experiments/figures/shaderkd.py sheet --output docs/shaders.jpg
    python experiments/figures/shaderkd.py attack --teacher runs/digits-shaderkd/teacher/network --output attack.png

The sheet has 16 x 16 programs, one image each. The attack's rows are the start, the last image before the boundary, the
first behind it, and what the attack has added (grey: nothing, amplified).
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import make_grid, save_image

from kdlightning.functional.adversarial import border_attack
from kdlightning.functional.selection import assign_targets
from kdlightning.methods.shaderkd import mix
from kdlightning.networks import load_network
from kdlightning.shaders import render_pool


def sheet(side: int = 16, size: int = 32, seed: int = 0) -> Tensor:
    """``side`` x ``side`` programs, one image each, as one picture ``(3, H, W)`` in [0, 1]."""
    seeds = range(seed, seed + side * side)
    return make_grid(render_pool(list(seeds), [2.0], size).float() / 255, nrow=side, padding=1)


def attack(teacher: Path, columns: int = 12, epsilon: float = 10.0, amplify: float = 8.0, seed: int = 0) -> Tensor:
    """Images that reach the boundary: start, before, behind, difference; a column each ``(3, H, W)`` in [0, 1].

    Args:
        teacher: a saved network.
        columns: at most so many images.
        epsilon: of the border attack, in 1/255; its first step is a tenth.
        amplify: of the difference.
        seed: of programs, targets and mixtures.

    Raises:
        RuntimeError: no image reached its target's boundary.
    """
    network = load_network(teacher).requires_grad_(False)
    channels, size = int(network.in_channels), int(network.image_size)
    images = render_pool(list(range(seed, seed + 300)), [2.0], size, channels=channels).float() / 255
    with torch.no_grad():
        predicted = network(images).argmax(1)
    generator = torch.Generator().manual_seed(seed)
    positions, targets = assign_targets(predicted, int(network.num_classes), 300 // int(network.num_classes), generator)
    torch.manual_seed(seed)
    start = mix(images[positions])
    pairs = border_attack(network, start, targets, epsilon=epsilon / 255, step=epsilon / 2550)
    done = pairs.success.nonzero()[:, 0][:columns]
    if not len(done):
        raise RuntimeError(f"no image reached its target within {epsilon}/255: raise epsilon")
    start, pre, post = start[done], pairs.pre[done], pairs.post[done]
    rows = torch.cat([start, pre, post, (0.5 + amplify * (post - start)).clamp(0, 1)])
    return make_grid(rows.expand(-1, 3, -1, -1), nrow=len(done), padding=1)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw one figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=["sheet", "attack"])
    parser.add_argument("--teacher", type=Path, help="a saved network, for attack")
    parser.add_argument("--epsilon", type=float, default=10.0, help="of the attack, in 1/255")
    parser.add_argument("--size", type=int, default=32, help="pixels of an image on the sheet")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    if arguments.figure == "attack" and arguments.teacher is None:
        parser.error("attack needs --teacher")
    drawn = (
        sheet(size=arguments.size)
        if arguments.figure == "sheet"
        else attack(arguments.teacher, epsilon=arguments.epsilon)
    )
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    save_image(drawn, arguments.output)
    sys.stdout.write(f"{arguments.output}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
