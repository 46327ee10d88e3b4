"""Teachers that name their best classes: transfer sets, methods, refusals; all classes named are soft labels."""

from functools import partial

import pytest
import torch
from helpers import Linear, TinyNet, ToyDataModule, trainer

from kdlightning.callbacks import Agreement
from kdlightning.data import GeneratedDataModule, TransferSet, TransferSetDataModule
from kdlightning.functional.topk import TopK
from kdlightning.methods import (
    AL,
    CAN,
    CDL,
    DFND,
    DKD,
    KD,
    MEKD,
    ML,
    ActiveMixup,
    AnsweredKD,
    DB3KDLabels,
    KnockoffSelection,
    MEKDGenerator,
    TeacherAnswers,
    ZSDB3KDImages,
)
from kdlightning.networks import DCGANCritic, TransposedGenerator
from kdlightning.teachers import SoftLabelTeacher, TopKTeacher
from kdlightning.types import Batch

Adam = partial(torch.optim.Adam, lr=0.01)
WAYS = ["ignored", "uniform", "prior"]


def teacher(k=None):
    """Three classes, whose logits are far from one-hot; None for probabilities."""
    weight = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)) / 4
    return SoftLabelTeacher(Linear(weight)) if k is None else TopKTeacher(Linear(weight), k)


def tiny():
    torch.manual_seed(0)
    return TinyNet()


def generator():
    torch.manual_seed(1)
    return TransposedGenerator(latent_dim=3, channels=1, image_size=8, width=4)


def labelled(place, k=None):
    trainer(place).predict(TeacherAnswers(teacher(k), f"{place}/set-{k}"), datamodule=ToyDataModule())
    return TransferSetDataModule(ToyDataModule(), f"{place}/set-{k}")


def weights(module, data, place):
    torch.manual_seed(0)
    trainer(place, max_epochs=2).fit(module, datamodule=data)
    return torch.cat([parameter.detach().flatten() for parameter in module.student.parameters()])


METHODS = {
    "AnsweredKD": lambda **options: AnsweredKD(tiny(), temperature=2.0, optimizer=Adam, **options),
    "ML": lambda **options: ML(tiny(), optimizer=Adam, **options),
    "DKD": lambda **options: DKD(tiny(), optimizer=Adam, **options),
    "MEKD": lambda **options: MEKD(tiny(), generator(), optimizer=Adam, **options),
}
ONLINE = {
    "KD": lambda who, **options: KD(who, tiny(), optimizer=Adam, **options),
    "DFND": lambda who, **options: DFND(who, tiny(), optimizer=Adam, **options),
}


def test_a_local_teacher_names_its_best_classes():
    images = ToyDataModule().load()[2].images[:7].float() / 255
    soft, who = teacher().query(images), teacher(2)
    answer = who.query(images)
    assert answer.shape == (7, 5)
    known = TopK.of(answer)
    torch.testing.assert_close(known.scores, soft.topk(2).values)
    assert torch.equal(known.classes, soft.topk(2).indices)
    torch.testing.assert_close(known.rest, soft.min(1).values)
    assert (who.access, who.identity["k"], who.paid.queries, who.paid.bytes_down) == ("topk", "2", 7, 7 * 4 * 5)
    with pytest.raises(ValueError, match="k: expected at least one class in an answer, got 0"):
        teacher(0)


