import copy
import json

import pytest
import torch
from helpers import Linear, TinyNet, ToyDataModule, trainer
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from torch import nn
from torch.nn import functional as F

from kdlightning.accounting import QueryBudgetExceededError, QueryMeter
from kdlightning.callbacks import Agreement, ConfusionMatrix, QueryLogger, RunResult
from kdlightning.methods import AL, DB3KD, DKD, KD, AnsweredKD, Supervised
from kdlightning.modules.finite import NotFiniteError
from kdlightning.networks import LeNet5Fifth
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher
from kdlightning.types import Batch


def student():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))


def oracle():
    """A linear teacher that is right on the toy images: it weighs the three thirds."""
    weight = torch.zeros(3, 8, 8)
    for k in range(3):
        weight[k, :, 3 * k : 3 * k + 2] = 1.0
    return Linear(weight.flatten(1))


def batch(n=4):
    generator = torch.Generator().manual_seed(3)
    return Batch(
        torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n), torch.arange(n) % 3,
        torch.rand(n, 3, generator=generator),
    )  # fmt: skip


def test_supervised_is_cross_entropy_and_needs_labels():
    module, data = Supervised(student()), batch()
    torch.testing.assert_close(module.losses(data)["ce"], F.cross_entropy(module(data.image), data.label))
    with pytest.raises(ValueError, match="needs labels"):
        module.losses(data._replace(label=None))


def test_label_smoothing_by_hand():
    module, data = Supervised(student(), label_smoothing=0.3), batch()
    target = 0.7 * F.one_hot(data.label, 3) + 0.1
    expected = -(target * module(data.image).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(module.losses(data)["ce"], expected)
    with pytest.raises(ValueError, match=r"label_smoothing: expected a share .* got 1"):
        Supervised(student(), label_smoothing=1.0)


def test_mixup_mixes_images_and_labels_alike():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(ValueError, match="mixup needs to know the number of classes: give Sequential num_classes"):
        Supervised(network, mixup=0.2)
    with pytest.raises(ValueError, match=r"expected alpha .* got -1"):
        Supervised(network, mixup=-1.0)
    network.num_classes = 3
    module, data = Supervised(network, mixup=0.2), batch()
    seen = []
    network.register_forward_hook(lambda _, images, logits: seen.append((images[0], logits)))
    torch.manual_seed(5)
    loss = module.losses(data)["ce"]
    ((mixed, logits),) = seen
    torch.manual_seed(5)
    share = torch._sample_dirichlet(torch.tensor([0.2, 0.2]))[0]  # of the same draw as torchvision's
    other = data.image.roll(1, 0)
    torch.testing.assert_close(mixed, share * data.image + (1 - share) * other)
    label = F.one_hot(data.label, 3).float()
    expected = -((share * label + (1 - share) * label.roll(1, 0)) * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)


def test_kd_terms_by_hand():
    module, data = KD(SoftLabelTeacher(oracle()), student(), temperature=4.0, kd_weight=0.5, ce_weight=2.0), batch()
    terms = module.losses(data)
    logits = module(data.image)
    p, q = (oracle()(data.image) / 4).softmax(1), (logits / 4).softmax(1)
    torch.testing.assert_close(terms["kd"], 0.5 * 16 * (p * (p / q).log()).sum(1).mean())
    torch.testing.assert_close(terms["ce"], 2 * F.cross_entropy(logits, data.label))
    assert set(module.losses(data._replace(label=None))) == {"kd"}


def test_db3kd_terms_by_hand():
    module, data = DB3KD(student(), temperature=0.3, kd_weight=2.0), batch()
    terms, logits = module.losses(data), module(data.image)
    p, q = (data.answer / 0.3).softmax(1), (logits / 0.3).softmax(1)
    expected = (p * (p / q).log()).sum(1)
    torch.testing.assert_close(terms["kd"], 2 * expected.mean())
    torch.testing.assert_close(terms["ce"], F.cross_entropy(logits, data.label))
    summed = DB3KD(module.student, temperature=20.0, reduction="sum").losses(data)["kd"]
    mean = DB3KD(module.student, temperature=20.0).losses(data)["kd"]
    torch.testing.assert_close(summed, 4 * mean)


def test_db3kds_linear_map_is_kd_with_logits_that_fall_with_the_distance():
    data, net = batch(), student()
    distance = torch.tensor([[0.0, 1.0, 2.0], [0.5, 0.0, 3.0], [1.0, 4.0, 0.0], [0.0, 0.1, torch.inf]])
    module = DB3KD(net, mapping="linear", slope=3.0, kd_weight=2.0)
    logits, far = module(data.image), distance.clone()
    far[3, 2] = 1.0
    p, q = (-3 * far / 4).softmax(1), (logits / 4).softmax(1)
    terms = module.losses(data._replace(answer=distance))
    torch.testing.assert_close(terms["kd"], 2 * 16 * (p * (p / q).log()).sum(1).mean())
    by_teacher = DB3KD(net, mapping="linear", cross_entropy="teacher").losses(data._replace(answer=distance))["ce"]
    torch.testing.assert_close(by_teacher, F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])))
    assert (DB3KD(net).temperature, module.temperature) == (0.3, 4.0)
    with pytest.raises(ValueError, match="slope"):
        DB3KD(net, mapping="linear", slope=0.0)


