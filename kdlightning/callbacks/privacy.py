"""Does a pool of made images leak the local images behind it? Its nearest neighbours say, beside held-out images' ones.

.. [Meehan2020] C. Meehan, K. Chaudhuri, S. Dasgupta. A Non-Parametric Test to Detect Data-Copying in Generative
   Models. AISTATS 2020, arXiv:2004.05675.
"""

import json
import os
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.distributions import Beta
from torchvision.utils import make_grid, save_image

from kdlightning.data.base import ImageDataModule
from kdlightning.data.generated import PoolDataModule
from kdlightning.data.transferset import TransferSet
from kdlightning.methods.labelling import LabellingModule
from kdlightning.networks.base import penultimate_features
from kdlightning.networks.pretrained import load_network

_LEVEL = 0.01  # of the held-out distances, the threshold of "near"
_CHUNK = 500  # rows at a time
_SHOWN = 8


class PoolPrivacy(Callback):
    """Measures how near a pool's images come to local training images, once ``predict`` has answered the pool.

    As in [Meehan2020]_, the L2 distance of pool images to their nearest local image is compared with that of held-out
    real images, which are as near to local ones as new images of the same kind. Written into the transfer set's
    directory: ``privacy.json``, for reports, and ``privacy.png``, the pool images that are nearest to a local one (top)
    above that neighbour (bottom). The latter shows local images; no report includes it.

    Evaluation only: the network is not the method's teacher, and nothing here is counted as a query.

    Args:
        network: directory of a classifier with timm's interface: distances are taken between the features that its
            last layer reads, too; None for pixels only.
        number: the most pool images and the most held-out images that are compared, with *all* local images.

    Raises:
        ValueError: a number below 1.
    """

    def __init__(self, network: str | nn.Module | None = None, number: int = 2000) -> None:
        if number < 1:
            raise ValueError(f"number: expected at least 1 image, got {number}")
        self.network = load_network(network) if isinstance(network, str) else network
        if self.network is not None:
            self.network.requires_grad_(False).eval()
        self.number = number

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot be compared before anything is asked.

        Raises:
            TypeError: the data are not a pool of made images.
            ValueError: there are no held-out images.
        """
        data = cast(Any, trainer).datamodule
        if not isinstance(data, PoolDataModule):
            raise TypeError(
                f"PoolPrivacy compares made images with local ones: use GeneratedDataModule, not {type(data).__name__}"
            )
        if not len(data.source.val_set):
            raise ValueError(
                f"PoolPrivacy compares with held-out images, but {data.name} has no validation images: set num_val"
            )

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Measure, on the first process, once the manifest is written."""
        if trainer.is_global_zero and isinstance(pl_module, LabellingModule) and pl_module.finished is not None:
            self.write(pl_module.finished, cast(Any, trainer).datamodule.source, pl_module.device)

    def write(self, made: TransferSet, source: ImageDataModule, device: torch.device | str = "cpu") -> Path:
        """Write ``privacy.json`` and ``privacy.png`` beside a finished pool.

        Args:
            made: a transfer set with a column ``image``.
            source: the data set of the local images: what the pool's generator was trained on.
            device: where to compute.

        Returns:
            The path of ``privacy.json``.
        """
        images = made.column("image")
        pool = images[_draw(len(images), self.number)]
        local = source.candidate_pool().image
        held_out = source.val_set.__getitems__(_draw(len(source.val_set), self.number).tolist()).image
        spaces = self.measure(pool, local, held_out, device)
        record = {
            "schema": 1,
            "dataset": source.name,
            "pool_images": len(pool),
            "pool_size": len(images),
            "local_images": len(local),
            "held_out_images": len(held_out),
            "level": _LEVEL,
            "network": None if self.network is None else type(self.network).__name__,
            "spaces": spaces,
        }
        save_image(_pairs(pool.to(device), local.to(device)), made.path / "privacy.png")
        file = made.path / "privacy.json"
        draft = file.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(record, indent=1) + "\n")
        return draft.replace(file)

    @torch.no_grad()
    def measure(
        self, pool: Tensor, local: Tensor, held_out: Tensor, device: torch.device | str = "cpu"
    ) -> dict[str, dict[str, Any]]:
        """Nearest-neighbour distances in pixels and, with a network, in features.

        Args:
            pool: made images ``(N, C, H, W)``, uint8.
            local: local training images ``(M, C, H, W)``, uint8.
            held_out: real images ``(V, C, H, W)``, uint8, that nothing was trained on.
            device: where to compute.

        Returns:
            For ``pixels`` (in [0, 1]) and ``features``, what :func:`compare` says.
        """
        kinds = (pool, local, held_out)
        spaces = {"pixels": compare(*(_pixels(images).to(device) for images in kinds))}
        if self.network is not None:
            network = self.network.to(device)
            spaces["features"] = compare(*(penultimate_features(network, images, device) for images in kinds))
        return spaces


