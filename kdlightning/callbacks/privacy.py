"""Does a pool of made images leak the local images behind it? Its nearest neighbours say, beside held-out images' ones.

.. [Meehan2020] C. Meehan, K. Chaudhuri, S. Dasgupta. A Non-Parametric Test to Detect Data-Copying in Generative
   Models. AISTATS 2020, arXiv:2004.05675.
"""

from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torchvision.utils import make_grid, save_image

from kdlightning.data.base import ImageDataModule
from kdlightning.data.cached import write_json
from kdlightning.data.generated import PoolDataModule
from kdlightning.data.transferset import TransferSet
from kdlightning.functional.neighbours import LEVEL, compare, nearest
from kdlightning.modules.labelling import LabellingModule
from kdlightning.networks.base import penultimate_features
from kdlightning.networks.pretrained import load_network

_SHOWN = 8


class PoolPrivacy(Callback):
    """Measures how near a pool's images come to local training images, once ``predict`` has answered the pool.

    As in [Meehan2020]_, the L2 distance of pool images to their nearest local image is compared with that of held-out
    real images, which are as near to local ones as new images of the same kind. Written into the transfer set's
    directory: ``privacy.json``, for reports, and ``privacy.png``, the pool images that are nearest to a local one (top)
    above that neighbour (bottom). The latter shows local images; no report includes it.

    Evaluation only: nothing here is counted as a query, and no image leaves this machine. The recipes give the
    teacher's own weights, which a user of a server does not have: any classifier will do, or None.

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
        """Refuse what cannot be compared before anything is asked: no pool of made images, no held-out images."""
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

    @torch.no_grad()
    def write(self, made: TransferSet, source: ImageDataModule, device: torch.device | str = "cpu") -> Path:
        """Write ``privacy.json``, whose path is returned, and ``privacy.png`` beside a finished pool.

        The distances are in pixels, in [0, 1], and with a network in its features.

        Args:
            made: a transfer set with a column ``image`` of made images ``(N, C, H, W)``, uint8.
            source: the data set of the local images: what the pool's generator was trained on.
            device: where to compute.
        """
        images = made.column("image")
        pool = images[_draw(len(images), self.number)]
        local = source.candidate_pool().image
        held_out = source.val_set.__getitems__(_draw(len(source.val_set), self.number).tolist()).image
        kinds = (pool, local, held_out)
        spaces = {"pixels": compare(*(_pixels(images).to(device) for images in kinds))}
        if self.network is not None:
            network = self.network.to(device)
            spaces["features"] = compare(*(penultimate_features(network, images, device) for images in kinds))
        sizes = {"pool_images": len(pool), "pool_size": len(images), "local_images": len(local)}
        sizes["held_out_images"] = len(held_out)
        name = None if self.network is None else type(self.network).__name__
        record = {"schema": 1, "dataset": source.name, **sizes, "level": LEVEL, "network": name, "spaces": spaces}
        # the pool images that are nearest to a local one, above that neighbour
        distance, position = nearest(_pixels(pool.to(device)), _pixels(local.to(device)))
        which = distance.argsort()[:_SHOWN].cpu()
        shown = torch.cat([pool[which], local[position.cpu()[which]]]).float() / 255
        save_image(make_grid(shown, nrow=len(which), pad_value=0.5), made.path / "privacy.png")
        path = made.path / "privacy.json"
        write_json(path, record)
        return path


def _draw(total: int, number: int) -> Tensor:
    """Positions ``(min(number, total),)``, sorted, always the same ones."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(0))[:number].sort().values


def _pixels(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255