def test_db3kd_cross_entropy_choices():
    data, net = batch(), student()
    by_teacher = DB3KD(net, cross_entropy="teacher").losses(data._replace(label=None))["ce"]
    torch.testing.assert_close(by_teacher, F.cross_entropy(net(data.image), data.answer.argmax(1)))
    assert set(DB3KD(net).losses(data._replace(label=None))) == {"kd"}
    assert set(DB3KD(net, cross_entropy="none").losses(data)) == {"kd"}
    with pytest.raises(ValueError, match="TransferSetDataModule"):
        DB3KD(net).losses(data._replace(answer=None))


def test_the_loss_goes_down():
    module, data = KD(SoftLabelTeacher(oracle()), student()), batch()
    optimizer = torch.optim.Adam(module.student.parameters(), 1e-2)
    values = []
    for _ in range(20):
        loss = sum(module.losses(data).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.8 * values[0]


@pytest.mark.parametrize(("query_once", "queries"), [(False, 3 * 60), (True, 60)])
def test_queries_of_kd_are_exact(tmp_path, query_once, queries):
    module = KD(SoftLabelTeacher(oracle()), student(), query_once=query_once)
    trainer(tmp_path, max_epochs=3).fit(module, datamodule=ToyDataModule())
    assert module.teacher.paid.queries == queries


def test_only_the_student_is_trained_and_only_it_is_saved(tmp_path):
    teacher_network = TinyNet()
    before = copy.deepcopy(teacher_network.state_dict())
    module = KD(SoftLabelTeacher(teacher_network), TinyNet())
    start = copy.deepcopy(module.student.state_dict())
    run = trainer(tmp_path, max_epochs=2)
    run.fit(module, datamodule=ToyDataModule())
    run.save_checkpoint(tmp_path / "x.ckpt")
    assert all(torch.equal(before[name], value) for name, value in teacher_network.state_dict().items())
    assert not torch.equal(start["classifier.weight"], module.student.state_dict()["classifier.weight"])
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"student"}
    assert checkpoint["teacher"]["queries"] == 120
    assert checkpoint["hyper_parameters"]["temperature"] == 4.0
    again = KD.load_from_checkpoint(tmp_path / "x.ckpt", teacher=SoftLabelTeacher(teacher_network), student=TinyNet())
    x = batch().image
    torch.testing.assert_close(again.eval()(x), module.eval()(x))
    assert again.teacher.paid.queries == 120


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    def module():
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.3), torch.nn.Linear(64, 3))
        return KD(SoftLabelTeacher(oracle()), net)

    def run(epochs, net, ckpt=None):
        fit = trainer(tmp_path, max_epochs=epochs)
        fit.fit(
            net,
            datamodule=ToyDataModule(augmentation=lambda x: (x + 0.1 * torch.rand_like(x)).clamp(0, 1)),
            ckpt_path=ckpt,
        )
        return fit

    whole = module()
    run(4, whole)
    half = module()
    run(2, half).save_checkpoint(tmp_path / "half.ckpt")
    resumed = module()
    run(4, resumed, tmp_path / "half.ckpt")
    assert torch.equal(whole.student[2].weight, resumed.student[2].weight)
    assert whole.teacher.paid == resumed.teacher.paid


