import json

import pytest
import torch
from helpers import ToyDataModule

from kdlightning.data import TransferSet, TransferSetDataModule, TransferSetWriter


def rows(*indices):
    index = torch.tensor(indices)
    return {"index": index, "activation": index[:, None].float() * torch.ones(3), "queries": index * 2}


def finished(path, header=None, indices=(4, 1, 3)):
    writer = TransferSetWriter(path, header or {"source": ToyDataModule().identity()})
    writer.write(rows(*indices[:1]))
    writer.write(rows(*indices[1:]))
    return writer.finish(torch.tensor(indices), {"queries": 16})


def test_rows_come_back_sorted_by_source_index(tmp_path):
    finished(tmp_path / "set")
    read = TransferSet(tmp_path / "set")
    assert read.column("index").tolist() == [1, 3, 4]
    assert read.column("activation")[:, 0].tolist() == [1, 3, 4]
    assert read.manifest["queries"] == 16
    assert read.manifest["rows"] == 3
    with pytest.raises(KeyError, match="has no column 'soft', only"):
        read.column("soft")


def test_an_interrupted_set_is_resumed_and_a_finished_one_not_overwritten(tmp_path):
    writer = TransferSetWriter(tmp_path / "set", {"seed": 1})
    writer.write(rows(2))
    with pytest.raises(RuntimeError, match=r"lacks 1 of 2 rows \(first: 5\)"):
        writer.finish(torch.tensor([2, 5]), {})
    with pytest.raises(RuntimeError, match="is not finished"):
        TransferSet(tmp_path / "set")
    with pytest.raises(FileExistsError, match=r"begun with other settings \(seed 1, now 2\)"):
        TransferSetWriter(tmp_path / "set", {"seed": 2})
    again = TransferSetWriter(tmp_path / "set", {"seed": 1})
    assert again.done().tolist() == [2]
    again.write(rows(5))
    assert len(again.finish(torch.tensor([2, 5]), {})) == 2
    with pytest.raises(FileExistsError, match="already holds a finished transfer set: there is nothing left to ask"):
        TransferSetWriter(tmp_path / "set", {"seed": 1})
    with pytest.raises(FileExistsError, match=r"set: what is asked now is another one \(seed 1, now 2\); choose"):
        TransferSetWriter(tmp_path / "set", {"seed": 2})


def test_readers_refuse_what_is_absent_incomplete_or_unknown(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the phase that writes it"):
        TransferSet(tmp_path / "none")
    made = finished(tmp_path / "set")
    (made.path / made.manifest["shards"][0]).unlink()
    with pytest.raises(RuntimeError, match="lacks 1 of its shards"):
        TransferSet(made.path)
    (made.path / "manifest.json").write_text(json.dumps({**made.manifest, "schema": 99}))
    with pytest.raises(RuntimeError, match="schema 99, this version reads 1"):
        TransferSet(made.path)


def test_a_shard_needs_indices_and_equal_lengths(tmp_path):
    writer = TransferSetWriter(tmp_path / "set", {})
    with pytest.raises(ValueError, match="'index' column and columns of one length"):
        writer.write({"index": torch.tensor([1]), "queries": torch.tensor([1, 2])})


def test_answers_are_joined_to_images_by_source_index(tmp_path):
    source = ToyDataModule(batch_size=7)
    source.setup()
    indices = source.train_set.index[[30, 2, 11]].tolist()
    finished(tmp_path / "set", {"source": source.identity()}, indices)
    data = TransferSetDataModule(ToyDataModule(batch_size=7), str(tmp_path / "set"))
    data.setup("fit")
    (batch,) = list(data.train_dataloader())
    everything, _, _ = source.load()
    assert sorted(batch.index.tolist()) == sorted(indices)
    assert torch.equal(batch.image, everything.images[batch.index])
    assert torch.equal(batch.answer[:, 0], batch.index.float())
    assert torch.equal(batch.label, everything.labels[batch.index])
    assert (data.name, data.num_classes, data.image_size) == ("toy", 3, 8)


def test_another_source_is_refused(tmp_path):
    finished(tmp_path / "set", {"source": ToyDataModule().identity()})
    with pytest.raises(ValueError, match="length differ"):
        TransferSetDataModule(ToyDataModule(number=90), str(tmp_path / "set")).setup("fit")
    source = ToyDataModule(num_samples=5)
    source.setup()
    absent = sorted(set(range(72)) - set(source.train_set.index.tolist()))[:3]
    finished(tmp_path / "other", {"source": source.identity()}, absent)
    with pytest.raises(ValueError, match="rows for 3 images that the source does not yield"):
        TransferSetDataModule(source, str(tmp_path / "other")).setup("fit")
