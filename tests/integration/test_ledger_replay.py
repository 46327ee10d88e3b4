"""A run from the ledger alone, when its server is gone: the same transfer set, the same student."""

import json
from pathlib import Path

import lightning.pytorch as L
import pytest
import torch
import yaml
from helpers import shaped
from servers import answering, serving

from kdlightning.__main__ import main
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.data import DigitsDataModule, TransferSet
from kdlightning.methods import TeacherAnswers
from kdlightning.networks import LeNet5Fifth, load_network
from kdlightning.remote import HTTPHardLabelTeacher, RemoteTeacherError
from kdlightning.remote.replay import offline
from kdlightning.serving import ServedModel

STUDENT = {"class_path": "LeNet5Fifth", "init_args": {"image_size": 32}}
DATA = {"class_path": "DigitsDataModule", "init_args": {"num_samples": 48, "num_val": 32, "batch_size": 16}}
TRAINER = {"accelerator": "cpu", "max_epochs": 2, "enable_progress_bar": False, "enable_model_summary": False}
LOGGER = {"class_path": "CSVLogger", "init_args": {"save_dir": ".", "name": "csv"}}


def do(command, name, model, data, **trainer):
    trainer |= {**TRAINER, "default_root_dir": f"runs/{name}"}
    config = {"seed_everything": 1, "model": model, "data": data, "trainer": trainer}
    Path(f"{name}.yaml").write_text(yaml.safe_dump(config))
    assert main([command, "--config", f"{name}.yaml"]) == 0


@pytest.fixture
def online():
    """Three runs against a server, which is gone afterwards: KD, and KnockoffNets in two phases."""
    torch.manual_seed(0)
    model = ServedModel(LeNet5Fifth(image_size=32), "digits", "soft")
    with serving(model, api_key="s3cret-key") as url:
        Path("key").write_text("s3cret-key")
        arguments = {"url": url, "model": "digits", "outputs": "probabilities", "api_key_file": "key"}
        teacher = {"class_path": "RemoteSoftLabelTeacher", "init_args": arguments}
        kd = {"class_path": "KD", "init_args": {"student": STUDENT, "teacher": teacher}}
        do("fit", "kd", kd, DATA, logger=[LOGGER])
        asks = {"teacher": teacher, "output": "runs/asked", "queries": 30, "seed": 3}
        do("predict", "asked", {"class_path": "KnockoffSelection", "init_args": asks}, DATA, logger=False)
    pool = {"class_path": "GeneratedDataModule", "init_args": {"source": DATA, "path": "runs/asked"}}
    do("fit", "kn", {"class_path": "AnsweredKD", "init_args": {"student": STUDENT}}, pool, logger=[LOGGER])
    Path("key").unlink()
    assert [file for file in Path().rglob("*") if file.is_file() and b"s3cret-key" in file.read_bytes()] == []
    assert model.answered == 48  # the 30 of KnockoffNets are among KD's


def weights(run):
    return load_network(f"{run}/network").state_dict()


def test_a_replay_is_the_run_again(online, capsys):
    before = QueryLedger("ledger.sqlite").totals()
    assert main(["ledger", "replay", "ledger.sqlite", "--config", "runs/kd/config.yaml"]) == 0
    config = yaml.safe_load(Path("runs/asked/config.yaml").read_text())
    config, output = offline(config, "predict", Path("ledger.sqlite"), Path("asked"))
    Path("asked.yaml").write_text(yaml.safe_dump(config))
    assert output == Path("asked")
    assert main(["predict", "--config", "asked.yaml"]) == 0
    assert QueryLedger("ledger.sqlite").totals() == before
    one, other = weights("runs/kd"), weights("runs/kd-replay")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    record = json.loads(Path("runs/kd-replay/result.json").read_text())
    assert record["queries"] == 0
    assert record["accuracy"] == json.loads(Path("runs/kd/result.json").read_text())["accuracy"]
    assert len(list(Path("runs/kd-replay").rglob("metrics.csv"))) == 1
    one, other = TransferSet("runs/asked").columns, TransferSet("asked").columns
    assert all(torch.equal(one[name], other[name]) for name in one)
    again = ["--config", "runs/kn/config.yaml", "--output", "more"]
    assert main(["ledger", "replay", "ledger.sqlite", *again]) == 2
    assert "expected a teacher behind a connection" in capsys.readouterr().err
    assert main(["ledger", "replay", "none.sqlite", *again]) == 2
    assert main(["ledger", "replay", "ledger.sqlite", "--config", "key"]) == 2


def test_a_set_is_labelled_anew_from_kept_replies_when_their_reading_is_mended():
    asked = []

    def answer(handler, body):
        (image,) = json.loads(body)["image"]
        asked.append(str(image))
        number = list(dict.fromkeys(asked)).index(str(image)) % 3
        handler.reply(200, {"text": ["zero", "one", "Two!"][number if len(set(asked)) > 20 else number % 2]})

    def run(**options):
        options = {"answer": "text", "image": "list", "concurrency": 1, "num_classes": 10, **options}
        texts = {"zero": 0, "one": 1, **options.pop("more", {}), **{str(number): number for number in range(2, 10)}}
        teacher = HTTPHardLabelTeacher(url, {"image": ["{image}"]}, "text", labels=texts, **shaped(**options))
        data = DigitsDataModule(num_samples=80, num_val=32, eval_batch_size=16, image_size=32)
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
        trainer.predict(TeacherAnswers(teacher, "labels"), data)

    with answering(answer) as url:
        with pytest.raises(RemoteTeacherError, match=r"11 of 51 images got no answer .* 5\. unreadable: 'Two!'"):
            run()
        paid = len(asked)
        assert len(list(Path("labels").glob("shard-*"))) == 3
        run(more={"Two!": 2})
        rows = TransferSet("labels")
        assert len(rows) == len(set(asked)) == len(asked) == 80
        assert paid == 51
    assert rows.columns["answer"].tolist().count(2) == sum(number % 3 == 2 for number in range(20, 80))
