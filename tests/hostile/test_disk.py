"""Transfer sets whose files are damaged, foreign or cannot be written: a sentence, and a rerun that goes on."""

import errno
import json
import os
import random
import re
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from helpers import Linear, ToyDataModule, rehearsed, trainer
from safetensors.torch import load_file, save_file

from kdlightning.accounting import AnswerJournal, DirectoryInUseError, DirectoryLock, QueryBudgetExceededError
from kdlightning.accounting.disk import UnwrittenError
from kdlightning.data import NoiseDataModule, TransferSet, TransferSetWriter, cached
from kdlightning.data.cached import DamagedFileError, read_record, read_tensors, write_record, write_tensors
from kdlightning.methods import TeacherAnswers
from kdlightning.teachers import SoftLabelTeacher


class Counted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.inner, self.num_classes, self.asked = Linear(torch.randn(3, 64) / 8), 3, 0

    def forward(self, x):
        self.asked += 0 if rehearsed(x) else len(x)
        return self.inner(x)


def ask(net, budget=None):
    data = NoiseDataModule(ToyDataModule(eval_batch_size=8), 24)
    module = TeacherAnswers(SoftLabelTeacher(net, budget), "set")
    trainer(Path.cwd()).predict(module, datamodule=data, return_predictions=False)
    return TransferSet("set")


@pytest.fixture
def begun():
    """A network that has answered two shards of three."""
    net = Counted()
    with pytest.raises(QueryBudgetExceededError):
        ask(net, 16)
    assert net.asked == 16
    return net


def flip(file, draw):
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


def shards():
    return sorted(Path("set").glob("shard-*"))


@pytest.mark.tried(
    "A bit of a transfer set's shard is flipped", "It is refused by name, or the values are the same", times=60
)
def test_a_flipped_bit_of_a_shard_is_never_believed(tmp_path):
    draw, file = random.Random(0), tmp_path / "shard-1.safetensors"
    columns = {"index": torch.arange(6), "answer": torch.rand(6, 3), "image": torch.zeros(6, 1, 4, 4).byte()}
    write_tensors(file, columns, set="header")
    whole, refused = file.read_bytes(), 0
    for _ in range(60):
        flip(file, draw)
        try:
            found, notes = read_tensors(file)
        except DamagedFileError:
            refused += 1
        else:
            assert notes == {"set": "header"}
            assert {name: value.tolist() for name, value in found.items()} == {
                name: value.tolist() for name, value in columns.items()
            }
        file.write_bytes(whole)
    assert refused > 50


@pytest.mark.tried("A bit of a manifest is flipped", "It is refused by name, or the values are the same", times=60)
def test_a_flipped_bit_of_a_record_is_never_believed(tmp_path):
    draw, file, content = random.Random(1), tmp_path / "manifest.json", {"queries": 40, "shards": ["a"], "mean": 0.25}
    write_record(file, content)
    whole, believed = file.read_bytes(), 0
    for _ in range(60):
        flip(file, draw)
        # a flip in the name of the checksum leaves a record without one, with a field that nobody knows
        with suppress(DamagedFileError):
            found = read_record(file)
            believed += 1
            assert {name: found[name] for name in content} == content
        file.write_bytes(whole)
    assert believed < 15


@pytest.mark.tried(
    "A shard of an unfinished set is damaged, cut, empty or foreign",
    "A sentence names it; without it only its images are asked again",
    times=4,
)
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign"])
def test_a_damaged_shard_costs_at_most_its_own_images(tmp_path, begun, damage):
    file = shards()[0]
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes({"flip": data, "cut": data[:-9], "empty": b"", "foreign": b"a letter to somebody"}[damage])
    with pytest.raises(
        DamagedFileError, match=rf"{file.name} is damaged.* delete it .* only its images are asked again"
    ):
        ask(begun)
    assert begun.asked == 16
    file.unlink()
    assert len(ask(begun)) == 24
    assert begun.asked == 16 + 8 + 8


def test_a_shard_of_another_set_is_refused_by_name(tmp_path, begun):
    write_tensors(Path("set/shard-x.safetensors"), load_file(shards()[0]), set="another")
    with pytest.raises(
        DamagedFileError, match=r"shard-x.safetensors belongs to a set with other settings; move it away"
    ):
        ask(begun)
    save_file({"weight": torch.rand(3)}, "set/shard-x.safetensors")
    with pytest.raises(DamagedFileError, match=r"shard-x.safetensors has columns \['weight'\], not those of the other"):
        TransferSetWriter("set", {**read_record(Path("set/header.json"))}).rows()


@pytest.mark.tried(
    "A header is damaged, cut or empty", "A sentence names it; it may be deleted, and nothing is asked twice", times=3
)
@pytest.mark.parametrize("damage", [b"{", b"", None])
def test_a_damaged_header_can_be_deleted(tmp_path, begun, damage):
    file = Path("set/header.json")
    file.write_bytes(file.read_bytes().replace(b"soft", b"hard") if damage is None else damage)
    with pytest.raises(DamagedFileError, match=r"header.json is damaged.* delete it and run the same command again"):
        ask(begun)
    file.unlink()
    assert len(ask(begun)) == 24
    assert begun.asked == 24