def compare(pool: Tensor, local: Tensor, held_out: Tensor) -> dict[str, Any]:
    """How near rows of a pool lie to local rows, against held-out rows.

    Args:
        pool: ``(N, F)``.
        local: ``(M, F)``.
        held_out: ``(V, F)``.

    Returns:
        ``pool`` and ``held_out``: the 0, 1, ..., 100 % quantiles of the distance to the nearest local row.
        ``threshold``: the 1 % quantile of the held-out ones. ``share``: that of pool rows at most so far from a local
        row; ``share_expected`` and ``share_by_chance``: its mean and its 95 % quantile if pool rows were held-out rows.
        ``copies``: pool rows at distance 0.
    """
    near, near_held_out = nearest(pool, local)[0], nearest(held_out, local)[0]
    threshold = _quantile(near_held_out, _LEVEL)
    return {
        "share": float((near <= threshold).double().mean()),
        "share_expected": _rank(len(held_out)) / (len(held_out) + 1),
        "share_by_chance": _by_chance(len(pool), len(held_out)),
        "threshold": threshold,
        "copies": int((near == 0).sum()),
        "pool": [round(_quantile(near, percent / 100), 5) for percent in range(101)],
        "held_out": [round(_quantile(near_held_out, percent / 100), 5) for percent in range(101)],
    }


def nearest(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of some rows, exactly: a copy is at distance 0.

    Args:
        points: ``(N, F)``, float32.
        others: ``(M, F)``, float32.

    Returns:
        L2 distances ``(N,)`` and positions ``(N,)`` in ``others``.
    """
    precise = torch.float32 if points.device.type == "mps" else torch.float64
    positions = []
    for some in points.to(precise).split(_CHUNK):
        # by matrix products, ten times as fast as differences; in float64, as they cancel near 0
        parts = [
            torch.cdist(some, part.to(precise), compute_mode="use_mm_for_euclid_dist") for part in others.split(_CHUNK)
        ]
        positions.append(torch.cat(parts, dim=1).argmin(1))
    position = torch.cat(positions)
    pairs = zip(points.split(_CHUNK), position.split(_CHUNK), strict=True)
    return torch.cat([(some - others[which]).norm(dim=1) for some, which in pairs]), position


def _quantile(distances: Tensor, level: float) -> float:
    """A quantile of Weibull's kind: a further draw lies below it with probability ``level`` (within what n allows)."""
    return float(np.quantile(distances.double().cpu().numpy(), level, method="weibull"))


def _rank(number: int) -> float:
    """Rank, from 1, of the threshold among ``number`` held-out distances."""
    return max(1.0, _LEVEL * (number + 1))


def _by_chance(pool: int, held_out: int) -> float:
    """95 % quantile of the share of pool images below the threshold, if they were drawn like the held-out ones.

    The probability below the threshold, an order statistic, follows a Beta distribution; the count is binomial.
    """
    rank = _rank(held_out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        below = Beta(torch.tensor(rank), torch.tensor(held_out + 1 - rank)).sample((100_000,))
        share = torch.binomial(torch.full_like(below, pool), below) / pool
    return round(float(share.quantile(0.95)), 5)


def _draw(total: int, number: int) -> Tensor:
    """Positions ``(min(number, total),)``, sorted, always the same ones."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:number].sort().values


def _pixels(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255


def _pairs(pool: Tensor, local: Tensor) -> Tensor:
    """The pool images that are nearest to a local one, above that neighbour, as one image in [0, 1]."""
    distance, position = nearest(_pixels(pool), _pixels(local))
    which = distance.argsort()[:_SHOWN]
    shown = torch.cat([pool[which], local[position[which]]]).float() / 255
    grid: Tensor = make_grid(shown, nrow=len(which), pad_value=0.5)
    return grid
