import copy
import multiprocessing

import pytest
import torch
from helpers import Linear, TinyNet

from kdlightning.accounting import QueryBudgetExceededError, QueryMeter
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher, WhiteBoxTeacher
from kdlightning.types import Answers


@pytest.fixture
def network():
    return Linear(torch.eye(4))


def test_hard_and_soft_answers_by_hand(network):
    x = torch.tensor([[0.1, 0.9, 0.2, 0.3], [1.0, 0.0, 0.0, 0.0]]).view(2, 1, 2, 2)
    assert HardLabelTeacher(network).query(x).tolist() == [1, 0]
    torch.testing.assert_close(SoftLabelTeacher(network).query(x), x.flatten(1).softmax(1))


def test_only_answers_come_out(network):
    teacher = SoftLabelTeacher(network)
    x = torch.rand(2, 1, 2, 2, requires_grad=True)
    answer = teacher.query(x)
    assert not answer.requires_grad
    assert not isinstance(teacher, torch.nn.Module)
    assert not callable(teacher)
    public = {name for name in dir(teacher) if not name.startswith("_")}
    assert public == {
        "access", "ahead", "any_size", "apart", "ask", "bounds", "budget", "class_names", "cost", "expect",
        "identity", "in_jobs", "interrupt", "load_state_dict", "num_classes", "odd_answers", "paid", "query",
        "read_otherwise", "rehearse", "remembers", "resume", "settle", "share", "shared", "size", "state_dict",
        "status", "terms", "waiting",
    }  # fmt: skip


def test_a_local_teacher_is_asked_apart_for_evaluation_and_one_elsewhere_is_not(network):
    class Elsewhere(SoftLabelTeacher):
        def _answer(self, images):
            return super()._answer(images)

    teacher = SoftLabelTeacher(network, budget=2)
    twin = teacher.apart()
    x = torch.rand(5, 1, 2, 2)
    assert torch.equal(twin.query(x), SoftLabelTeacher(network).query(x))
    assert (teacher.paid.queries, twin.paid.queries, twin.budget) == (0, 5, None)
    assert teacher.size == sum(one.numel() for one in network.parameters())
    assert Elsewhere(network).apart() is None


def test_every_image_and_byte_is_counted(network):
    soft, hard = SoftLabelTeacher(network), HardLabelTeacher(network)
    for teacher in (soft, hard):
        teacher.query(torch.rand(5, 1, 2, 2))
        teacher.query(torch.rand(3, 1, 2, 2))
    assert soft.paid == Answers(queries=8, bytes_up=8 * 16, bytes_down=8 * 16)
    assert hard.paid == Answers(queries=8, bytes_up=8 * 16, bytes_down=8 * 8)


def test_the_budget_stops_before_the_answer(network):
    teacher = HardLabelTeacher(network, budget=10)
    teacher.query(torch.rand(8, 1, 2, 2))
    with pytest.raises(QueryBudgetExceededError, match="8 queries have been spent and 3 more"):
        teacher.query(torch.rand(3, 1, 2, 2))
    assert teacher.paid.queries == 8
    teacher.query(torch.rand(2, 1, 2, 2))
    assert teacher.paid.queries == 10


@pytest.mark.parametrize("kind", [SoftLabelTeacher, HardLabelTeacher])
def test_the_classes_are_known_from_the_network_or_from_the_first_answer(kind):
    class Undeclared(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1) @ torch.eye(4)[:, :3]

    declared, teacher = kind(Linear(torch.eye(4))), kind(Undeclared())
    assert declared.num_classes == 4
    assert teacher.num_classes is None
    size = 3 * 4 if kind is SoftLabelTeacher else 8
    teacher.query(torch.rand(5, 1, 2, 2))
    assert teacher.num_classes == 3
    assert teacher.paid == Answers(queries=5, bytes_up=5 * 16, bytes_down=5 * size)
    teacher.query(torch.rand(2, 1, 2, 2))
    assert teacher.paid == Answers(queries=7, bytes_up=7 * 16, bytes_down=7 * size)


