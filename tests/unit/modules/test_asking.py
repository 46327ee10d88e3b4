import copy

import pytest
import torch
from helpers import Linear, TinyNet, ToyDataModule, rehearsed, trainer

from kdlightning.accounting import QueryBudgetExceededError
from kdlightning.data import GeneratedDataModule, NoiseDataModule, TransferSet, TransferSetDataModule, TransferSetWriter
from kdlightning.data.transferset import read_shard
from kdlightning.methods import TeacherAnswers
from kdlightning.networks import DCGANGenerator, save_network
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher
from kdlightning.types import Answers

PIXELS = 64 * 4  # bytes of one image


class Counted(torch.nn.Module):
    """Keeps every image that really reaches the network."""

    def __init__(self, classes=3):
        super().__init__()
        torch.manual_seed(1)
        self.inner, self.num_classes, self.seen = Linear(torch.randn(classes, 64) / 8), classes, []

    def forward(self, x):
        if not rehearsed(x):
            self.seen.append(x.clone())
        return self.inner(x)

    @property
    def asked(self):
        return sum(len(part) for part in self.seen)

    def images(self):
        return torch.cat(self.seen)


def noise(size=40, eval_batch_size=16):
    return NoiseDataModule(ToyDataModule(eval_batch_size=eval_batch_size), size)


def ask(tmp_path, net, data=None, budget=None, kind=SoftLabelTeacher, at_budget="error"):
    module = TeacherAnswers(kind(net, budget), str(tmp_path / "set"), at_budget)
    trainer(tmp_path).predict(module, datamodule=data or noise(), return_predictions=False)
    return TransferSet(tmp_path / "set")


def exact(made, net, size):
    """Every image of a pool was asked once, answered right, and stored as it was asked."""
    assert made.column("index").tolist() == list(range(size))
    assert net.asked == size
    stored = made.column("image").float() / 255
    order = net.images().flatten(1).sum(1).argsort()
    mine = stored.flatten(1).sum(1).argsort()
    assert torch.equal(net.images()[order], stored[mine])
    torch.testing.assert_close(made.column("answer"), net.inner(stored).softmax(1))
    assert not list(made.path.glob("journal-*"))


def test_soft_answers_of_a_pool(tmp_path):
    net = Counted()
    made = ask(tmp_path, net)
    assert [len(part) for part in net.seen] == [16, 16, 8]
    exact(made, net, 40)
    assert torch.equal(net.images(), made.column("image").float() / 255)  # bit for bit, in order
    assert made.column("image").dtype == torch.uint8
    assert (made.column("queries") == 1).all()
    assert made.column("answer").dtype == torch.float32
    facts = made.manifest
    assert facts["method"] == "TeacherAnswers"
    assert facts["access"] == "soft"
    assert (facts["queries"], facts["queries_paid"], facts["queries_before"]) == (40, 40, 0)
    assert (facts["bytes_up"], facts["bytes_down"]) == (40 * PIXELS, 40 * 12)
    top = made.column("answer").amax(1)
    assert facts["mean_top_probability"] == pytest.approx(float(top.mean()), abs=1e-4)
    assert facts["class_histogram"] == torch.bincount(made.column("answer").argmax(1), minlength=3).tolist()
    assert facts["num_classes"] == 3
    assert not facts["stopped_by_budget"]


def test_hard_answers_of_real_images_keep_no_images(tmp_path):
    net, source = Counted(), ToyDataModule()
    made = ask(tmp_path, net, source, kind=HardLabelTeacher)
    assert set(made.columns) == {"index", "answer", "queries"}
    assert torch.equal(made.column("index"), source.train_set.index.sort().values)
    images = {int(index): image for index, image in zip(source.train_set.index, source.train_set.images, strict=True)}
    stacked = torch.stack([images[int(index)] for index in made.column("index")]).float() / 255
    assert torch.equal(made.column("answer"), net.inner(stacked).argmax(1))
    assert made.column("answer").dtype == torch.int64
    assert net.asked == 60
    assert made.manifest["bytes_down"] == 60 * 8
    assert made.manifest["mean_top_probability"] is None
    data = TransferSetDataModule(ToyDataModule(), str(tmp_path / "set"))
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.answer.argmax(1), net.inner(batch.image.float() / 255).argmax(1))
    assert (batch.answer.sum(1) == 1).all()


@pytest.fixture
def generator(tmp_path):
    """A generator whose training has asked 7 images."""
    torch.manual_seed(0)
    told = {"queries": 7, "bytes_up": 7 * PIXELS, "bytes_down": 7 * 12}
    save_network(DCGANGenerator(3, 1, 8, width=4), tmp_path / "generator", notes=told)
    return str(tmp_path / "generator")