def test_the_transfer_set_keeps_labels_scores_and_rest(tmp_path):
    made, soft = labelled(tmp_path, 2), labelled(tmp_path)
    for data in (made, soft):
        data.setup("fit")
    columns, whole = TransferSet(made.path).columns, TransferSet(soft.path).columns["answer"]
    assert {name: (column.dtype, column.shape[1:]) for name, column in columns.items() if name != "index"} == {
        "answer": (torch.float32, (2,)), "classes": (torch.int32, (2,)), "rest": (torch.float32, ()),
        "queries": (torch.int64, ()),
    }  # fmt: skip
    assert torch.equal(columns["answer"], whole.sort(1, descending=True).values[:, :2])
    assert torch.equal(columns["classes"].long(), whole.argsort(1, descending=True)[:, :2])
    assert torch.equal(columns["rest"], whole.sort(1, descending=True).values[:, 2])
    told = [TransferSet(data.path).manifest for data in (made, soft)]
    assert [one["access"] for one in told] == ["topk", "soft"]
    for name in ("class_histogram", "mean_top_probability", "queries"):
        assert told[0][name] == told[1][name]
    assert made.answered.answer.shape == (60, 5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", METHODS)
def test_all_classes_named_teach_the_student_of_soft_labels_to_the_bit(name, way, tmp_path):
    soft = weights(METHODS[name](), labelled(tmp_path), tmp_path)
    named = weights(METHODS[name](rest=way), labelled(tmp_path, 3), tmp_path)
    assert torch.equal(named, soft)
    fewer = weights(METHODS[name](rest=way), labelled(tmp_path, 1), tmp_path)
    assert fewer.isfinite().all()
    assert not torch.equal(fewer, soft)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ONLINE)
def test_so_they_do_where_the_teacher_is_asked_in_training(name, way, tmp_path):
    soft = weights(ONLINE[name](teacher()), ToyDataModule(), tmp_path)
    named = weights(ONLINE[name](teacher(3), rest=way), ToyDataModule(), tmp_path)
    assert torch.equal(named, soft)
    module = ONLINE[name](teacher(1), rest=way)
    assert weights(module, ToyDataModule(), tmp_path).isfinite().all()
    assert module.access == "topk"


def test_the_loss_of_top_1_is_that_of_two_bins(tmp_path):
    who = teacher(1)
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    module = KD(who, tiny().eval(), temperature=1.0)
    p, label = teacher().query(images).max(1)
    q = module.student(images).softmax(1).gather(1, label[:, None])[:, 0]
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    loss = module.losses(Batch(images, torch.arange(6)))["kd"]
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-5)


def test_the_target_of_dkd_is_what_the_teacher_names_whatever_the_student_makes_of_the_rest():
    module = DKD(tiny().eval(), temperature=1.0, alpha=1.0, beta=0.0)
    module.access, module.partial = "topk", True
    answer = TopK(torch.tensor([[0.4]]), torch.tensor([[2]]), torch.tensor([0.6])).rows()
    module.forward = lambda images: torch.tensor([[6.0, 0.0, 0.0]])  # nearly all of the rest becomes class 0's
    q = 1 / (2 + torch.e**6)
    term = module.losses(Batch(torch.zeros(1, 1, 8, 8), torch.zeros(1), answer=answer))["target"]
    expected = 0.4 * torch.tensor(0.4 / q).log() + 0.6 * torch.tensor(0.6 / (1 - q)).log()
    torch.testing.assert_close(term, expected, atol=1e-5, rtol=1e-5)


def selection(name, k, place):
    who, options = teacher(k), {"output": f"{place}/{name}-{k}", "student": tiny(), "epochs": 1}
    if name == "ActiveMixup":
        module = ActiveMixup(who, queries=70, rounds=2, candidates=40, **options)
    else:
        module = KnockoffSelection(who, queries=30, strategy="adaptive", num_groups=4, round_size=10, **options)
    trainer(place).predict(module, datamodule=ToyDataModule())
    return module.finished


@pytest.mark.parametrize("name", ["KnockoffSelection", "ActiveMixup"])
def test_selections_choose_by_all_named_classes_as_by_soft_labels(name, tmp_path):
    soft, named = selection(name, None, tmp_path), selection(name, 3, tmp_path)
    for column in soft.columns.keys() - {"answer"}:
        assert torch.equal(soft.column(column), named.column(column)), column
    assert torch.equal(soft.column("answer").sort(1, descending=True).values, named.column("answer"))
    fewer = selection(name, 1, tmp_path)
    assert fewer.column("answer").shape == (len(soft), 1)
    data = GeneratedDataModule(ToyDataModule(), path=str(fewer.path))
    assert weights(AnsweredKD(tiny(), optimizer=Adam), data, tmp_path).isfinite().all()