def test_the_budget_stops_a_fit_and_the_checkpoint_before_it_is_usable(tmp_path):
    module = KD(SoftLabelTeacher(oracle(), budget=130), student())
    run = trainer(tmp_path, max_epochs=5, enable_checkpointing=True)
    with pytest.raises(QueryBudgetExceededError, match="the budget is 130"):
        run.fit(module, datamodule=ToyDataModule())
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["teacher"]["queries"] == 120
    assert module.teacher.paid.queries <= 130


def test_agreement_has_a_teacher_of_its_own(tmp_path):
    module = KD(SoftLabelTeacher(oracle()), oracle())
    own = HardLabelTeacher(oracle())
    (metrics,) = trainer(tmp_path, callbacks=[Agreement(own)]).test(module, datamodule=ToyDataModule(), verbose=False)
    assert metrics["test/agreement"] == 1
    assert own.paid.queries == 30
    assert module.teacher.paid.queries == 0
    test = ToyDataModule().load()[2]
    expected = oracle()(test.images / 255).argmax(1) == test.labels
    assert metrics["test/accuracy"] == pytest.approx(float(expected.float().mean()))


def test_without_labels_there_is_agreement_or_nothing(tmp_path):
    data = ToyDataModule()
    data.setup()
    data._test = data._test.withheld()
    own = SoftLabelTeacher(oracle())
    run = trainer(tmp_path, callbacks=[Agreement(own), ConfusionMatrix()])
    (metrics,) = run.test(Supervised(oracle()), datamodule=data, verbose=False)
    assert metrics == {"test/agreement": 1.0}
    assert own.paid.queries == 30
    with pytest.raises(ValueError, match="test images need labels, or an Agreement callback"):
        trainer(tmp_path).test(Supervised(oracle()), datamodule=data, verbose=False)


def test_metrics_are_means_and_queries_are_logged(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    module = KD(SoftLabelTeacher(oracle()), student())
    logger = CSVLogger(tmp_path)
    run = trainer(tmp_path, logger=logger, callbacks=[QueryLogger()], log_every_n_steps=2)
    run.fit(module, datamodule=ToyDataModule())
    assert run.callback_metrics["teacher/queries"] == 60
    assert run.callback_metrics["teacher/bytes_up"] == 60 * 64 * 4
    assert run.callback_metrics["train/loss"] == pytest.approx(
        float(run.callback_metrics["train/kd"] + run.callback_metrics["train/ce"]), rel=1e-5
    )
    assert QueryMeter().counted(tmp_path / "queries.meter") == module.teacher.paid


@pytest.mark.parametrize("method", [DKD, AnsweredKD, DB3KD, AL])
def test_a_temperature_is_above_zero(method):
    for temperature in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"temperature: expected a number above 0, got {temperature}"):
            method(TinyNet(), temperature=temperature)


def test_dkd_learns_at_a_small_temperature():
    module, data = DKD(student(), temperature=0.1), batch()
    data = data._replace(answer=(30 * data.answer).softmax(1))
    sum(module.losses(data).values()).backward()
    assert module.student[1].weight.grad.isfinite().all()
    assert module.student[1].weight.grad.abs().max() > 0


@pytest.mark.parametrize("broken", ["loss", "weight", "statistic"])
def test_what_is_not_finite_stops_the_run_and_is_no_result(tmp_path, broken, monkeypatch):
    monkeypatch.setattr("kdlightning.callbacks.result.check_saving", lambda *_, **__: None)  # it never comes to that

    class Broken(Supervised):
        def losses(self, batch):
            terms = super().losses(batch)
            self.watched = {"extent": torch.tensor(-torch.inf)}  # what is only looked at may be anything
            return {**terms, "odd": terms["ce"] * float("nan")} if broken == "loss" and self.global_step == 3 else terms

        def on_train_batch_end(self, *_):
            if broken == "weight" and self.global_step == 8:
                self.student.classifier.bias.data[1] = torch.inf
            if broken == "statistic" and self.global_step == 8:
                self.student.body[1].running_var[0] = torch.nan

    module = Broken(TinyNet(), optimizer=lambda parameters: torch.optim.SGD(parameters, 0.25))
    run = trainer(tmp_path, max_epochs=3, log_every_n_steps=2, enable_checkpointing=True, callbacks=[RunResult()])
    with pytest.raises(NotFiniteError) as stopped:
        run.fit(module, datamodule=ToyDataModule())
    what, place = {
        "loss": ("loss is nan, odd is nan", "in epoch 1 after 3 steps"),
        "weight": ("student.classifier.bias has values that are not finite", "in epoch 2 after 8 steps"),
        "statistic": ("student.body.1.running_var has values that are not finite", "in epoch 2 after 8 steps"),
    }[broken]
    for text in (what, place, "is no result", "lower learning rate (it is 0.25)", "--trainer.gradient_clip_val 1"):
        assert text in str(stopped.value)
    assert not list(tmp_path.rglob("result.json")) + list(tmp_path.rglob("network"))
    kept = [torch.load(file, weights_only=True)["epoch"] for file in tmp_path.rglob("*.ckpt")]
    assert kept == ([] if broken == "loss" else [0])


