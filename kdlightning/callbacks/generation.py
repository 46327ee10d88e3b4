"""How good a generator is while it trains: FID, KID, what a classifier sees in its images, and the images."""

import math
import warnings
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance
from torchvision.utils import make_grid, save_image

from kdlightning.callbacks.own import keeps
from kdlightning.modules.generator import GeneratorModule
from kdlightning.modules.schedule import progress
from kdlightning.networks.base import penultimate_features
from kdlightning.networks.pretrained import load_network

_BATCH = 500


class GeneratorQuality(Callback):
    """Logs how near the generated images are to the local ones, and signs of mode collapse.

    ``generator/fid`` and ``generator/kid`` compare features of generated and of local images (lower is better; values
    of two feature extractors cannot be compared). ``generator/class_entropy`` is the entropy of the classes that the
    network sees in the generated images, 1 for all alike often, 0 for one class only; ``generator/class_least`` the
    share of the rarest; ``generator/confidence`` the mean top probability; ``generator/diversity`` the mean distance
    of two generated images over that of two local ones, in features: well below 1 means that they look alike.

    Evaluation only: nothing here is counted as a query, and no gradient comes of it. The recipes give the teacher's own
    weights, which a user of a server does not have: any classifier of the task will do.

    Args:
        network: directory of a classifier of the task's classes with timm's interface: it names the classes and, unless
            ``inception`` is set, gives the features.
        inception: use Inception-v3's 2,048 features instead, whose weights torch-fidelity downloads.
        number: images of each kind that are compared.
        every_n_epochs: how often; always at the end.
    """

    def __init__(
        self, network: str | nn.Module, inception: bool = False, number: int = 2000, every_n_epochs: int = 5
    ) -> None:
        self.network = network if isinstance(network, nn.Module) else load_network(network)
        self.network.requires_grad_(False).eval()
        self.inception, self.number, self.every_n_epochs = inception, number, every_n_epochs
        self.extractor = "inception-v3" if inception else type(self.network).__name__
        self.histogram: list[int] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse, with a TypeError, data without local images to compare with."""
        data = getattr(trainer, "datamodule", None)
        if not hasattr(data, "candidate_pool"):
            got = "a loader" if data is None else f"a {type(data).__name__}"
            raise TypeError(
                "GeneratorQuality compares with the images of a datamodule of kdlightning.data, and of a data set of "
                f"your own DatasetDataModule(dataset) makes one; got {got}"
            )

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure, on the first process."""
        last = progress(trainer, trainer.current_epoch + 1) == 1
        if isinstance(pl_module, GeneratorModule) and (last or (trainer.current_epoch + 1) % self.every_n_epochs == 0):
            values = trainer.strategy.broadcast(self.measure(trainer, pl_module) if trainer.is_global_zero else {})
            pl_module.log_dict({f"generator/{name}": value for name, value in values.items()}, rank_zero_only=True)

    @torch.no_grad()
    def measure(self, trainer: L.Trainer, module: GeneratorModule) -> dict[str, float]:
        """All values, without their prefix."""
        network = self.network.to(module.device)
        local = cast(Any, trainer).datamodule.candidate_pool(self.number).image.to(module.device).float() / 255
        number = len(local)
        made = module.sample(number, seed=1)
        local_features, features = (penultimate_features(network, images, module.device) for images in (local, made))
        logits = cast(Any, network).get_classifier()(features)
        self.histogram = torch.bincount(logits.argmax(1), minlength=logits.shape[1]).tolist()
        share = torch.tensor(self.histogram, dtype=torch.float64) / number
        entropy = -(share * share.clamp_min(1e-12).log()).sum() / math.log(len(share))
        if self.inception:
            options: dict[str, Any] = {"normalize": True}
            kinds = [(images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images) for images in (local, made)]
        else:
            given: Any = nn.Identity()
            given.num_features = features.shape[1]
            options, kinds = {"feature": given}, [local_features, features]
        fid = FrechetInceptionDistance(**options)
        with warnings.catch_warnings():  # that it keeps all features: they are few
            warnings.filterwarnings("ignore", message=".*Kernel Inception Distance.* will save all extracted features")
            kid = KernelInceptionDistance(subset_size=min(500, number), subsets=20, **options)
        for metric in (fid.to(module.device), kid.to(module.device)):
            for kind, real in zip(kinds, (True, False), strict=True):
                for part in kind.split(_BATCH):
                    metric.update(part, real=real)
        with torch.random.fork_rng():  # the subsets of KID must not move the training's random state
            torch.manual_seed(0)
            mean, _ = kid.compute()
        return {
            "class_entropy": float(entropy),
            "class_least": float(share.min()),
            "confidence": float(logits.softmax(1).amax(1).mean()),
            "diversity": _spread(features) / max(_spread(local_features), 1e-12),
            "fid": float(fid.compute()),
            "kid": float(mean),
        }


def _spread(features: Tensor) -> float:
    """Mean distance of two images drawn at random: neighbours in file order may be of one class."""
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(0))
    shuffled = features[order.to(features.device)]
    return float((shuffled - shuffled.roll(1, 0)).norm(dim=1).mean())


class ImageGrid(Callback):
    """A grid of ``number`` images of the same latent vectors, now and then, to all loggers and to ``images/``."""

    def __init__(self, number: int = 64, every_n_epochs: int = 1) -> None:
        self.number, self.every_n_epochs = number, every_n_epochs

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw and log, on the first process."""
        epoch, mine = trainer.current_epoch + 1, trainer.is_global_zero and keeps(trainer)
        if epoch % self.every_n_epochs or not mine or not isinstance(pl_module, GeneratorModule):
            return
        grid = make_grid(pl_module.sample(self.number).cpu(), nrow=round(self.number**0.5), pad_value=0.5)
        file = Path(trainer.default_root_dir) / "images" / f"epoch-{epoch:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        save_image(grid, file)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("generator/images", [str(file)], step=trainer.global_step)
            elif isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("generator/images", grid, trainer.global_step)
