"""Features of selected, unselected and original images, side by side.

.. [Tang2023] J. Tang, S. Chen, G. Niu, M. Sugiyama, C. Gong. Distribution Shift Matters for Knowledge Distillation with
   Webly Collected Images. ICCV 2023.
"""

from collections.abc import Sequence

import torch
from sklearn.manifold import TSNE
from torch import Tensor

from drawing.curves import new_figure
from drawing.selection import Case, Drawn, sample
from kdlightning.data.sets import ImageSet
from kdlightning.networks.base import penultimate_features
from kdlightning.teachers import WhiteBoxTeacher

COLOURS = {"unselected": "#a8a8a8", "original": "#0072B2", "selected": "#D55E00"}  # the last one is drawn on top


def kernel_distance(one: Tensor, other: Tensor) -> float | None:
    """KID's estimate, squared MMD with the kernel (xᵀy / F + 1)³, of two sets of features ``(N, F)`` and ``(M, F)``.

    Around 0 for two samples of one distribution, also below; None for fewer than two vectors.
    """
    if min(len(one), len(other)) < 2:
        return None
    one, other = one.double(), other.double()

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: Tensor) -> Tensor:
        values = kernel(a, a)
        return (values.sum() - values.diagonal().sum()) / (len(a) * (len(a) - 1))

    return float(within(one) + within(other) - 2 * kernel(one, other).mean())


def embed(features: dict[str, Tensor], perplexity: float = 30.0, seed: int = 0) -> dict[str, Tensor]:
    """t-SNE of all features together.

    Args:
        features: kind → ``(N, F)``.
        perplexity: lowered where there are fewer than three times as many points.
        seed: t-SNE's ``random_state``.

    Returns:
        kind → ``(N, 2)``.
    """
    together = torch.cat(list(features.values())).cpu().numpy()
    tsne = TSNE(perplexity=min(perplexity, (len(together) - 1) / 3), init="pca", random_state=seed)
    points = torch.from_numpy(tsne.fit_transform(together))
    return dict(zip(features, points.split([len(rows) for rows in features.values()]), strict=True))


def draw_features(
    cases: Sequence[Case],
    by: Sequence[str] = ("teacher",),
    number: int = 1000,
    original: str = "train",
    perplexity: float = 30.0,
    seed: int = 0,
) -> Drawn:
    """Fig. 3 of [Tang2023]_ and Fig. 1 of its supplement, a panel per run and network.

    The numbers also have the kernel distance of selected and unselected to original features.

    Args:
        cases: of one run each.
        by: whose features, ``teacher`` and ``student``.
        number: at most so many images of each kind.
        original: which of the task's images.
        perplexity: of t-SNE.
        seed: of the draw and of t-SNE.
    """
    figure, panels = new_figure(len(cases) * len(by))
    numbers = []
    for place, case in enumerate(cases):
        choice = case.choose()
        drawn = sample(case.data, choice.mask, number, original, seed)
        for turn, side in enumerate(by):
            network = getattr(case, side)
            features = {kind: _features(network, *rows) for kind, rows in drawn.items()}
            points = embed(features, perplexity, seed)
            axes = panels[place * len(by) + turn]
            for kind, colour in COLOURS.items():
                if kind in points:
                    x, y = points[kind].unbind(1)
                    axes.scatter(x.numpy(), y.numpy(), s=3, color=colour, label=kind, linewidths=0, alpha=0.8)
            name = type(getattr(network.network, "student", network.network)).__name__
            axes.set_title(case.data.name, loc="left")
            axes.set_xlabel(f"features of the {side}, {name}")
            axes.set(xticks=[], yticks=[])
            distances = {
                kind: kernel_distance(features["original"], features[kind]) for kind in features if kind != "original"
            }
            numbers.append(
                {
                    **case.facts(choice), "network": side, "class": name,
                    "images": original, "drawn": {kind: len(rows) for kind, rows in points.items()},
                    "kernel_distance": distances,
                }
            )  # fmt: skip
    panels[0].legend(frameon=False, fontsize=8, markerscale=3)
    return figure, {"panels": numbers}


def _features(network: WhiteBoxTeacher, images: ImageSet, positions: Tensor) -> Tensor:
    """Penultimate features ``(N, F)`` of some images."""
    device = next(network.parameters()).device
    return penultimate_features(network, images.__getitems__(positions.tolist()).image, device).cpu()