def test_a_damaged_manifest_is_written_anew_without_a_question(tmp_path, begun):
    made = ask(begun)
    file = Path("set/manifest.json")
    file.write_text(file.read_text().replace('"queries": 24', '"queries": 42'))
    with pytest.raises(
        DamagedFileError, match=r"manifest.json is damaged, or was changed.* delete it and run the command"
    ):
        TransferSet("set")
    file.unlink()
    again = ask(begun)
    assert begun.asked == again.manifest["queries"] == again.manifest["queries_paid"] == 24
    assert torch.equal(again.column("answer"), made.column("answer"))


def test_a_finished_set_refuses_a_damaged_shard_and_rows_that_are_there_twice(tmp_path, begun):
    ask(begun)
    one, other, _ = shards()
    whole = other.read_bytes()
    other.write_bytes(whole[:-1])
    with pytest.raises(DamagedFileError, match=f"{other.name} is damaged"):
        TransferSet("set")
    other.write_bytes(one.read_bytes())
    with pytest.raises(RuntimeError, match=r"holds 8 rows twice \(first: image \d+\)"):
        TransferSet("set")


def test_sets_without_checksums_are_read_as_before(tmp_path, begun):
    made = ask(begun)
    for file in shards():
        save_file(load_file(file), file)
    record = json.loads(Path("set/manifest.json").read_text())
    del record["crc32"]
    Path("set/manifest.json").write_text(json.dumps(record))
    old = TransferSet("set")
    assert old.manifest == made.manifest
    assert all(torch.equal(column, made.columns[name]) for name, column in old.columns.items())


def test_rows_that_are_there_twice_or_belong_to_nothing_finish_no_set(tmp_path):
    writer = TransferSetWriter("set", {})
    for index in ([0, 1], [1, 2], [7]):
        writer.write({"index": torch.tensor(index), "answer": torch.tensor(index)})
    with pytest.raises(RuntimeError, match=r"holds 1 rows twice \(first: image 1\)"):
        writer.finish(torch.arange(3), {})
    with pytest.raises(RuntimeError, match=r"lacks 1 of 4 rows \(first: 3\)"):
        writer.finish(torch.arange(4), {})
    next(file for file in shards() if load_file(file)["index"].tolist() == [1, 2]).unlink()
    with pytest.raises(RuntimeError, match=r"holds 1 rows of images that were not to be labelled \(first: 7\)"):
        writer.finish(torch.arange(2), {})


def test_a_set_that_holds_nothing_takes_other_settings(tmp_path):
    with pytest.raises(QueryBudgetExceededError):
        ask(Counted(), 0)
    TransferSetWriter("set", {"seed": 2})
    assert read_record(Path("set/header.json")) == {"schema": 1, "seed": 2}


class Small:
    """A file with room for 20 bytes more."""

    def __init__(self, file):
        self.file, self.room = file, 20

    def write(self, data):
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        number = self.file.write(data[: min(7, self.room)])
        self.room -= number
        return number

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.tried(
    "The disk is full when an answer or a shard is written", "A sentence; a rerun asks nothing twice", times=2
)
@pytest.mark.parametrize("where", ["journal", "shard"])
def test_a_full_disk_is_a_sentence_and_a_rerun_goes_on(tmp_path, monkeypatch, where):
    net, told = Counted(), "could not be written (No space left on device). Free space on the disk"
    with monkeypatch.context() as full:
        if where == "journal":
            opened = AnswerJournal.__init__

            def begin(self, path, *options):
                opened(self, path, *options)
                self._file = Small(self._file) if path.name == "journal-8" else self._file

            full.setattr(AnswerJournal, "__init__", begin)
        else:

            def save(tensors, path, notes):
                Path(path).write_bytes(b"half of it")
                if net.asked > 8:
                    raise OSError(errno.ENOSPC, "No space left on device")
                save_file(tensors, path, notes)

            full.setattr(cached, "save_file", save)
        with pytest.raises(UnwrittenError, match=re.escape(told)) as error:
            ask(net)
        assert error.value.errno == errno.ENOSPC
    made = ask(net)
    assert net.asked == (32 if where == "journal" else 24)  # a local network's answer that nobody has is no cost
    assert made.manifest["queries"] == made.manifest["queries_paid"] == 24
    assert not list(Path("set").glob("*.tmp"))


def test_an_answer_is_written_whole_or_not_at_all(tmp_path):
    journal = AnswerJournal("journal", lambda images: images.flatten(1)[:, :3])
    journal(torch.rand(2, 1, 2, 2))
    whole = Path("journal").read_bytes()
    journal._file = Small(journal._file)
    with pytest.raises(UnwrittenError, match="journal could not be written"):
        journal(torch.rand(2, 1, 2, 2))
    assert Path("journal").read_bytes() == whole


def test_the_processes_of_a_launch_share_a_lock_and_another_launch_has_none(tmp_path):
    first = DirectoryLock("run")
    first.acquire(shared=True)

    def status(take):
        child = os.fork()
        if not child:
            try:
                take(DirectoryLock("run"))
            except DirectoryInUseError as error:
                os._exit(2 if f"in use by process {os.getppid()} on" in str(error) else 3)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert status(lambda lock: lock.join()) == 0
    assert status(lambda lock: lock.acquire()) == 2
    DirectoryLock("run").acquire()  # the same process: part of the same launch
    first.release()
    assert status(lambda lock: lock.acquire()) == 2