def test_a_search_for_a_learning_rate_may_fail_at_high_ones(tmp_path):
    search = LearningRateFinder(min_lr=1e-3, max_lr=1e38, num_training_steps=40, early_stop_threshold=None)
    module = Supervised(student())
    trainer(tmp_path, max_epochs=20, callbacks=[search], log_every_n_steps=1).fit(module, datamodule=ToyDataModule())
    assert module.lr > 0
    (group,) = module.optimizers().param_groups
    assert group["lr"] == module.lr


def small():
    return LeNet5Fifth(num_classes=3, image_size=28)


def test_the_clock_and_the_best_accuracy_go_on_and_a_search_does_not_count(tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 100))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    first, second, data = RunResult(), RunResult(), ToyDataModule(image_size=28)
    trainer(tmp_path, callbacks=[first], enable_checkpointing=True).fit(Supervised(small()), data)
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    before = torch.load(checkpoint, weights_only=True)["callbacks"]["RunResult"]
    assert before["seconds"] > 0
    trainer(tmp_path, max_epochs=2, callbacks=[second]).fit(Supervised(small()), data, ckpt_path=str(checkpoint))
    assert second._seconds > before["seconds"]
    assert second._best >= before["best"]


def test_a_search_for_a_batch_size_leaves_epochs_and_steps(tmp_path):
    data = ToyDataModule(number=64, image_size=28)
    run = trainer(tmp_path, max_epochs=2, callbacks=[BatchSizeFinder(init_val=4, max_trials=2), RunResult()])
    module = Supervised(small())
    run.fit(module, datamodule=data)
    run.test(module, datamodule=data, verbose=False)
    record = json.loads((tmp_path / "result.json").read_text())
    assert (data.batch_size, record["epochs"], record["steps"]) == (8, 2, 16)
    assert record["seconds"] < 100


def test_what_changed_since_a_checkpoint_is_taken_over_or_refused(tmp_path, caplog):
    def start(epochs, rate, gamma=None, network=None, ckpt=None, kind=torch.optim.SGD, **options):
        schedule = None if gamma is None else lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)
        teacher = SoftLabelTeacher(network or oracle())
        module = KD(teacher, student(), optimizer=lambda p: kind(p, lr=rate), lr_scheduler=schedule, **options)
        run = trainer(tmp_path, max_epochs=epochs)
        run.fit(module, datamodule=ToyDataModule(), ckpt_path=ckpt)
        run.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return module

    start(1, 0.1)
    here = str(tmp_path / "1.ckpt")
    assert start(2, 0.1, ckpt=here).optimizers().param_groups[0]["lr"] == 0.1
    assert not caplog.messages or "goes on" not in caplog.text
    assert start(2, 0.01, ckpt=here).optimizers().param_groups[0]["lr"] == 0.01
    assert "the run goes on with lr 0.01, where its checkpoint has 0.1" in caplog.text
    for options, text in (
        ({"temperature": 2.0}, "model.temperature was 4.0 and is 2.0"),
        ({"kind": torch.optim.Adam}, "optimizer.0 was SGD and is Adam"),
        ({"network": Linear(torch.ones(3, 64))}, "teacher.fingerprint was "),
    ):
        with pytest.raises(ValueError, match=text):
            start(2, 0.1, ckpt=here, **options)
    start(1, 0.1, gamma=0.5)
    assert start(2, 0.1, gamma=0.5, ckpt=here).optimizers().param_groups[0]["lr"] == 0.025
    with pytest.raises(ValueError, match=r"schedules\.0\.gamma was 0\.5 and is 0\.9"):
        start(2, 0.1, gamma=0.9, ckpt=here)
    with pytest.raises(ValueError, match=r"options.0.0.lr was 0.1 and is 0.2|schedules.0.base_lrs"):
        start(2, 0.2, gamma=0.5, ckpt=here)
