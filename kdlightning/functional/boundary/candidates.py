"""What a search starts from and draws on: a pool's images, and directions to probe. Asks nothing."""

import math
from typing import Literal, cast

import torch
from torch import Tensor

from kdlightning.functional.boundary.search import is_target

Subspace = Literal["pixels", "frequency", "images"]


def sample_distance(images: Tensor, candidates: Tensor, candidate_class: Tensor, num_classes: int) -> Tensor:
    """Sample Distance: L2 distance to the nearest image of every class, Eq. 2 of [Wang2021]_. Asks nothing.

    From images ``(N, C, H, W)`` to candidates ``(S, C, H, W)`` of classes ``(S,)``: ``(N, K)``; inf for a class without
    candidates.
    """
    distance = _pairwise_distance(images.flatten(1), candidates.flatten(1))
    out = images.new_full((len(images), num_classes), math.inf)
    for k in candidate_class.unique().tolist():
        out[:, k] = distance[:, candidate_class == k].amin(1)  # Eq. (2)
    return out


def random_distance(index: Tensor, num_classes: int, seed: int) -> Tensor:
    """Distances without meaning, uniform over (0.5, 1.5): ``(N, num_classes)``, by the images' indices ``(N,)``."""
    generator, rows = torch.Generator(), []
    for image in index.tolist():
        generator.manual_seed(seed * 1_000_003 + image)
        rows.append(0.5 + torch.rand(num_classes, generator=generator))
    return torch.stack(rows)


def nearest_candidates(
    images: Tensor, candidates: Tensor, candidate_class: Tensor, target: Tensor, number: int
) -> Tensor:
    """Positions of the candidates of the target class that are nearest to each image, nearest first. Asks nothing.

    Pairs are images ``(P, C, H, W)`` and target classes ``(P,)``, or :func:`any_but` of them; candidates are a pool
    ``(S, C, H, W)`` with the *teacher's* class indices ``(S,)``. int64 ``(P, number)``, -1 where the class has fewer.
    """
    out = torch.full((len(images), number), -1, dtype=torch.int64, device=images.device)
    flat, pool = images.flatten(1), candidates.flatten(1)
    for k in target.unique().tolist():
        members = torch.nonzero(is_target(candidate_class, torch.as_tensor(k))).squeeze(1)
        if len(members):
            rows = torch.nonzero(target == k).squeeze(1)
            distance = _pairwise_distance(flat[rows], pool[members])
            nearest = distance.topk(min(number, len(members)), dim=1, largest=False).indices
            out[rows, : nearest.shape[1]] = members[nearest]
    return out


def _pairwise_distance(a: Tensor, b: Tensor) -> Tensor:
    """L2 distances ``(N, S)`` by one matrix product; the square root of a slightly negative number is 0."""
    with torch.autocast(a.device.type, enabled=False):
        squared = a.pow(2).sum(1)[:, None] + b.pow(2).sum(1)[None] - 2 * a @ b.T
    return squared.clamp_min(0).sqrt()


def probe_bank(
    shape: torch.Size | tuple[int, int, int],
    *,
    subspace: Subspace = "images",
    images: Tensor | None = None,
    rank: int = 100,
    size: int = 4096,
    seed: int = 0,
) -> Tensor:
    """Unit-norm directions for Eq. 4, drawn once and shared by all pairs.

    A normal in D dimensions takes about D labels to estimate, and an image classifier's normals lie mostly where images
    vary [Li2020]_; so they are drawn in a subspace. Gaussian vectors, as the paper's, overlap, and what one of them
    says is counted again with the next; in the span of images they are therefore rows of random rotations: any ``rank``
    of them from one rotation are orthogonal.

    Args:
        shape: (C, H, W).
        subspace: ``"pixels"``: all of R^D, the paper's; ``"frequency"``: the lowest ``rank`` two-dimensional cosine
            frequencies of every channel, for when there are no images; ``"images"``: the first ``rank`` principal
            components of the user's own images.
        images: ``(S, C, H, W)`` in [0, 1]; needed by ``"images"``, else a ValueError; asks nothing of the teacher.
        rank: dimensions of the subspace (per channel for ``"frequency"``).
        size: number of directions, lowered so that the bank stays under 256 MiB.
        seed: owner of the draw.

    Returns:
        float32 ``(size, C * H * W)``.
    """
    channels, height, width = shape
    dim = channels * height * width
    size = min(size, max(256, 2**26 // dim))
    generator = torch.Generator().manual_seed(seed)
    if subspace == "pixels":
        bank = torch.randn(size, dim, generator=generator)
    elif subspace == "frequency":
        basis = _lowest_frequencies(height, width, rank)
        coefficients = torch.randn(size, channels, len(basis), generator=generator)
        bank = (coefficients @ basis).flatten(1)
    else:
        if images is None:
            raise ValueError("subspace='images' needs images; give some, or use subspace='frequency'")
        basis = _principal_components(images.flatten(1).cpu(), rank)
        draws = torch.randn(-(-size // len(basis)), len(basis), len(basis), generator=generator)
        bank = (torch.linalg.qr(draws).Q @ basis).flatten(0, 1)[:size]
    return cast(Tensor, bank / bank.norm(dim=1, keepdim=True))


def _principal_components(flat: Tensor, rank: int) -> Tensor:
    """The first ``rank`` principal directions ``(rank, D)`` of at most 4,000 rows, by the smaller Gram matrix."""
    rows = flat[torch.linspace(0, len(flat) - 1, min(len(flat), 4000)).long()].double()
    rows = rows - rows.mean(0)
    if rows.shape[1] <= 4000:
        basis = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1).T[:rank]
    else:
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        basis = (vectors.flip(1).T[:rank] @ rows) / values.flip(0)[:rank, None].clamp_min(1e-12).sqrt()
    return cast(Tensor, basis.float())


def _lowest_frequencies(height: int, width: int, rank: int) -> Tensor:
    """The ``rank`` smoothest functions ``(rank, H * W)`` of the orthonormal cosine basis."""

    def cosines(n: int) -> Tensor:
        k, i = torch.arange(n)[:, None], torch.arange(n)[None]
        rows = torch.cos(math.pi * (i + 0.5) * k / n)
        return cast(Tensor, rows / rows.norm(dim=1, keepdim=True))

    basis = torch.einsum("ai,bj->abij", cosines(height), cosines(width)).reshape(height * width, -1)
    frequency = ((torch.arange(height)[:, None] / height) ** 2 + (torch.arange(width)[None] / width) ** 2).flatten()
    return basis[frequency.argsort(stable=True)[:rank]]