def test_bytes_of_an_undeclared_network_fit_a_budget_that_is_just_enough():
    network = torch.nn.Flatten()
    teacher = SoftLabelTeacher(network, budget=2)
    teacher.query(torch.rand(2, 1, 2, 2))
    assert teacher.paid == Answers(2, 32, 32)
    with pytest.raises(QueryBudgetExceededError):
        teacher.query(torch.rand(1, 1, 2, 2))


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (torch.full((1, 1, 2, 2), 1.5), r"pixels in \[0, 1\], got \[1.5, 1.5\]"),
        (torch.full((1, 1, 2, 2), float("nan")), "expected pixels"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), "float pixels"),
        (torch.zeros(1, 2, 2), "float pixels"),
        (torch.zeros(0, 1, 2, 2), "at least one image"),
    ],
)
def test_bad_pixels_are_refused_unpaid(network, x, text):
    teacher = HardLabelTeacher(network)
    with pytest.raises(ValueError, match=text):
        teacher.query(x)
    assert teacher.paid.queries == 0


def test_the_count_survives_a_checkpoint_and_never_falls(network):
    teacher = HardLabelTeacher(network)
    teacher.query(torch.rand(6, 1, 2, 2))
    again = HardLabelTeacher(network, budget=3)
    again.load_state_dict(teacher.state_dict())
    assert again.paid == teacher.paid
    again.load_state_dict({"queries": 1, "bytes_up": 1, "bytes_down": 1})
    assert again.paid == teacher.paid
    assert again.budget == 3


def _spend(path, times, queue):
    meter = QueryMeter(budget=500)
    meter.share(path)
    spent = 0
    try:
        for _ in range(times):
            meter.charge(1, 2, 3)
            spent += 1
    except QueryBudgetExceededError:
        pass
    queue.put(spent)


def _remember(path, barrier, queue):
    meter = QueryMeter(budget=10)
    meter.share(path)
    barrier.wait()
    for number in range(200):
        meter.raise_to(Answers(number, number, 2 * number))
    queue.put(meter.total.queries)


def test_processes_that_remember_the_same_cost_count_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    queue, barrier = context.Queue(), context.Barrier(3)
    processes = [context.Process(target=_remember, args=(tmp_path / "meter", barrier, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [199] * 3  # above the budget: it was paid already
    for process in processes:
        process.join()
    meter = QueryMeter()
    meter.share(tmp_path / "meter")
    assert meter.total == Answers(199, 199, 398)


def test_processes_share_one_budget(tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_spend, args=(tmp_path / "meter", 300, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    spent = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    meter = QueryMeter()
    meter.share(tmp_path / "meter")
    assert sum(spent) == 500
    assert meter.total == Answers(500, 1000, 1500)


def test_a_shared_count_goes_on_in_a_new_process(tmp_path):
    first = QueryMeter()
    first.charge(7)
    first.share(tmp_path / "meter")
    first.charge(1)
    second = QueryMeter(budget=9)
    second.share(tmp_path / "meter")
    assert second.total.queries == 8
    with pytest.raises(QueryBudgetExceededError):
        second.charge(2)


def test_white_box_is_frozen_in_eval_but_lets_gradients_through():
    teacher = WhiteBoxTeacher(TinyNet())
    torch.nn.Sequential(teacher).train()
    before = copy.deepcopy(teacher.network.state_dict())
    x = torch.rand(4, 1, 8, 8, requires_grad=True)
    teacher(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.network.state_dict().items())
    with pytest.raises(TypeError, match="TinyNet has no forward_features"):
        teacher.forward_features(x)


def test_identity_tells_networks_apart():
    one, other = HardLabelTeacher(Linear(torch.eye(4))), HardLabelTeacher(Linear(2 * torch.eye(4)))
    assert one.identity["fingerprint"] != other.identity["fingerprint"]
    assert one.identity["access"] == "hard"
    assert one.identity["name"] == "Linear"
