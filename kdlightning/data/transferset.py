"""Transfer sets: what a labelling or synthesising phase writes and a training phase reads, self-describing.

A transfer set is a directory::

    header.json           written first: what is being made, of what, asked of whom; a resumed run must agree with it
    shard-*.safetensors   rows, written as they come; each row carries the index of its image in the source
    manifest.json         written last: the header, the cost, statistics; a set without it is not finished

Every file has its checksum in it (``crc32``), and every shard names the header that it belongs to.
"""

import copy
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self, cast

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from kdlightning.data.base import ImageDataModule, at_least
from kdlightning.data.cached import DamagedFileError, differing, read_record, read_tensors, write_record, write_tensors
from kdlightning.data.controls import class_means, shuffled
from kdlightning.data.sets import AnsweredImages, ImageSet, ImageTensorDataset
from kdlightning.functional.topk import TopK
from kdlightning.types import Batch

SCHEMA = 1
_SHARDS = "shard-*.safetensors"


class TransferSetWriter:
    """Writes rows as they come; goes on where an interrupted run stopped; refuses to overwrite.

    Several processes may write one set at once: every shard is one file, renamed into place when it is whole. A set
    that was finished where its budget ended is open again: a larger budget goes on with it.

    Args:
        path: the transfer set's directory; a FileExistsError if the set is finished already.
        header: what identifies the set (plain JSON); a FileExistsError if something is kept that was begun with another
            one. A DamagedFileError if the header that is there cannot be read.
    """

    def __init__(self, path: str | Path, header: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.header: dict[str, Any] = json.loads(json.dumps({"schema": SCHEMA, **header}))
        self._belongs = hashlib.sha256(json.dumps(self.header, sort_keys=True).encode()).hexdigest()[:16]
        manifest = self.path / "manifest.json"
        if manifest.exists() and not (told := read_header(manifest)).get("stopped_by_budget"):
            other = differing({key: told.get(key) for key in self.header}, self.header)
            remedy = "there is nothing left to ask. Train on it (TransferSetDataModule), or choose another output"
            if other:
                remedy = f"what is asked now is another one ({other}); choose another output"
            raise FileExistsError(f"{self.path} already holds a finished transfer set: {remedy}")
        self.path.mkdir(parents=True, exist_ok=True)
        begun = self.path / "header.json"
        if not begun.exists():
            write_record(begun, self.header)
        # another process may have been first: what lies there decides
        there = read_header(begun)
        if there != self.header and not holds_answers(self.path):  # a run that was refused has nothing to lose
            write_record(begun, self.header)
        elif there != self.header:
            remedy = "give the same settings to finish it, or another output"
            other = differing(there, self.header)
            raise FileExistsError(f"{self.path} was begun with other settings ({other}); {remedy}")
        manifest.unlink(missing_ok=True)

    def done(self) -> Tensor:
        """Source indices ``(M,)``, int64, of the rows that are written already."""
        return self.rows().get("index", torch.empty(0, dtype=torch.int64))

    def rows(self) -> dict[str, Tensor]:
        """All rows written so far, column by column, in no particular order; empty before the first.

        A DamagedFileError where a shard is not what was written, or belongs to another set.
        """
        return _read(self.path.glob(_SHARDS), self._belongs)

    def write(self, rows: Mapping[str, Tensor]) -> Path:
        """Write rows as one shard: columns of one length (else a ValueError), ``index`` ``(M,)`` int64 among them."""
        lengths = {name: len(column) for name, column in rows.items()}
        if "index" not in rows or len(set(lengths.values())) != 1:
            raise ValueError(f"a shard needs an 'index' column and columns of one length, got {lengths}")
        name = hashlib.sha256(rows["index"].cpu().numpy().tobytes()).hexdigest()[:16]
        shard = self.path / f"shard-{name}.safetensors"
        write_tensors(shard, rows, set=self._belongs)
        return shard

    def finish(self, expected: Tensor, facts: Mapping[str, Any]) -> "TransferSet":
        """Write the manifest: the header and facts such as cost and statistics, plain JSON.

        A RuntimeError if the rows are not those of the expected source indices ``(N,)``, each once: one is not there
        (the set stays resumable), is there twice, or is of no expected image.
        """
        done = self.done()
        missing = set(expected.tolist()) - set(done.tolist())
        if missing:
            lacking = f"{self.path} lacks {len(missing)} of {len(expected)} rows (first: {min(missing)})"
            raise RuntimeError(f"{lacking}; run the same command again to label them")
        _check_once(self.path, done)
        if surplus := set(done.tolist()) - set(expected.tolist()):
            extra = f"{self.path} holds {len(surplus)} rows of images that were not to be labelled"
            raise RuntimeError(f"{extra} (first: {min(surplus)}); delete the shards that do not belong to it")
        shards = sorted(shard.name for shard in self.path.glob(_SHARDS))
        added = {"rows": len(expected), "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "shards": shards}
        write_record(self.path / "manifest.json", {**self.header, **facts, **added})
        return TransferSet(self.path)


class TransferSet:
    """A finished transfer set, read from its directory as a whole and sorted by source index.

    Rows whose images got no answer, by their column ``outcome``, are apart in ``unanswered``, and nowhere else.

    Raises:
        FileNotFoundError: no such set.
        RuntimeError: not finished, of an unknown schema, a shard is missing, or a row is there twice.
        DamagedFileError: a file is not what was written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        manifest = self.path / "manifest.json"
        if not self.path.is_dir():
            raise FileNotFoundError(f"{self.path} does not exist; run the phase that writes it (`predict`) first")
        if not manifest.exists():
            raise RuntimeError(f"{self.path} is not finished; run the command that began it again to finish it")
        self.manifest = _record(manifest, "delete it and run the command that made the set: it is written anew")
        if self.manifest.get("schema") != SCHEMA:
            raise RuntimeError(f"{manifest} has schema {self.manifest.get('schema')}, this version reads {SCHEMA}")
        absent = [name for name in self.manifest["shards"] if not (self.path / name).exists()]
        if absent:
            raise RuntimeError(
                f"{self.path} lacks {len(absent)} of its shards, first {absent[0]}: put them back, or delete "
                "manifest.json and run the command that made the set: only their images are asked again"
            )
        columns = _read(self.path / name for name in self.manifest["shards"])
        _check_once(self.path, columns["index"])
        order = columns["index"].argsort()
        answered = columns.get("outcome", torch.zeros(len(order)))[order] == 0
        self.columns = {name: column[order][answered] for name, column in columns.items()}
        self.unanswered = {name: column[order][~answered] for name, column in columns.items()}

    def __len__(self) -> int:
        return len(self.columns["index"])

    @property
    def partial(self) -> bool:
        """Whether its answers name the best classes only."""
        return "classes" in self.columns

    def first(self, number: int) -> Self:
        """The set of the first so many rows, and what these have cost; a ValueError if there are fewer."""
        if number > len(self):
            raise ValueError(f"{self.path} has {len(self):,} rows, fewer than num_samples={number:,}")
        made = copy.copy(self)
        made.columns = {name: column[:number] for name, column in self.columns.items()}
        asked = self.columns.get("queries", torch.ones(len(self), dtype=torch.int64))
        whole, kept = int(asked.sum()), int(asked[:number].sum())
        size = {name: self.manifest.get(name, 0) * kept // max(1, whole) for name in ("bytes_up", "bytes_down")}
        made.manifest = self.manifest | {"rows": number, "queries": self.manifest["queries"] - whole + kept, **size}
        return made

    def column(self, name: str) -> Tensor:
        """One column, rows sorted by source index; a KeyError if there is none of that name."""
        if name not in self.columns:
            raise KeyError(f"{self.path} has no column {name!r}, only {sorted(self.columns)}")
        return self.columns[name]

    def images(self, data: Any, column: str = "image") -> Tensor:  # noqa: ANN401 - any of the package's datamodules
        """A column of images ``(M, C, H, W)``, uint8, that were made for a task's datamodule.

        A KeyError without such a column; a ValueError without any images, or if their shape or the number of classes is
        not the task's.
        """
        if column == "image" and column not in self.columns:
            raise ValueError(
                f"{self.path} holds no images, only {', '.join(sorted(self.columns))}, about the images of "
                f"{self.manifest.get('dataset', 'its source')}: read it by TransferSetDataModule, with these as source"
            )
        images, shape = self.column(column), (data.channels, data.image_size, data.image_size)
        if images.shape[1:] != shape:
            here = f"{self.path} holds images of shape {tuple(images.shape[1:])}"
            raise ValueError(f"{here}, but those of {data.name} are {shape}")
        classes = self.manifest.get("num_classes", data.num_classes)
        if classes != data.num_classes:
            raise ValueError(f"{self.path} has answers of {classes} classes, but {data.name} has {data.num_classes}")
        return images

    def answers(self, num_classes: int, column: str | None = None) -> Tensor:
        """What a student learns from: a column as float32 rows ``(M, K)``; class indices become one-hot rows.

        By default it is ``activation`` (DB3KD's) or, where there is none, ``answer`` (the teacher's own). Top-k answers
        are rows ``(M, 2k + 1)`` of :class:`~kdlightning.functional.topk.TopK`.
        """
        column = column or ("activation" if "activation" in self.columns else "answer")
        if column == "answer" and self.partial:
            return TopK.of_columns(self.columns).rows()
        values = self.column(column)
        return F.one_hot(values, num_classes).float() if values.ndim == 1 else values


class SourcedDataModule(L.LightningDataModule):
    """Trains on :attr:`answered`; everything else is a source's: augmentation, order, validation, test, its attributes.

    A subclass sets ``answered`` in :meth:`setup`, after this one's.
    """

    answered: AnsweredImages

    def __init__(self, source: ImageDataModule) -> None:
        super().__init__()
        self.source = source
        self._held_out: AnsweredImages | None = None
        self.name = source.name  # Lightning has a class attribute of that name

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - num_classes, image_size, class_names, ... are the source's
        if name in ("source", "answered", "transfer_set") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.source, name)

    def prepare_data(self) -> None:
        """Let the source download."""
        self.source.prepare_data()

    def setup(self, stage: str) -> None:
        """Load the source."""
        self.source.trainer = self.trainer
        self.source.setup(stage)

    @property
    def tested(self) -> ImageSet | None:
        """What students are tested on: the source's images, or the answered ones of :meth:`hold_out`."""
        return self.source.tested if self._held_out is None else self._held_out

    @property
    def tested_on(self) -> str | None:
        """The source's split, or ``held out``."""
        return self.source.tested_on if self._held_out is None else "held out"

    def hold_out(self) -> None:
        """Test students on a tenth of the answered images, drawn by the source's seed; train them on the others."""
        if self._held_out is None and len(self.answered) > 1:
            order = torch.randperm(len(self.answered), generator=torch.Generator().manual_seed(self.source.seed + 3))
            number = -(-len(order) // 10)
            tested, trained = (self.answered.take(part.sort().values) for part in (order[:number], order[number:]))
            self._held_out, self.answered = tested, trained

    def train_dataloader(self) -> DataLoader[Batch]:
        """The answered images, shuffled by (seed, epoch)."""
        return self.source.shuffled_loader(self.answered)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The source's validation images."""
        return self.source.val_dataloader()

    def test_dataloader(self) -> DataLoader[Batch]:
        """The source's test images, or those of :meth:`hold_out`."""
        held_out = self._held_out
        return self.source.test_dataloader() if held_out is None else self.source.ordered_loader(held_out)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """The source's conversion to [0, 1] and augmentation."""
        self.source.trainer = self.trainer
        return self.source.on_after_batch_transfer(batch, dataloader_idx)


class TransferSetDataModule(SourcedDataModule):
    """Trains on a source's images with the answers of a transfer set; validates and tests on the source.

    Args:
        source: the datamodule that the transfer set was made from, with the same ``num_samples`` and ``seed``; its
            augmentation applies to the images.
        path: the transfer set.
        column: which of its columns becomes ``Batch.answer``; None: what :meth:`TransferSet.answers` takes.
        per_class: only so many rows of every class (by the column ``label``), the first by index; None for all.
        control: answers without the image's own knowledge, for an ablation that asks nothing: ``shuffled`` among the
            classes other than the row's own, or the ``class_means``; None: as they are.
    """

    def __init__(
        self,
        source: ImageDataModule,
        path: str,
        column: str | None = None,
        per_class: int | None = None,
        control: Literal["shuffled", "class_means"] | None = None,
    ) -> None:
        super().__init__(source)
        at_least(1, per_class=per_class)
        self.path, self.column, self.per_class, self.control = path, column, per_class, control

    def setup(self, stage: str) -> None:
        """Load the source and join the transfer set to it; a ValueError if it was made from another source."""
        super().setup(stage)
        if hasattr(self, "answered"):
            return
        self.transfer_set = TransferSet(self.path)
        made_from = self.transfer_set.manifest["source"]
        here = self.source.identity()
        known = {"channels", "files"} & made_from.keys()  # older sets do not tell them
        compared = ("name", "length", "image_size", "images", *sorted(known), "teacher_size")
        different = [key for key in compared if made_from.get(key) != here.get(key)]
        if different:
            made = f"{self.path} was made from {made_from} but the source is {here}"
            raise ValueError(f"{made}: {', '.join(different)} differ")
        if not isinstance(self.source.train_set, ImageTensorDataset):
            raise TypeError(f"a transfer set needs its source in memory; set in_memory=true for {here['name']}")
        columns, index = self.transfer_set.columns, self.transfer_set.column("index")
        answers = self.transfer_set.answers(self.source.num_classes, self.column)
        if self.control is not None and self.transfer_set.partial:
            raise ValueError(f"control={self.control} mixes all classes, but {self.path} has the best ones only")
        if self.control is not None:
            own = columns["label"] if "label" in columns else answers.argmax(1)
            seed = self.source.seed
            answers = shuffled(answers, own, seed) if self.control == "shuffled" else class_means(answers, own)
        if self.per_class is not None:
            label = self.transfer_set.column("label")
            rows = torch.cat([(label == k).nonzero()[: self.per_class, 0] for k in label.unique()]).sort().values
            answers, index = answers[rows], index[rows]
        if not self._about_source():
            raise ValueError(
                f"{self.path} holds images of its own, not those of {here['name']} at the same indices: read it by "
                "GeneratedDataModule, with the same source and path"
            )
        self.answered = AnsweredImages(self.source.train_set, index, answers)

    def _about_source(self) -> bool:
        """Whether the rows' images, where they are kept, are those of the source."""
        images, known = self.transfer_set.columns.get("image"), cast(ImageTensorDataset, self.source.train_set)
        if images is None or images.shape[1:] != known.images.shape[1:]:
            return images is None
        index, here = self.transfer_set.column("index"), torch.isin(known.index, self.transfer_set.column("index"))
        order = known.index[here].argsort()
        return int(here.sum()) == len(index) and torch.equal(images, known.images[here][order])


def holds_answers(path: Path) -> bool:
    """Whether a transfer set's directory holds an answer, or anything else that was made: a file of its own."""
    return any(path.glob("*.safetensors")) or any(file.stat().st_size for file in path.glob("journal-*"))


def read_shard(shard: Path, belongs: str | None = None) -> dict[str, Tensor]:
    """The columns of one file of tensors; a DamagedFileError with what to do, also where it is of another header."""
    remedy = "Put it back from a copy, or delete it (and manifest.json) and run the command that made the set: only "
    remedy += "its images are asked again"
    try:
        columns, notes = read_tensors(shard)
    except DamagedFileError as error:
        raise DamagedFileError(f"{error}. {remedy}") from error
    if belongs not in (None, notes.get("set", belongs)):
        raise DamagedFileError(f"{shard} belongs to a set with other settings; move it away. {remedy}")
    return columns


def _read(paths: Iterable[Path], belongs: str | None = None) -> dict[str, Tensor]:
    shards = {path: read_shard(path, belongs) for path in sorted(paths)}
    if any("outcome" in shard for shard in shards.values()):  # the others are older: all of theirs are answers
        for shard in shards.values():
            shard.setdefault("outcome", torch.zeros(len(shard["index"]), dtype=torch.uint8))
    kinds = {path: {name: (c.dtype, c.shape[1:]) for name, c in shard.items()} for path, shard in shards.items()}
    most = Counter(map(repr, kinds.values())).most_common(1)
    for path, kind in kinds.items():
        if repr(kind) != most[0][0] or "index" not in kind:
            raise DamagedFileError(f"{path} has columns {sorted(kind)}, not those of the other shards: move it away")
    columns = list(shards.values())
    return {name: torch.cat([shard[name] for shard in columns]) for name in columns[0]} if columns else {}


def read_header(path: Path) -> dict[str, Any]:
    """What an unfinished set was begun with, by its ``header.json``; a DamagedFileError with what to do."""
    return _record(path, "delete it and run the same command again: the rows stay")


def _record(path: Path, remedy: str) -> dict[str, Any]:
    try:
        return read_record(path)
    except DamagedFileError as error:
        raise DamagedFileError(f"{error}. Put it back from a copy, or {remedy}") from error


def _check_once(path: Path, index: Tensor) -> None:
    """Refuse rows that are there twice."""
    values, counts = index.unique(return_counts=True)
    if (twice := values[counts > 1]).numel():
        raise RuntimeError(
            f"{path} holds {len(twice):,} rows twice (first: image {int(twice[0])}), as two runs at once leave them: "
            "delete one of the shards that share images (and manifest.json), and run the command that made the set"
        )
