"""Figures of shader KD: a contact sheet of the pool, what the attack does to images, and to their features.

    python experiments/figures/shaderkd.py sheet --output docs/shaders.jpg
    python experiments/figures/shaderkd.py attack --teacher runs/digits-shaderkd/teacher/network --output attack.png
    python experiments/figures/shaderkd.py boundary --teacher runs/digits-shaderkd/teacher/network --output boundary.png

The sheet has 16 x 16 programs, one image each. The attack's rows are the start, the last image before the boundary, the
first behind it, and what the attack has added (grey: nothing, amplified).

The boundary is Fig. 2 of the paper, measured: images that were pushed to one class, in the space of the features that
the teacher's last layer reads. Across: the signed distance to the class's decision boundary, which is exact, since that
layer is linear; upwards: the features' first principal component without the direction of the way.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

from kdlightning.functional.adversarial import BorderPairs, border_attack, deeper_attack
from kdlightning.functional.selection import assign_targets
from kdlightning.methods.shaderkd import mix
from kdlightning.networks import load_network
from kdlightning.shaders import Program


def sheet(side: int = 16, size: int = 32, seed: int = 0) -> Tensor:
    """``side`` x ``side`` programs, one image each, as one picture ``(3, H, W)`` in [0, 1]."""
    return make_grid(shown(range(seed, seed + side * side), size), nrow=side, padding=1)


def shown(seeds: range, size: int, channels: int = 3) -> Tensor:
    """One image of each program ``(S, C, H, W)`` in [0, 1], of 256 levels."""
    images = torch.cat([Program.from_seed(seed).render([2.0], size, channels=channels) for seed in seeds])
    return images.mul(255).round() / 255


class Pushed(NamedTuple):
    """Images of several programs on their way to a target: mixtures, the attack's pairs, and the teacher."""

    network: nn.Module
    start: Tensor
    target: Tensor
    pairs: BorderPairs


def pushed(teacher: Path, epsilon: float, seed: int) -> Pushed:
    """One image each of 300 programs, assigned, mixed and attacked."""
    network = load_network(teacher).requires_grad_(False)
    channels, size = int(network.in_channels), int(network.image_size)
    images = shown(range(seed, seed + 300), size, channels)
    with torch.no_grad():
        predicted = network(images).argmax(1)
    generator = torch.Generator().manual_seed(seed)
    positions, targets = assign_targets(predicted, int(network.num_classes), 300 // int(network.num_classes), generator)
    torch.manual_seed(seed)
    start = mix(images[positions])
    return Pushed(
        network, start, targets, border_attack(network, start, targets, epsilon=epsilon / 255, step=epsilon / 2550)
    )


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
    _, start, _, pairs = pushed(teacher, epsilon, seed)
    done = pairs.success.nonzero()[:, 0][:columns]
    if not len(done):
        raise RuntimeError(f"no image reached its target within {epsilon}/255: raise epsilon")
    start, pre, post = start[done], pairs.pre[done], pairs.post[done]
    rows = torch.cat([start, pre, post, (0.5 + amplify * (post - start)).clamp(0, 1)])
    return make_grid(rows.expand(-1, 3, -1, -1), nrow=len(done), padding=1)


def boundary(teacher: Path, epsilon: float = 10.0, deeper: float = 1.0, seed: int = 0) -> Figure:
    """Where the images are in the teacher's feature space, for the target class that most of them reached.

    Args:
        teacher: a saved network whose classifier is one linear layer.
        epsilon: of the border attack, in 1/255.
        deeper: ε of the deeper attack, in 1/255.
        seed: of programs, targets and mixtures.

    Raises:
        RuntimeError: no image reached its target's boundary.
    """
    network, start, target, pairs = pushed(teacher, epsilon, seed)
    if not pairs.success.any():
        raise RuntimeError(f"no image reached its target within {epsilon}/255: raise epsilon")
    chosen = int(torch.bincount(target[pairs.success]).argmax())
    rows = pairs.success & (target == chosen)
    edge = torch.cat([pairs.post[rows], pairs.pre[rows]])
    beyond = deeper_attack(network, edge, epsilon=deeper / 255, step=deeper / 255)
    sets = {"start": start[rows], "deeper": beyond, "before": pairs.pre[rows], "behind": pairs.post[rows]}
    with torch.no_grad():
        features = {
            name: network.forward_head(network.forward_features(x), pre_logits=True) for name, x in sets.items()
        }
        distance = {name: signed_distance(network.get_classifier(), each, chosen) for name, each in features.items()}
    way = features["behind"].mean(0) - features["start"].mean(0)
    way = way / way.norm()
    rest = {name: each - (each @ way)[:, None] * way for name, each in features.items()}
    everything = torch.cat(list(rest.values()))
    component = torch.linalg.svd(everything - everything.mean(0), full_matrices=False).Vh[0]
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.axvspan(0, max(float(each.max()) for each in distance.values()), color="#e8e8e8", zorder=0)
    axes.axvline(0, color="black", linewidth=1)
    for name, colour in (("start", "#a8a8a8"), ("deeper", "#009E73"), ("before", "#0072B2"), ("behind", "#D55E00")):
        axes.scatter(distance[name], rest[name] @ component, s=18, marker="x", color=colour, label=name)
    axes.set_xlabel(f"signed distance to the boundary of class {chosen} (grey side) in feature space")
    axes.set_ylabel("principal component")
    axes.legend()
    return figure


def signed_distance(classifier: nn.Module, features: Tensor, label: int) -> Tensor:
    """How far features ``(N, F)`` are inside a class's region (above 0), or outside of its nearest boundary (below).

    Args:
        classifier: a linear layer.
        features: what it reads.
        label: the class.

    Returns:
        ``(N,)``: the least distance to a boundary between the class and another one; its side decides the sign.
    """
    weight, bias = classifier.weight, classifier.bias
    others = [k for k in range(len(weight)) if k != label]
    normal = weight[label] - weight[others]
    margin = features @ normal.T + (bias[label] - bias[others])
    return (margin / normal.norm(dim=1)).amin(1)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw one figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=["sheet", "attack", "boundary"])
    parser.add_argument("--teacher", type=Path, help="a saved network, for attack and boundary")
    parser.add_argument("--epsilon", type=float, default=10.0, help="of the attack, in 1/255")
    parser.add_argument("--size", type=int, default=32, help="pixels of an image on the sheet")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    if arguments.figure != "sheet" and arguments.teacher is None:
        parser.error(f"{arguments.figure} needs --teacher")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    if arguments.figure == "boundary":
        boundary(arguments.teacher, epsilon=arguments.epsilon).savefig(arguments.output, dpi=150)
    elif arguments.figure == "attack":
        save_image(attack(arguments.teacher, epsilon=arguments.epsilon), arguments.output)
    else:
        save_image(sheet(size=arguments.size), arguments.output)
    sys.stdout.write(f"{arguments.output}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
