"""Images to train, label and test on: real sets, and transfer sets that pair them with a teacher's answers."""

from kdlightning.data.base import ImageDataModule
from kdlightning.data.blended import BlendedDataModule
from kdlightning.data.collected import CollectedDataModule, UnionDataModule
from kdlightning.data.datasets import DatasetDataModule
from kdlightning.data.folders import (
    CINIC10DataModule,
    ImageFolderDataModule,
    ImageNetDataModule,
    TinyImageNetDataModule,
)
from kdlightning.data.generated import GeneratedDataModule, NoiseDataModule, PoolDataModule
from kdlightning.data.real import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    DigitsDataModule,
    FashionMNISTDataModule,
    Flowers102DataModule,
    MNISTDataModule,
    MNISTMDataModule,
    SVHNDataModule,
    SynDigitsDataModule,
)
from kdlightning.data.rendered import RenderedCharactersDataModule, RenderedDigitsDataModule
from kdlightning.data.sets import ImageFileDataset, ImageTensorDataset
from kdlightning.data.shader import ShaderDataModule
from kdlightning.data.synthetic import NoImagesDataModule, SyntheticDataModule
from kdlightning.data.transferset import TransferSet, TransferSetDataModule, TransferSetWriter
from kdlightning.data.web import WebDataModule

__all__ = [
    "BlendedDataModule",
    "CIFAR10DataModule", "CIFAR100DataModule", "CINIC10DataModule", "CollectedDataModule", "DatasetDataModule",
    "DigitsDataModule",
    "FashionMNISTDataModule", "Flowers102DataModule", "GeneratedDataModule", "ImageDataModule", "ImageFileDataset",
    "ImageFolderDataModule", "ImageNetDataModule", "ImageTensorDataset", "MNISTDataModule", "MNISTMDataModule",
    "NoImagesDataModule", "NoiseDataModule", "PoolDataModule", "RenderedCharactersDataModule",
    "RenderedDigitsDataModule", "SVHNDataModule", "ShaderDataModule", "SynDigitsDataModule", "SyntheticDataModule",
    "TinyImageNetDataModule", "TransferSet", "TransferSetDataModule", "TransferSetWriter", "UnionDataModule",
    "WebDataModule",
]  # fmt: skip