def test_the_cost_of_phase_1_counts(tmp_path, generator):
    net = Counted()
    data = GeneratedDataModule(ToyDataModule(), generator, size=40)
    made = ask(tmp_path, net, data, budget=47)
    exact(made, net, 40)
    facts = made.manifest
    assert (facts["queries"], facts["queries_paid"], facts["queries_before"]) == (47, 47, 7)
    assert (facts["bytes_up"], facts["bytes_down"]) == (47 * PIXELS, 47 * 12)


def test_phase_1_leaves_less_of_the_budget_and_is_not_counted_again_on_resume(tmp_path, generator):
    net = Counted()

    def data():
        return GeneratedDataModule(ToyDataModule(), generator, size=40)

    with pytest.raises(QueryBudgetExceededError, match=r"budget of 30 queries is spent; 23 of 40 images"):
        ask(tmp_path, net, data(), budget=30)
    assert net.asked == 23
    made = ask(tmp_path, net, data(), budget=47)
    exact(made, net, 40)
    assert made.manifest["queries_paid"] == 47


@pytest.mark.parametrize("budget", [1, 16, 21, 39])
def test_a_budget_stops_at_exactly_itself_and_a_larger_one_goes_on(tmp_path, budget):
    net = Counted()
    with pytest.raises(QueryBudgetExceededError, match=f"the budget of {budget} queries is spent; {budget} of 40"):
        ask(tmp_path, net, budget=budget)
    assert net.asked == budget
    kept = [read_shard(shard)["index"] for shard in (tmp_path / "set").glob("shard-*")]
    assert torch.cat(kept).sort().values.tolist() == list(range(budget))
    with pytest.raises(RuntimeError, match="is not finished"):
        TransferSet(tmp_path / "set")
    with pytest.raises(QueryBudgetExceededError):  # the same command again costs nothing
        ask(tmp_path, net, budget=budget)
    assert net.asked == budget
    made = ask(tmp_path, net, budget=40)
    exact(made, net, 40)
    assert made.manifest["queries"] == made.manifest["queries_paid"] == 40
    assert not made.manifest["stopped_by_budget"]


@pytest.mark.parametrize("budget", [16, 21])
def test_a_set_can_be_finished_with_what_the_budget_allowed(tmp_path, budget):
    net = Counted()
    made = ask(tmp_path, net, budget=budget, at_budget="finish")
    exact(made, net, budget)
    assert len(made) == made.manifest["rows"] == made.manifest["queries"] == budget
    assert made.manifest["stopped_by_budget"]
    data = NoiseDataModule(ToyDataModule(), path=str(tmp_path / "set"))
    data.setup("fit")
    assert len(data.train_set) == budget


def test_a_set_that_a_budget_stopped_can_be_finished_afterwards(tmp_path):
    net = Counted()
    with pytest.raises(QueryBudgetExceededError):
        ask(tmp_path, net, budget=21)
    exact(ask(tmp_path, net, budget=21, at_budget="finish"), net, 21)


def test_a_larger_budget_goes_on_with_a_set_that_was_finished_at_its_budget(tmp_path):
    net = Counted()
    ask(tmp_path, net, budget=16, at_budget="finish")
    exact(ask(tmp_path, net, budget=16, at_budget="finish"), net, 16)  # the same command asks nothing
    exact(ask(tmp_path, net, budget=21, at_budget="finish"), net, 21)
    made = ask(tmp_path, net, budget=50, at_budget="finish")
    exact(made, net, 40)
    assert (made.manifest["queries"], made.manifest["stopped_by_budget"]) == (40, False)
    with pytest.raises(FileExistsError, match="nothing left to ask"):
        ask(tmp_path, net, budget=60, at_budget="finish")


def test_a_budget_that_is_just_enough_is_not_a_stop(tmp_path):
    for at_budget in ("error", "finish"):
        net = Counted()
        made = ask(tmp_path / at_budget, net, budget=40, at_budget=at_budget)
        exact(made, net, 40)
        assert not made.manifest["stopped_by_budget"]


def test_a_budget_of_nothing_makes_no_set(tmp_path):
    net = Counted()
    with pytest.raises(RuntimeError, match="has no row yet: raise the teacher's budget"):
        ask(tmp_path, net, budget=0, at_budget="finish")
    exact(ask(tmp_path, net), net, 40)


@pytest.fixture
def killed(monkeypatch):
    """Kills the n-th writing of a shard: its answers are journalled, and nothing else."""

    def arm(number):
        writings, write = [], TransferSetWriter.write

        def dying(self, rows):
            writings.append(len(rows["index"]))
            if len(writings) == number:
                raise KeyboardInterrupt("killed")
            return write(self, rows)

        monkeypatch.setattr(TransferSetWriter, "write", dying)

    return arm


def interrupted(*args, **options):
    """Lightning turns a KeyboardInterrupt into an exit, or leaves it."""
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        ask(*args, **options)


