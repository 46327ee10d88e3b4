"""The figures of MEKD's two papers, drawn from run directories.

    python experiments/figures/mekd.py images --run RUN --without RUN --teacher DIR     # Fig. 5 of [Ma2024]_
    python experiments/figures/mekd.py temperature REPORT...                            # Fig. 6
    python experiments/figures/mekd.py queries REPORT...                                # Fig. 7
    python experiments/figures/mekd.py gradients --student DIR --generator DIR --pool DIR    # Fig. 5 of [Ma2022]_

Networks are given as the run that made them, or as its ``network/``. REPORT is a report's directory, or its
``results.json``. Rows are picked by ``result.variant``:

- temperature: ``tau=4``, with one row per τ and access;
- queries: ``queries=20000`` for all of MEKD, ``queries=20000, without L_IM`` (students of a generator that was trained
  with ``alpha: 0``), ``queries=20000, without L_KL`` (``beta: 0``), ``queries=20000, without L_IM, without L_KL``.

Other variants are left out. Nothing here is trained; the teacher of ``images`` is asked for the figure only.

.. [Ma2024] J. Ma et al. Aligning Logits Generatively for Principled Black-Box Knowledge Distillation. CVPR 2024.
.. [Ma2022] J. Ma et al. Mapping Emulation for Knowledge Distillation. arXiv:2205.10490v1.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from drawing.curves import collect, draw_line, finish, new_figure
from drawing.runs import build, network_at, rows_at
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.utils import make_grid

from kdlightning.data import ImageDataModule, TransferSet
from kdlightning.methods import MEKD
from kdlightning.networks import Generator
from kdlightning.report import Row
from kdlightning.teachers import SoftLabelTeacher
from kdlightning.types import Batch

ACCESSES = ("soft", "hard")
MOST_NAMES = 20  # more class names overlap on an axis
TEMPERATURE = {"": "MEKD"}  # of Fig. 6: what follows tau=... in a variant → the line's name
PARTS = {  # of Fig. 7: what follows queries=... in a variant → the line's name
    "": "MEKD",
    ", without L_IM": "without L_IM",
    ", without L_KL": "without L_KL",
    ", without L_IM, without L_KL": "without L_IM, L_KL",
}


def draw_temperature(rows: Sequence[Row]) -> Figure:
    """Fig. 6 of [Ma2024]_: accuracy against τ, a panel per data set, a line per access."""
    curves = collect(rows, "tau", TEMPERATURE)
    datasets = sorted({dataset for dataset, _, _ in curves})
    figure, panels = new_figure(len(datasets))
    for axes, dataset in zip(panels, datasets, strict=True):
        for access in ACCESSES:
            draw_line(axes, curves.get((dataset, access, "MEKD"), []), access)
        axes.set_title(dataset, loc="left")
        axes.set_xlabel("temperature τ of the generator's input")
    return finish(figure, panels)


def draw_queries(rows: Sequence[Row]) -> Figure:
    """Fig. 7 of [Ma2024]_: accuracy against queries, a panel per data set and access, a line per part left out."""
    curves = collect(rows, "queries", PARTS)
    kinds = sorted({(dataset, access) for dataset, access, _ in curves}, key=lambda kind: (kind[0], kind[1] != "soft"))
    figure, panels = new_figure(len(kinds))
    for axes, (dataset, access) in zip(panels, kinds, strict=True):
        for name in PARTS.values():
            draw_line(axes, curves.get((dataset, access, name), []), name)
        axes.set_title(f"{dataset}, {access}", loc="left")
        axes.set_xlabel("queries")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k")
    return finish(figure, panels)


def confidence(probabilities: Tensor) -> str:
    """The range of the top probability, ``"0.72–0.96, mean 0.88"``.

    Args:
        probabilities: ``(N, K)``.
    """
    top = probabilities.amax(1)
    return f"{float(top.min()):.2f}–{float(top.max()):.2f}, mean {float(top.mean()):.2f}"


def draw_images(kinds: dict[str, Tensor], teacher: SoftLabelTeacher) -> Figure:
    """Fig. 5 of [Ma2024]_: images side by side, the range of the teacher's top probability under each block.

    Args:
        kinds: name → pixels ``(N, C, H, W)`` in [0, 1].
        teacher: asked about all of them, for the figure only.
    """
    figure, panels = new_figure(len(kinds))
    for letter, axes, (name, images) in zip("abcdef", panels, kinds.items(), strict=False):
        grid = make_grid(images.cpu(), nrow=round(len(images) ** 0.5), padding=1, pad_value=1.0)
        axes.imshow(grid.permute(1, 2, 0).numpy(), interpolation="nearest")
        axes.set_title(f"({letter}) {name}", loc="left")
        axes.set_xlabel(f"top probability {confidence(teacher.query(images))}")
        axes.set(xticks=[], yticks=[])
    return figure


@torch.no_grad()
def same_latents(generators: Sequence[Generator], number: int, seed: int = 0) -> list[Tensor]:
    """Images ``(number, C, H, W)`` of several generators from the same latent vectors.

    Raises:
        ValueError: generators of different latent dimensions.
    """
    sizes = {generator.latent_dim for generator in generators}
    if len(sizes) != 1:
        raise ValueError(f"the same latent vectors need generators of one latent dimension, got {sorted(sizes)}")
    latent = torch.randn(number, sizes.pop(), generator=torch.Generator().manual_seed(seed))
    return [generator.eval()(latent) for generator in generators]


def logit_gradients(
    logits: Tensor, answer: Tensor, generator: Generator, access: str, tau: float = 5.0, temperature: float = 4.0
) -> dict[str, Tensor]:
    """Fig. 5 of [Ma2022]_: what each loss would do to the student's logits of one image.

    The target is the teacher's class, as images of a pool have no label.

    Args:
        logits: the student's ``(K,)``.
        answer: the teacher's probabilities ``(K,)``, or the one-hot row of its label.
        generator: the frozen generator.
        access: ``soft`` or ``hard``: a label is smoothed as MEKD does it.
        tau: τ of the generator's input.
        temperature: T of KD, whose gradient carries T².

    Returns:
        Gradients ``(K,)`` of cross-entropy, KD and L_F with both distances; the target class first, the other classes
        in their order.
    """
    target = int(answer.argmax())
    order = [target, *(k for k in range(len(answer)) if k != target)]
    point = logits.detach()[None].clone().requires_grad_()
    batch = Batch(point, torch.zeros(1, dtype=torch.int64), answer=answer[None])

    def loss(**options: Any) -> Tensor:  # noqa: ANN401 - MEKD's own
        method = MEKD(nn.Identity(), generator, temperature=tau, kd_temperature=temperature, **options)
        method.access = access
        return torch.stack(list(method.losses(batch).values())).sum()

    losses = {
        "cross-entropy": F.cross_entropy(point, torch.tensor([target])),
        f"KD, T = {temperature:g}": loss(mapping_weight=0.0),
        "L_F, l1": loss(beta=0.0, distance="l1"),
        "L_F, l2": loss(beta=0.0, distance="l2"),
    }
    return {name: torch.autograd.grad(value, point)[0][0, order] for name, value in losses.items()}


def draw_gradients(gradients: dict[str, Tensor], names: Sequence[str]) -> Figure:
    """A panel per loss, each with its own scale.

    Args:
        gradients: what :func:`logit_gradients` returns.
        names: of the classes, target first.
    """
    figure, panels = new_figure(len(gradients))
    for axes, (name, gradient) in zip(panels, gradients.items(), strict=True):
        axes.bar(range(len(gradient)), gradient.tolist(), color=["#D55E00", *["#0072B2"] * (len(gradient) - 1)])
        axes.axhline(0, color="#6b6b6b", linewidth=0.8)
        axes.set_title(name, loc="left")
        axes.set_xlabel("class, the target first")
        if len(names) <= MOST_NAMES:
            axes.set_xticks(range(len(names)), names)
        axes.ticklabel_format(axis="y", scilimits=(-2, 3))
    panels[0].set_ylabel("∂ loss / ∂ the student's logit")
    return figure


def generator_at(path: Path) -> Generator:
    """The generator of a run.

    Raises:
        TypeError: it is something else.
    """
    network = network_at(path)
    if not isinstance(network, Generator):
        raise TypeError(f"{path} holds a {type(network).__name__}, not a generator")
    return network


def data_of(run: Path, root: str | None = None) -> ImageDataModule:
    """The local images that a generator's run was trained on, without augmentation.

    Args:
        run: its directory, with ``config.yaml``.
        root: where the data set's files are, if not where the run found them.
    """
    config = yaml.safe_load((run / "config.yaml").read_text())["data"]
    data: ImageDataModule = build({**config, "init_args": {**config["init_args"], **({"root": root} if root else {})}})
    return data


def main(argv: Sequence[str] | None = None) -> int:
    """Draw one figure and say where it is."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(dest="figure", required=True)
    images = commands.add_parser("images", help="Fig. 5 of the CVPR paper")
    images.add_argument("--run", type=Path, required=True, help="generator's run with the information term")
    images.add_argument("--without", type=Path, required=True, help="generator trained without it (alpha: 0)")
    images.add_argument("--teacher", type=Path, required=True)
    images.add_argument("--root", help="where the data set's files are, if they have moved")
    images.add_argument("--number", type=int, default=36, help="images of each kind")
    images.add_argument("--seed", type=int, default=0, help="of the latent vectors")
    for name, what in (("temperature", "Fig. 6"), ("queries", "Fig. 7")):
        curves = commands.add_parser(name, help=f"{what} of the CVPR paper")
        curves.add_argument("reports", nargs="+", type=Path)
    gradients = commands.add_parser("gradients", help="Fig. 5 of the arXiv version")
    gradients.add_argument("--student", type=Path, required=True)
    gradients.add_argument("--generator", type=Path, required=True)
    gradients.add_argument("--pool", type=Path, required=True, help="transfer set with images and answers")
    gradients.add_argument("--image", type=int, default=0, help="which of the pool's")
    gradients.add_argument("--tau", type=float, default=5.0)
    gradients.add_argument("--temperature", type=float, default=4.0, help="of KD")
    for command in commands.choices.values():
        command.add_argument("--output", type=Path, default=Path("figure.png"))
    options = parser.parse_args(argv)
    draw: dict[str, Callable[[argparse.Namespace], Figure]] = {
        "images": image_figure,
        "gradients": gradient_figure,
        "temperature": lambda given: draw_temperature(rows_at(given.reports)),
        "queries": lambda given: draw_queries(rows_at(given.reports)),
    }
    try:
        figure = draw[options.figure](options)
    except (OSError, TypeError, ValueError) as error:
        parser.error(str(error))
    figure.savefig(options.output, dpi=200)
    sys.stdout.write(f"{options.output}\n")
    return 0


def image_figure(options: argparse.Namespace) -> Figure:
    """Fig. 5 of [Ma2024]_ for two generators."""
    real = data_of(options.run, options.root).candidate_pool(options.number).image.float() / 255
    generators = [generator_at(options.run), generator_at(options.without)]
    with_term, without_term = same_latents(generators, options.number, options.seed)
    kinds = {"real": real, "with L_IM": with_term, "without L_IM": without_term}
    return draw_images(kinds, SoftLabelTeacher(network_at(options.teacher)))


def gradient_figure(options: argparse.Namespace) -> Figure:
    """Fig. 5 of [Ma2022]_ for one image of a pool."""
    pool, student = TransferSet(options.pool), network_at(options.student)
    names = [str(name) for name in pool.manifest["class_names"]]
    answer = pool.answers(len(names))[options.image]
    pixels = pool.column("image")[options.image].float() / 255
    with torch.no_grad():
        logits = student(pixels[None])[0]
    generator, access = generator_at(options.generator), str(pool.manifest["access"])
    found = logit_gradients(logits, answer, generator, access, options.tau, options.temperature)
    target = names.pop(int(answer.argmax()))
    return draw_gradients(found, [target, *names])


if __name__ == "__main__":
    raise SystemExit(main())