@pytest.mark.parametrize("information", ["top_probability", "class_index"])
def test_the_generators_information_term_needs_no_more_than_the_top_class(information, tmp_path):
    def trained(k):
        torch.manual_seed(0)
        critic = DCGANCritic(channels=1, image_size=8, width=4)
        module = MEKDGenerator(generator(), critic, teacher(k), information=information)
        trainer(tmp_path / str(k)).fit(module, datamodule=ToyDataModule())
        return torch.cat([parameter.detach().flatten() for parameter in module.generator.parameters()])

    assert torch.equal(trained(1), trained(None))


@pytest.mark.parametrize("name", ["AnsweredKD", "KD"])
def test_a_resumed_run_goes_on_with_the_running_prior(name, tmp_path):
    def run(epochs, ckpt_path=None):
        module = METHODS[name](rest="prior") if name in METHODS else ONLINE[name](teacher(1), rest="prior")
        torch.manual_seed(0)
        made = trainer(tmp_path / "runs", max_epochs=epochs, enable_checkpointing=True)
        made.fit(module, datamodule=data, ckpt_path=ckpt_path)
        made.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return module

    data = labelled(tmp_path, 1) if name in METHODS else ToyDataModule()
    whole, _ = run(2), run(1)
    resumed = run(2, tmp_path / "1.ckpt")
    assert torch.equal(resumed.spread.mass, whole.spread.mass)
    torch.testing.assert_close(whole.spread.mass.sum(), torch.tensor(121.0))  # 60 images twice, and the even one
    for one, other in zip(whole.student.parameters(), resumed.student.parameters(), strict=True):
        assert torch.equal(one, other)


def test_agreement_is_with_the_class_that_is_named_first(tmp_path):
    def measured(who):
        module = AnsweredKD(tiny())
        made = trainer(tmp_path, callbacks=[Agreement(who)])
        return made.test(module, datamodule=ToyDataModule(), verbose=False)[0]

    told, expected = measured(teacher(2)), measured(teacher())
    assert told == expected
    assert {"test/agreement", "test/teacher_accuracy"} <= told.keys()


def test_answers_that_are_held_out_are_compared_by_the_class_that_is_named_first(tmp_path):
    class Unlabelled(ToyDataModule):
        def load(self):
            train, val, _ = super().load()
            return train.withheld(), val, None

    place = str(tmp_path / "set")
    trainer(tmp_path).predict(TeacherAnswers(teacher(2), place), datamodule=Unlabelled(num_val=0))
    data = TransferSetDataModule(Unlabelled(num_val=0), place)
    module, callback = AnsweredKD(tiny()), Agreement()
    made = trainer(tmp_path, callbacks=[callback])
    made.fit(module, datamodule=data)
    share = made.test(module, datamodule=data, verbose=False)[0]["test/agreement"]
    images, rows = data.tested.images.float() / 255, data.tested.answer
    assert (len(images), data.tested_on) == (6, "held out")
    assert share == pytest.approx((module.eval()(images).argmax(1) == TopK.of(rows).top).float().mean().item())


def test_who_needs_labels_or_all_classes_says_so(tmp_path):
    why = "this method needs labels, and it answers the best classes with their scores: .* by a HardLabelTeacher"
    for make in (partial(DB3KDLabels, num_classes=3), ZSDB3KDImages):
        with pytest.raises(TypeError, match=f"expected a HardLabelTeacher, got a TopKTeacher: {why}"):
            make(teacher(2), str(tmp_path / "labels"))
    data = labelled(tmp_path, 2)
    for method in (AL, CAN, CDL):
        with pytest.raises(ValueError, match=f"{method.__name__} needs soft or hard answers, but .* are topk"):
            trainer(tmp_path).fit(method(tiny()), datamodule=data)
    with pytest.raises(ValueError, match=r"control=shuffled mixes all classes, but .* has the best ones only"):
        TransferSetDataModule(ToyDataModule(), data.path, control="shuffled").setup("fit")
