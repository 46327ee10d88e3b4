"""What a run will cost is told before the first question, and is what it costs; too small a budget is refused."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from helpers import Linear, TinyNet, ToyDataModule, trainer
from servers import answering, serving

from kdlightning.__main__ import main
from kdlightning.accounting import Budget, QueryBudgetExceededError
from kdlightning.accounting.accounts import Limits
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.accounting.terms import Prices, Terms
from kdlightning.commands.costs import Forecast, batches_done, foresee
from kdlightning.data import DigitsDataModule, GeneratedDataModule, NoiseDataModule, TransferSet
from kdlightning.functional.boundary import boundary_distance, most_boundary_queries, nearest_candidates
from kdlightning.methods import (
    DFND,
    KD,
    DB3KDLabels,
    KnockoffSelection,
    MEKDGenerator,
    Supervised,
    TeacherAnswers,
    ZSDB3KDImages,
)
from kdlightning.methods.baselines import ActiveMixup
from kdlightning.networks import LeNet5Fifth, load_network, save_network
from kdlightning.networks.gan import DCGANCritic, TransposedGenerator
from kdlightning.remote import RemoteSoftLabelTeacher
from kdlightning.serving import ServedModel
from kdlightning.teachers import HardLabelTeacher, SoftLabelTeacher
from kdlightning.types import Estimate


def thirds():
    weight = torch.zeros(3, 8, 8)
    for k in range(3):
        weight[k, :, 3 * k : 3 * k + 2] = 1.0
    return Linear(weight.flatten(1))


def foreseen(tmp_path, module, data, monkeypatch, done=0, **options):
    """An estimate by which nothing is asked and nothing written."""
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    with monkeypatch.context() as patch:
        patch.setattr(type(module.teacher), "query", lambda teacher, images: pytest.fail("asked"))
        forecast = foresee(trainer(tmp_path, **options), module, data, done)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == before
    return forecast


@pytest.mark.parametrize(
    "options", [{}, {"max_epochs": 3, "limit_train_batches": 2}, {"max_epochs": -1, "max_steps": 6}]
)
@pytest.mark.parametrize("once", [False, True])
def test_kd_is_exact(tmp_path, monkeypatch, options, once):
    options = {"max_epochs": 2, **options}
    module = KD(SoftLabelTeacher(thirds()), TinyNet(), query_once=once)
    estimate = foreseen(tmp_path, module, ToyDataModule(), monkeypatch, **options).estimate
    trainer(tmp_path, **options).fit(module, datamodule=ToyDataModule())
    paid = module.teacher.paid.queries
    assert paid == estimate.most if not once or "limit_train_batches" not in options else paid <= estimate.most
    assert paid >= estimate.least
    assert estimate.exact or options.get("limit_train_batches") == 2


def test_dfnd_is_exact(tmp_path, monkeypatch):
    module = DFND(SoftLabelTeacher(thirds()), TinyNet(), share=0.3)
    estimate = foreseen(tmp_path, module, ToyDataModule(), monkeypatch, max_epochs=2).estimate
    trainer(tmp_path, max_epochs=2).fit(module, datamodule=ToyDataModule())
    assert module.teacher.paid.queries == estimate.least == estimate.most == 60 + 2 * 18


def labelled(tmp_path, make, data, monkeypatch):
    forecast = foreseen(tmp_path, make(), data(), monkeypatch)
    module = make()
    trainer(tmp_path).predict(module, datamodule=data(), return_predictions=False)
    asked = TransferSet(module.output).manifest["queries"]
    assert asked == module.teacher.paid.queries
    assert foreseen(tmp_path, make(), data(), monkeypatch).estimate == Estimate(asked, asked, asked)
    return forecast.estimate, asked


@pytest.mark.parametrize("candidates", [None, 20])
def test_sd_is_exact(tmp_path, monkeypatch, candidates):
    settings = {"num_classes": 3, "robustness": "sd", "candidate_pool": candidates}
    out = str(tmp_path / "set")
    estimate, asked = labelled(
        tmp_path, lambda: DB3KDLabels(HardLabelTeacher(thirds()), out, **settings), ToyDataModule, monkeypatch
    )
    assert estimate == Estimate(asked, asked) == Estimate(60, 60)


@pytest.mark.parametrize("kind", ["answers", "noise", "knockoff", "mixup", "finish"])
def test_answers_and_selections_are_exact(tmp_path, monkeypatch, kind):
    out, teacher = str(tmp_path / "set"), SoftLabelTeacher(thirds(), budget=17 if kind == "finish" else None)
    made = {
        "answers": lambda: TeacherAnswers(teacher, out),
        "noise": lambda: TeacherAnswers(teacher, out),
        "finish": lambda: TeacherAnswers(teacher, out, at_budget="finish"),
        "knockoff": lambda: KnockoffSelection(teacher, out, queries=25),
        "mixup": lambda: ActiveMixup(teacher, out, queries=70, student=TinyNet(), epochs=1, rounds=2),
    }
    data = (lambda: NoiseDataModule(ToyDataModule(), size=23)) if kind == "noise" else ToyDataModule
    estimate, asked = labelled(tmp_path, made[kind], data, monkeypatch)
    assert estimate == Estimate(asked, asked)
    assert asked == {"answers": 60, "noise": 23, "knockoff": 25, "mixup": 70, "finish": 17}[kind]


@pytest.mark.parametrize("robustness", ["bd", "mbd"])
def test_bounds_of_db3kd_hold(tmp_path, monkeypatch, robustness):
    settings = {"num_classes": 3, "robustness": robustness, "candidates": 5, "num_probes": 10, "query_limit": 150}
    estimate, asked = labelled(
        tmp_path,
        lambda: DB3KDLabels(HardLabelTeacher(thirds()), str(tmp_path / "set"), **settings),
        lambda: ToyDataModule(number=24),
        monkeypatch,
    )
    assert estimate.least == 24 < asked <= estimate.most
    assert estimate.most == 24 + 24 * 2 * (150 if robustness == "mbd" else most_boundary_queries(5, 64))


@pytest.mark.parametrize("tolerance", [1e-5, 1e-2])
@pytest.mark.parametrize("number", [1, 5, 40])
def test_the_bound_of_a_boundary_search_holds_for_every_pair(tolerance, number):
    """Candidates from far to near, so that each of them wins and costs a search."""
    torch.manual_seed(number)
    pool, images = torch.rand(200, 1, 4, 4), torch.rand(30, 1, 4, 4)
    net = Linear(torch.randn(2, 16))
    own = net(pool).argmax(1)
    target = 1 - net(images).argmax(1)
    index = nearest_candidates(images, pool, own, target, number).flip(1)
    index = index[:, index.amin(0) >= 0]
    found = boundary_distance(lambda x: net(x).argmax(1), images, target, pool, index, tolerance=tolerance)
    assert int(found.queries.max()) <= most_boundary_queries(index.shape[1], 16, tolerance)


@pytest.mark.parametrize("options", [{}, {"query_limit": 120, "search": "warm"}])
def test_the_bound_of_zsdb3kd_holds(tmp_path, monkeypatch, options):
    settings = {"iterations": 2, "num_probes": 10, "directions": 2, "pool": 60, "tries": 1} | options
    estimate, asked = labelled(
        tmp_path,
        lambda: ZSDB3KDImages(HardLabelTeacher(thirds()), str(tmp_path / "set"), **settings),
        lambda: NoiseDataModule(ToyDataModule(), size=9),
        monkeypatch,
    )
    assert estimate.least == 60 < asked <= estimate.most


def generator(teacher, **options):
    return MEKDGenerator(
        TransposedGenerator(3, 1, 8, width=4), DCGANCritic(1, 8, width=2), teacher, critic_steps=2, **options
    )


@pytest.mark.parametrize("queries", [None, 31])
def test_both_phases_of_mekd_are_exact(tmp_path, monkeypatch, queries):
    module = generator(SoftLabelTeacher(thirds()), queries=queries)
    estimate = foreseen(tmp_path, module, ToyDataModule(), monkeypatch, max_epochs=3).estimate
    trainer(tmp_path, max_epochs=3).fit(module, datamodule=ToyDataModule())
    asked = module.teacher.paid.queries
    assert estimate == Estimate(asked, asked)
    assert asked == (queries or asked)
    save_network(module.generator, tmp_path / "generator", notes=module.paid._asdict())
    pool = GeneratedDataModule(ToyDataModule(), str(tmp_path / "generator"), size=40)
    second = TeacherAnswers(SoftLabelTeacher(thirds(), budget=asked + 39), str(tmp_path / "set"))
    forecast = foreseen(tmp_path, second, pool, monkeypatch)
    assert forecast.estimate == Estimate(40, 40)
    assert forecast.objections() == ([f"40 queries, but the budget is {asked + 39}, of which {asked} are spent"], [])
    trainer(tmp_path).predict(generous := TeacherAnswers(SoftLabelTeacher(thirds()), str(tmp_path / "set")), pool)
    assert TransferSet(generous.output).manifest["queries"] == asked + 40


def test_what_a_stopped_generator_has_paid_is_kept(tmp_path, monkeypatch):
    short = generator(SoftLabelTeacher(thirds(), budget=20), queries=31)
    with pytest.raises(QueryBudgetExceededError):
        trainer(tmp_path, max_epochs=3).fit(short, datamodule=ToyDataModule())
    again = generator(SoftLabelTeacher(thirds(), budget=31), queries=31)
    forecast = foreseen(tmp_path, again, ToyDataModule(), monkeypatch, max_epochs=3)
    paid = short.teacher.paid.queries
    assert forecast.estimate == Estimate(31, 31, paid)
    assert forecast.terms.spent.queries == paid
    assert forecast.objections() == ([], [])


def test_a_stopped_set_is_not_paid_again(tmp_path, monkeypatch):
    def module(budget):
        settings = {"num_classes": 3, "candidates": 5}
        return DB3KDLabels(HardLabelTeacher(thirds(), budget), str(tmp_path / "set"), **settings)

    first = foreseen(tmp_path, module(None), ToyDataModule(), monkeypatch).estimate
    stopped = module(1500)
    with pytest.raises(QueryBudgetExceededError):
        trainer(tmp_path).predict(stopped, datamodule=ToyDataModule(), return_predictions=False)
    forecast = foreseen(tmp_path, module(5000), ToyDataModule(), monkeypatch)
    assert forecast.estimate.kept == stopped.teacher.paid.queries == forecast.terms.spent.queries
    assert forecast.estimate.most < first.most
    last = module(None)
    trainer(tmp_path).predict(last, datamodule=ToyDataModule(), return_predictions=False)
    assert last.teacher.paid.queries <= forecast.estimate.most


def test_a_run_without_end_or_an_unknown_method_is_not_guessed(tmp_path):
    class Own(Supervised):
        teacher = SoftLabelTeacher(thirds())

    with pytest.raises(ValueError, match="nobody knows how long"):
        foresee(trainer(tmp_path, max_epochs=-1), KD(SoftLabelTeacher(thirds()), TinyNet()), ToyDataModule())
    with pytest.raises(ValueError, match="Own does not say how many images it asks"):
        foresee(trainer(tmp_path), Own(TinyNet()), ToyDataModule())
    assert foresee(trainer(tmp_path), Supervised(TinyNet()), ToyDataModule()) is None


@pytest.fixture
def network(tmp_path):
    torch.manual_seed(0)
    return str(save_network(LeNet5Fifth(image_size=16), tmp_path / "teacher"))


DATA = {
    "class_path": "DigitsDataModule",
    "init_args": {"num_samples": 40, "num_val": 20, "batch_size": 16, "image_size": 16},
}
QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False, "enable_model_summary": False}


def write(name, teacher, model="TeacherAnswers", **trainer_options):
    arguments = {"teacher": teacher}
    if model == "TeacherAnswers":
        arguments["output"] = "set"
    else:
        arguments |= {"student": {"class_path": "LeNet5Fifth", "init_args": {"image_size": 16}}}
    config = {"model": {"class_path": model, "init_args": arguments}, "data": DATA}
    config["trainer"] = {**QUIET, **trainer_options}
    Path(name).write_text(yaml.safe_dump(config))


def stopped(*arguments):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def local(network, budget=None):
    return {"class_path": "SoftLabelTeacher", "init_args": {"network": network, "budget": budget}}


def words(capsys):
    return " ".join(capsys.readouterr().out.split())


def test_estimate_refusal_override_stop_and_resume_of_a_fit(tmp_path, network, capsys):
    write("fit.yaml", local(network, 100), "KD", max_epochs=3, default_root_dir="run")
    assert main(["estimate", "--config", "fit.yaml", "--rate", "10"]) == 0
    told = words(capsys)
    assert "fit: KD queries 120 bytes up 122,880 bytes down 4,800" in told
    assert "time at 10 images/s 12.0 s budget of queries 100, 0 spent refused: needs 120 queries" in told
    assert not (tmp_path / "run").exists()
    stopped("fit", "--config", "fit.yaml")
    assert "KD needs 120 queries, but the budget is 100. Raise the budget" in capsys.readouterr().err
    assert not (tmp_path / "run/queries.meter").exists()

    stopped("fit", "--config", "fit.yaml", "--over_budget", "allow")
    error = capsys.readouterr().err
    assert "kdlightning: stopped: 96 queries have been spent and 16 more were asked for" in error
    assert "--ckpt_path run/checkpoints/last.ckpt" in error
    assert "Traceback" not in error
    assert torch.load("run/checkpoints/stopped.ckpt", weights_only=True)["global_step"] == 7
    last = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert (last["global_step"], batches_done(last)) == (6, 6)
    assert not (tmp_path / "run/result.json").exists()

    resume = ["--ckpt_path", "run/checkpoints/last.ckpt"]
    write("fit.yaml", local(network, 120), "KD", max_epochs=3, default_root_dir="run")
    main(["estimate", "--config", "fit.yaml", *resume])
    assert "queries 120 answered already 96 to ask 24" in words(capsys)
    assert main(["fit", "--config", "fit.yaml", *resume]) == 0
    assert json.loads((tmp_path / "run/result.json").read_text())["queries"] == 120
    assert load_network("run/network").num_classes == 10


def test_estimate_refusal_and_resume_of_a_predict(tmp_path, network, capsys):
    write("predict.yaml", local(network, 25))
    assert main(["estimate", "--config", "predict.yaml"]) == 0
    assert "predict: TeacherAnswers queries 40" in words(capsys)
    stopped("predict", "--config", "predict.yaml")
    assert "TeacherAnswers needs 40 queries, but the budget is 25" in capsys.readouterr().err
    stopped("predict", "--config", "predict.yaml", "--over_budget", "allow")
    assert "25 of 40 images are answered and kept" in capsys.readouterr().err
    stopped("predict", "--config", "predict.yaml")
    assert "needs 15 queries, but the budget is 25, of which 25 are spent" in capsys.readouterr().err
    write("predict.yaml", local(network, 40))
    assert main(["predict", "--config", "predict.yaml"]) == 0
    assert TransferSet("set").manifest["queries"] == 40


def test_a_bound_only_warns(tmp_path, network, capsys):
    write("labels.yaml", {**local(network, 5000), "class_path": "HardLabelTeacher"})
    config = yaml.safe_load((tmp_path / "labels.yaml").read_text())
    config["model"]["class_path"] = "DB3KDLabels"
    config["model"]["init_args"] |= {"num_classes": 10, "candidates": 2, "tolerance": 0.1}
    (tmp_path / "labels.yaml").write_text(yaml.safe_dump(config))
    assert main(["predict", "--config", "labels.yaml"]) == 0
    assert "DB3KDLabels may need at most" in capsys.readouterr().err
    assert TransferSet("set").manifest["queries"] <= 5000


def test_a_recipe_is_summed_before_its_teacher_is_trained(tmp_path, capsys):
    recipe = {
        "output": "out",
        "stages": [
            {"name": "teacher", "command": "fit", "config": {
                "model": {"class_path": "Supervised", "init_args": {"student": "LeNet5Fifth"}}, "data": DATA}},
            {"name": "answers", "command": "predict", "config": {
                "model": {"class_path": "TeacherAnswers", "init_args": {"teacher": local("out/teacher/network")}},
                "data": DATA, "trainer": QUIET}},
        ],
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["estimate", "recipe.yaml"]) == 0
    told = words(capsys)
    assert "teacher: asks no black box answers: TeacherAnswers queries 40" in told
    assert "the teacher is not there: there is no saved network at out/teacher/network" in told
    assert "all: to pay 40 images, price 0" in told
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_extends_another_is_summed_as_it_runs(tmp_path, capsys):
    answers = {
        "model": {"class_path": "TeacherAnswers", "init_args": {"teacher": local("out/teacher/network")}},
        "data": DATA, "trainer": QUIET,
    }  # fmt: skip
    base = {
        "output": "out", "variables": {"asked": answers, "sets": ["a"]},
        "stages": [{"name": "{set}", "command": "predict", "matrix": {"set": "{sets}"}, "config": "{asked}"}],
    }  # fmt: skip
    more = {"name": "more", "command": "predict", "config": "{asked}"}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"extends": "base.yaml", "stages": [more]}))
    assert main(["estimate", "recipe.yaml", "--set", "sets=[a, b]"]) == 0
    told = words(capsys)
    assert "b: TeacherAnswers queries 40" in told
    assert "more: TeacherAnswers queries 40" in told
    assert "all: to pay 120 images, price 0" in told


def remote(url, **options):
    settings = {"url": url, "model": "toy", "outputs": "probabilities", "max_batch": 8, "concurrency": 1, **options}
    return {"class_path": "RemoteSoftLabelTeacher", "init_args": {**settings, "patience": {"attempts": 1}}}


@pytest.fixture
def server(network):
    model = ServedModel(load_network(network), "toy", "soft", shape=(1, 16, 16))
    with serving(model) as url:
        yield url, model


def test_bytes_and_price_of_a_remote_teacher(server, capsys):
    url, model = server
    write("predict.yaml", remote(url, price=0.01, budget={"price": 0.3}))
    assert main(["estimate", "--config", "predict.yaml"]) == 0
    told = words(capsys)
    assert "queries 40" in told
    assert "price 0.4" in told
    assert "budget of price 0.3, 0 spent refused: needs 0.4 units of price, but the budget is 0.3" in told
    assert model.answered == 0
    assert main(["estimate", "--config", "predict.yaml", "--probe", "5"]) == 0
    assert model.answered == 5
    told = words(capsys)
    assert "in the ledger 5 answers of this teacher" in told
    assert "price at most 0.4, at least 0.35" in told
    assert "time at" in told


@pytest.mark.parametrize(
    ("limit", "unit"),
    [
        ({"budget": {"price": 0.2}, "price": 0.01}, "units of price"),
        ({"budget": {"bytes": 22_000}}, "bytes"),
    ],
)
@pytest.mark.parametrize("command", ["fit", "predict"])
def test_whatever_ends_a_run_stops_cleanly_and_everything_is_kept(tmp_path, server, capsys, limit, unit, command):
    url, model = server
    settings = {"max_epochs": 2, "default_root_dir": "run"} if command == "fit" else {}
    write("run.yaml", remote(url, **limit), "KD" if command == "fit" else "TeacherAnswers", **settings)
    stopped(command, "--config", "run.yaml")
    assert f"{unit}, but the budget is" in capsys.readouterr().err
    assert model.answered == 0
    stopped(command, "--config", "run.yaml", "--over_budget", "allow")
    error = capsys.readouterr().err
    assert f"{unit} have been spent" in error
    assert "Traceback" not in error
    assert error.lower().count("raise the budget") == 1
    paid = model.answered
    assert 15 <= paid <= 20
    if command == "fit":
        assert "--restart true" in error
        assert torch.load("run/checkpoints/stopped.ckpt", weights_only=True)["global_step"] == 1
        again = ["--restart", "true"]
    else:
        assert f"; {paid} of 40 images are answered and kept in set. Raise the budget" in error
        again = []
    write("run.yaml", remote(url), "KD" if command == "fit" else "TeacherAnswers", **settings)
    assert main([command, "--config", "run.yaml", *again]) == 0
    assert model.answered == QueryLedger("ledger.sqlite").totals().unique == 40  # nothing was paid twice


def test_a_set_that_money_ends_can_be_finished(server):
    url, model = server
    teacher = RemoteSoftLabelTeacher(url, "toy", "probabilities", price=0.01, budget=Budget(price=0.185), max_batch=8)
    module = TeacherAnswers(teacher, "set", at_budget="finish")
    trainer(".").predict(module, datamodule=DigitsDataModule(**DATA["init_args"]), return_predictions=False)
    made = TransferSet("set")
    assert len(made) == made.manifest["queries"] == model.answered == 18
    assert made.manifest["stopped_by_budget"]


def test_a_server_that_is_down_is_estimated_by_its_settings(capsys):
    write("predict.yaml", remote("http://127.0.0.1:9", price=0.5, budget=30))
    assert main(["estimate", "--config", "predict.yaml"]) == 0
    told = words(capsys)
    assert "queries 40 bytes up nobody knows yet bytes down nobody knows yet price 20 budget of queries 30, 0" in told
    assert "refused: needs 40 queries, but the budget is 30" in told
    assert "the teacher is not there" in told


@pytest.mark.parametrize("method", ["KnockoffSelection", "TeacherAnswers"])
def test_what_is_answered_is_written_and_told_though_lost_requests_have_spent_the_budget(method, capsys):
    """Of 20 images, 4 a request, the second request is answered and its answer lost: 16 answers for 20 queries."""
    asked = []

    def answer(handler, body):
        asked.append(json.loads(body)["instances"])
        if len(asked) == 2:
            handler.hang_up()
        else:
            handler.reply(200, {"predictions": [{"scores": [0.75] + [0.25 / 9] * 9}] * len(asked[-1])})

    def predict(url, budget):
        settings = {
            "url": url, "request": {"instances": ["{image}"]}, "reader": {"results": "predictions", "answer": "scores"},
            "outputs": "probabilities", "num_classes": 10, "max_batch": 4, "concurrency": 1, "budget": budget,
            "patience": {"attempts": 3, "backoff": 0.01, "jitter": 0.01},
        }  # fmt: skip
        more = {"output": "set"} | ({"queries": 20} if method == "KnockoffSelection" else {})
        model = {"teacher": {"class_path": "HTTPSoftLabelTeacher", "init_args": settings}, **more}
        data = {"class_path": "DigitsDataModule", "init_args": {**DATA["init_args"], "num_samples": 20, "num_val": 0}}
        config = {"model": {"class_path": method, "init_args": model}, "data": data, "return_predictions": False}
        Path("p.yaml").write_text(yaml.safe_dump({**config, "trainer": QUIET}))
        return main(["predict", "--config", "p.yaml"])

    with answering(answer) as url:
        with pytest.raises(SystemExit):
            predict(url, 20)
        told = capsys.readouterr().err
        assert "the budget of 20 queries is spent; 16 of 20 images are answered and kept in set" in told
        assert predict(url, 24) == 0
    assert len(TransferSet("set")) == 20
    assert [len(images) for images in asked] == [4] * 6
    assert len({image for images in asked for image in images}) == 20


def test_a_budget_is_for_what_is_paid_not_for_what_the_ledger_knows(server):
    url, model = server
    data = DigitsDataModule(**DATA["init_args"])
    for output, budget in (("all", None), ("again", 5)):
        teacher = RemoteSoftLabelTeacher(url, "toy", "probabilities", budget=budget)
        trainer(".").predict(TeacherAnswers(teacher, output), datamodule=data, return_predictions=False)
        assert len(TransferSet(output)) == model.answered == 40


@pytest.mark.parametrize("rate", ["-5", "0", "nan", "inf", "fast"])
def test_a_rate_that_is_none_is_refused(rate, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["estimate", f"--rate={rate}", "--config", "predict.yaml"])
    assert stop.value.code == 2
    assert f"--rate: expected a number above 0, images per second; got {rate}" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["-3", "two"])
def test_a_probe_that_is_none_is_refused(number, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["estimate", f"--probe={number}", "--config", "predict.yaml"])
    assert stop.value.code == 2
    assert f"--probe: expected a number of images, 0 or more; got {number}" in capsys.readouterr().err


def test_bytes_are_whole_numbers():
    terms = Terms(Prices.fixed(0.0), (10.25, 20.5), 33.3, 0, Limits(), Limits(0, 0, 0.0))
    told = dict(Forecast("KD", Estimate(3, 3, 0, (3, 3)), terms).lines())
    assert told["bytes up"] == "at most 62, at least 31"  # 30.75 and 61.5, rounded up
    assert told["bytes down"] == "100"  # 99.9


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "File does not exist"), ("a: [1", "while parsing a flow sequence"), ("- 1", "kdlightning: error: ")],
)
def test_a_configuration_that_is_none_is_refused_as_by_the_command_itself(content, told, capsys):
    if content is not None:
        Path("x.yaml").write_text(content)
    said = []
    for command in ("estimate", "fit"):
        stopped(command, "--config", "x.yaml")
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert told in said[0]


def my_teacher(network: str, budget: int) -> SoftLabelTeacher:
    return SoftLabelTeacher(network, budget)


def test_a_teacher_that_a_function_makes_is_estimated_like_the_one_of_a_class(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_network(LeNet5Fifth(image_size=16), "teacher")
    for named in (f"{__name__}.my_teacher", "SoftLabelTeacher"):
        teacher = {"class_path": named, "init_args": {"network": "teacher", "budget": 100}}
        model = {"class_path": "TeacherAnswers", "init_args": {"teacher": teacher, "output": "answers"}}
        data = {"class_path": "DigitsDataModule", "init_args": {"image_size": 16, "num_samples": 40}}
        Path("labels.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))
        assert main(["estimate", "--config", "labels.yaml"]) == 0
        assert re.findall(r"queries +(\d+)", capsys.readouterr().out) == ["40", "100"]  # to ask, and the budget