@pytest.mark.parametrize("kind", [SoftLabelTeacher, HardLabelTeacher])
def test_a_kill_after_the_answer_asks_nothing_twice(tmp_path, killed, kind):
    net = Counted()
    killed(2)
    interrupted(tmp_path, net, kind=kind)
    assert net.asked == 32
    assert len(list((tmp_path / "set").glob("journal-*"))) == 1
    made = ask(tmp_path, net, kind=kind)
    assert net.asked == made.manifest["queries"] == made.manifest["queries_paid"] == 40
    assert torch.equal(made.column("index"), torch.arange(40))
    logits = net.inner(made.column("image").float() / 255)
    expected = logits.softmax(1) if kind is SoftLabelTeacher else logits.argmax(1)
    torch.testing.assert_close(made.column("answer"), expected)
    assert not list(made.path.glob("journal-*"))


@pytest.mark.parametrize("again", [21, 30, 40, None])
def test_a_kill_in_a_batch_that_the_budget_had_cut(tmp_path, killed, again, recwarn):
    net = Counted()
    killed(2)
    interrupted(tmp_path, net, budget=21)
    assert net.asked == 21
    if again is not None and again < 40:
        with pytest.raises(QueryBudgetExceededError, match=f"{again} of 40 images are answered"):
            ask(tmp_path, net, budget=again)
        assert net.asked == again
    made = ask(tmp_path, net, budget=again if again is None else 40)
    exact(made, net, 40)
    assert made.manifest["queries_paid"] == 40
    assert not [warning for warning in recwarn if "asked anew" in str(warning.message)]


def test_a_kill_at_the_last_of_the_budget_can_still_be_finished(tmp_path, killed):
    net = Counted()
    killed(1)
    interrupted(tmp_path, net, budget=10, at_budget="finish")
    made = ask(tmp_path, net, budget=10, at_budget="finish")
    exact(made, net, 10)


def test_another_process_that_was_faster_costs_no_answer(tmp_path, monkeypatch):
    """Two processes share a budget: between looking and asking, the other one asks 10."""
    net = Counted()
    teacher = SoftLabelTeacher(net, budget=30)
    module = TeacherAnswers(teacher, str(tmp_path / "set"), "finish")
    ask, calls = teacher.ask, []

    def hurried(images):
        calls.append(len(images))
        if len(calls) == 2:
            teacher._meter.charge(10)
        return ask(images)

    monkeypatch.setattr(teacher, "ask", hurried)
    trainer(tmp_path).predict(module, datamodule=noise(), return_predictions=False)
    assert calls == [16, 14, 4]
    exact(TransferSet(tmp_path / "set"), net, 20)
    assert teacher.paid.queries == 30


def test_a_teacher_of_another_number_of_classes_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="the teacher has 4 classes, but the data set toy has 3"):
        ask(tmp_path, Counted(4))
    assert not (tmp_path / "set").exists()
    net = Counted(4)
    net.num_classes = 0  # not declared: found out before the first question
    with pytest.raises(ValueError, match="the teacher has 4 classes, but the data set toy has 3"):
        ask(tmp_path, net)
    assert net.asked == 0


def test_another_pool_or_teacher_does_not_go_on_with_a_set(tmp_path):
    with pytest.raises(QueryBudgetExceededError):
        ask(tmp_path, Counted(), budget=8)
    with pytest.raises(FileExistsError, match=r"\(source.length 40, now 41; source.num_samples 40, now 41\)"):
        ask(tmp_path, Counted(), noise(41))
    with pytest.raises(
        FileExistsError,
        match=r"\(teacher.fingerprint .*, now .*; teacher.name Counted, now TinyNet\)",
    ):
        ask(tmp_path, TinyNet())


def test_the_generator_is_asked_as_it_is_and_stays_so(tmp_path):
    torch.manual_seed(0)
    made = DCGANGenerator(3, 1, 8, width=4)
    before = copy.deepcopy(made.state_dict())
    net = Counted()
    data = GeneratedDataModule(ToyDataModule(), made, size=24)
    exact(ask(tmp_path, net, data), net, 24)
    assert all(torch.equal(before[name], value) for name, value in made.state_dict().items())
    assert data.paid == Answers(0, 0, 0)


def test_a_teacher_that_numbers_classes_otherwise_is_refused_or_said(tmp_path, caplog):
    data = ToyDataModule(num_val=0)
    data.setup()
    images, labels = data.train_set.images.flatten(1).float() / 255, data.train_set.labels
    net = Linear(torch.stack([images[labels == k].mean(0) - images.mean(0) for k in (1, 2, 0)]))  # class k as k - 1
    ask(tmp_path, net, data)
    said = "the teacher names the class of 0.0% of 60 labelled images of toy rightly, as a guess would"
    assert sum(said in record.getMessage() for record in caplog.records) == 1
    data.class_names, net.class_names = ["left", "middle", "right"], ["middle", "right", "left"]
    for kind in (SoftLabelTeacher, HardLabelTeacher):
        with pytest.raises(
            ValueError, match=r"3 of the 3 classes of toy have another number .*: left is 0 here and 2 there"
        ):
            ask(tmp_path / "named", net, data, kind=kind)
