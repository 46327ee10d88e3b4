"""Small things with known answers: a linear teacher, a tiny network, a toy data set."""

import os
import signal
from dataclasses import fields
from pathlib import Path

import lightning.pytorch as L
import torch
from torch import Tensor, nn

from kdlightning.data.base import ImageDataModule
from kdlightning.data.sets import tensor_set
from kdlightning.networks.rehearsal import trial_images
from kdlightning.remote.reading import Reader
from kdlightning.remote.writing import Writer


class Linear(nn.Module):
    """Logits W x + b of flattened pixels: every decision boundary is a hyperplane."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.num_classes = len(weight)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.zeros(len(weight)) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T + self.bias


def rehearsed(images: Tensor) -> bool:
    """Whether these are what a network is tried on when it comes in: no question."""
    return torch.equal(images[:2].cpu(), trial_images(images.shape[1:])[: len(images)])


class Dying(nn.Module):
    """Writes down in answered.txt what it answers; kills the process when it is asked once too often."""

    def __init__(self, inner: nn.Module, calls: int) -> None:
        super().__init__()
        self.inner, self.num_classes, self.calls = inner, inner.num_classes, calls

    def forward(self, x: Tensor) -> Tensor:
        if rehearsed(x):
            return self.inner(x)
        log = Path("answered.txt")
        if len(log.read_text().split() if log.exists() else []) >= self.calls:
            os.kill(os.getpid(), signal.SIGKILL)
        with log.open("a") as file:
            file.write(f"{len(x)}\n")
        return self.inner(x)


class TinyNet(nn.Module):
    """A few hundred parameters and one BatchNorm, to catch mode bugs."""

    def __init__(self, num_classes: int = 3, channels: int = 1) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.body = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
        self.classifier = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.body(x).flatten(1))


class ToyDataModule(ImageDataModule):
    """Images 8 x 8 of 3 classes: which third of the image is bright."""

    name, num_classes, channels, native_size = "toy", 3, 1, 8

    def __init__(self, number: int = 60, batch_size: int = 16, eval_batch_size: int = 16, num_val: int = 12, **options):
        self.number = number
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, num_val=num_val, **options)

    def load(self):
        def make(count: int, seed: int):
            generator = torch.Generator().manual_seed(seed)
            labels = torch.arange(count) % 3
            images = torch.randint(20, 90, (count, 1, 8, 8), generator=generator)
            for k in range(3):
                images[labels == k, :, :, 3 * k : 3 * k + 2] += 130
            return tensor_set(images.to(torch.uint8), labels)

        return make(self.number + self.num_val, 0), None, make(30, 1)


def trainer(tmp_path, **options) -> L.Trainer:
    """A quiet CPU trainer that writes into tmp_path."""
    defaults = {
        "accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False, "max_epochs": 1,
        "enable_model_summary": False, "enable_checkpointing": False, "default_root_dir": tmp_path,
    }  # fmt: skip
    return L.Trainer(**{**defaults, **options})


def shaped(**options) -> dict:
    """Options of an HTTPTeacher, with those of its reader and its writer given beside the others."""
    read, written = {f.name for f in fields(Reader)}, {f.name for f in fields(Writer)}
    rest = {name: value for name, value in options.items() if name not in read | written}
    reader = {name: value for name, value in options.items() if name in read}
    writer = {name: value for name, value in options.items() if name in written}
    return {**rest, "reader": Reader(**reader), "writer": Writer(**writer)}
