import json
from math import exp
from pathlib import Path

import pytest
import torch
import yaml
from drawing.features import embed, kernel_distance
from drawing.selection import FACTS, Case, draw_images, draw_selection, sample
from drawing.selection import choose_from as choose
from drawing.sensitivity import draw_sensitivity, lines_of, name_lines
from helpers import Linear, ToyDataModule, trainer
from kd3 import main
from PIL import Image

from kdlightning.data import UnionDataModule
from kdlightning.data.sets import tensor_set
from kdlightning.functional.selection import student_weight
from kdlightning.methods import KD3
from kdlightning.networks import LeNet5, SharedClassifierNetwork, save_network
from kdlightning.report import read_runs
from kdlightning.teachers import WhiteBoxTeacher

ALPHA, THRESHOLD = "model.init_args.contrastive_weight", "model.init_args.threshold"


class Levels(ToyDataModule):
    """Six images of one grey level each, 0, 51, ..., 255."""

    def load(self):
        level = torch.arange(0, 256, 51, dtype=torch.uint8)[:, None, None, None]
        return tensor_set(level.expand(6, 1, 8, 8), torch.arange(6) % 3), None, None


def brightness(k):
    """Logit 4 for class k of a white image, 4 x of a grey one; the others' are 0."""
    weight = torch.zeros(3, 64)
    weight[k] = 4 / 64
    return Linear(weight)


def union(pool=None, **options):
    data = UnionDataModule(ToyDataModule(**options), [pool or ToyDataModule(number=40, num_val=0)])
    data.setup()
    return data


@torch.no_grad()
def sure(network):
    """Of some images of every class, as if it were trained."""
    logits = network.eval()(union(image_size=16).candidate_pool().image / 255)
    network.classifier.bias -= logits.mean(0)
    for parameter in network.classifier.parameters():
        parameter *= 3 / logits.std(0).mean()
    return network


def lenet(seed, width=0.25):
    torch.manual_seed(seed)
    return sure(LeNet5(num_classes=3, image_size=16, width=width))


def recipe(**method):
    source = {"class_path": "helpers.ToyDataModule", "init_args": {"image_size": 16, "num_val": 12}}
    augmentation = {"class_path": "there.is.no.such.Transform", "init_args": {}}
    pool = {"class_path": "helpers.ToyDataModule", "init_args": {"number": 40, "augmentation": augmentation}}
    teacher = {"class_path": "kdlightning.teachers.WhiteBoxTeacher", "init_args": {"network": "teacher/network"}}
    return {
        "seed_everything": 0,
        "model": {"class_path": "kdlightning.methods.KD3", "init_args": {"teacher": teacher, **method}},
        "data": {"class_path": "UnionDataModule", "init_args": {"source": source, "pools": [pool], "fraction": 1.0}},
        "trainer": {"max_epochs": 4, "max_steps": -1, "default_root_dir": "runs/x"},
    }


def pool_of_the_recipe():
    return union(ToyDataModule(number=40), image_size=16)


def finished(path, **method):
    """A teacher's and a student's run."""
    save_network(lenet(0), Path("teacher/network"))
    student = sure(SharedClassifierNetwork.of(lenet(1, 0.2), WhiteBoxTeacher(lenet(0)), "vector"))
    inner = {
        "class_path": "kdlightning.networks.LeNet5",
        "init_args": {"num_classes": 3, "image_size": 16, "width": 0.2},
    }
    described = {"class_path": "kdlightning.networks.SharedClassifierNetwork"}
    save_network(student, path / "network", **described, init_args={**student.arguments, "student": inner})
    (path / "config.yaml").write_text(yaml.safe_dump(recipe(**method)))
    return student


def size(path):
    with Image.open(path) as image:
        return image.size


def test_selected_images_are_those_counted_by_hand():
    data, networks = union(Levels(num_val=0)), (brightness(0), brightness(1))
    sure = [exp(4 * x / 5) / (exp(4 * x / 5) + 2) for x in range(6)]  # 1/3, 0.527, 0.712, 0.846, 0.925, 0.965
    found = choose(data, *networks, alpha=1.0, threshold=0.8)
    torch.testing.assert_close(found.confidence, torch.tensor(sure))
    assert found.label.tolist() == [0, 1, 1, 1, 1, 1]  # the black image is a tie
    # class 1 was predicted five times: 0.8; class 0 once: 0.16, which the black image is above
    assert found.mask.tolist() == [True, False, False, True, True, True]
    assert not found.teacher_alone
    by_teacher = choose(data, *networks, alpha=0.0, threshold=0.8)
    assert by_teacher.label.tolist() == [0] * 6
    assert by_teacher.mask.tolist() == [False, False, False, True, True, True]
    half = choose(data, *networks, alpha=0.5, threshold=0.4)  # two classes of (p + (1 - p) / 2) / 2 each
    torch.testing.assert_close(half.confidence, torch.tensor([(1 + p) / 4 for p in sure]))
    convex = choose(data, *networks, threshold=0.9, mapping="convex")
    assert convex.mask.tolist() == [True, False, False, False, True, True]


def test_the_teacher_chooses_where_the_student_is_sure_of_too_little():
    data = union(Levels(num_val=0))
    found = choose(data, brightness(0), Linear(torch.zeros(3, 64)), threshold=0.8)
    assert found.teacher_alone
    assert found.mask.sum() == 3
    with pytest.raises(ValueError, match=r"none of 6 images is selected at V_th = 0.8, the surest has 0.3333"):
        choose(data, brightness(0), Linear(torch.zeros(3, 64)), threshold=0.8, least_share=0.0)
    with pytest.raises(ValueError, match=r"alpha: expected a share from 0 to 1, got 2"):
        choose(data, brightness(0), brightness(1), alpha=2)


@pytest.mark.parametrize(("selection", "alpha"), [("student", 1.0), ("teacher", 0.0), ("combined", student_weight(0))])
def test_it_chooses_as_the_method_does(tmp_path, selection, alpha):
    """In its first epoch, which scores the weights that the run began with."""
    method = KD3(WhiteBoxTeacher(lenet(0)), lenet(1, 0.2), selection, threshold=0.9)
    data = union(image_size=16)
    found = choose(data, method.teacher, sure(method.student), alpha, threshold=0.9)
    trainer(tmp_path, limit_val_batches=0).fit(method.train(), datamodule=data)
    (line,) = [json.loads(line) for line in (tmp_path / "selection.jsonl").read_text().splitlines()]
    assert 1 < line["selected"] < 39
    assert not found.teacher_alone
    assert int(found.mask.sum()) == line["selected"]
    assert torch.bincount(found.label[found.mask], minlength=3).tolist() == line["histogram"]


def test_images_of_three_kinds_are_drawn_by_seed():
    data = union()
    mask = torch.arange(40) % 4 == 0
    drawn = sample(data, mask, 15)
    assert {kind: len(rows) for kind, (_, rows) in drawn.items()} == {"original": 15, "selected": 10, "unselected": 15}
    assert mask[drawn["selected"][1]].all()
    assert not mask[drawn["unselected"][1]].any()
    assert drawn["original"][0] is data.source.train_set
    assert sample(data, mask, 15, "test")["original"][0] is data.test_set
    assert not torch.equal(sample(data, mask, 15, seed=1)["unselected"][1], drawn["unselected"][1])
    assert list(sample(data, torch.ones(40) > 0, 15)) == ["original", "selected"]
    data.test_set = None
    with pytest.raises(ValueError, match="toy has no test images"):
        sample(data, mask, 15, "test")


def test_kernel_distance_by_hand():
    one, other = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 2.0], [0.0, 4.0]])
    # k = (x·y / 2 + 1)³: within one 1, within other 5³ = 125, between all of them 1
    assert kernel_distance(one, other) == 1 + 125 - 2
    assert kernel_distance(one, other[:1]) is None


def test_tsne_keeps_kinds_apart_and_is_the_same_twice():
    generator = torch.Generator().manual_seed(0)
    sets = (("a", 20, 0), ("b", 30, 50))
    features = {name: shift + torch.randn(number, 8, generator=generator) for name, number, shift in sets}
    points = embed(features, perplexity=100)  # lowered to 49 / 3
    assert {name: tuple(rows.shape) for name, rows in points.items()} == {"a": (20, 2), "b": (30, 2)}
    apart = torch.cdist(points["a"], points["b"]).min()
    assert apart > torch.cdist(points["a"], points["a"]).median()
    assert torch.equal(embed(features, perplexity=100)["b"], points["b"])


def test_features_from_the_command_line(capsys):
    student = finished(Path("runs/kd3"), threshold=0.9, mapping="convex")
    command = ["features", "runs/kd3", "--by", "teacher", "student", "--number", "12", "--device", "cpu"]
    assert main([*command, "--output", "features.png"]) == 0
    assert capsys.readouterr().out == "features.png\nfeatures.json\n"
    assert size("features.png") == (2 * 680, 640)
    panels = json.loads(Path("features.json").read_text())["panels"]
    assert [(panel["network"], panel["class"]) for panel in panels] == [("teacher", "LeNet5"), ("student", "LeNet5")]
    data = pool_of_the_recipe()
    expected = int(choose(data, lenet(0), student, 1.0, 0.9, "convex").mask.sum())
    assert [(panel["selected"], panel["pool"], panel["threshold"]) for panel in panels] == [(expected, 40, 0.9)] * 2
    assert panels[0]["drawn"] == {"original": 12, "selected": min(12, expected), "unselected": min(12, 40 - expected)}
    assert panels[0]["kernel_distance"] != panels[1]["kernel_distance"]
    assert panels[0]["kernel_distance"].keys() == {"selected", "unselected"}


def test_images_without_a_run(capsys):
    student = finished(Path("runs/kd3"))
    Path("pool.json").write_text(json.dumps(recipe()["data"]))
    command = ["images", "--data", "pool.json", "--teacher", "teacher", "--student", "runs/kd3/network"]
    options = ["--number", "5", "--alpha", "0.5", "--threshold", "0.8", "--original", "test", "--device", "cpu"]
    assert main([*command, *options, "--output", "images.png"]) == 0
    told = json.loads(Path("images.json").read_text())
    assert size("images.png") == (3 * 680, 640)
    data = pool_of_the_recipe()
    choice = choose(data, lenet(0), student, 0.5, 0.8)
    assert (told["selected"], told["share"]) == (int(choice.mask.sum()), float(choice.mask.double().mean()))
    for kind, wanted in (("selected", True), ("unselected", False)):
        rows = told["kinds"][kind]["index"]
        assert len(rows) == 5
        assert choice.mask[rows].tolist() == [wanted] * 5
        assert told["kinds"][kind]["predicted"] == [str(k) for k in choice.label[rows].tolist()]
        assert told["kinds"][kind]["confidence"] == pytest.approx(choice.confidence[rows].tolist(), abs=1e-4)
    assert max(told["kinds"]["original"]["index"]) < 30
    for left_out, message in (("--data", "give --data"), ("--teacher", "give --teacher"), ("--student", "give --stud")):
        place = command.index(left_out)
        with pytest.raises(SystemExit):
            main([*command[:place], *command[place + 2 :]])
        assert message in capsys.readouterr().err


def test_grids_have_the_pixels():
    networks = (WhiteBoxTeacher(brightness(k)) for k in (0, 1))
    case = Case("x", union(Levels(num_val=0)), *networks, 1.0, 0.8, "linear", 0.0, 1.0)
    drawn, told = draw_images(case, number=4)
    assert [axes.get_title(loc="left") for axes in drawn.axes] == ["(a) original", "(b) selected", "(c) unselected"]
    assert [axes.get_xlabel() for axes in drawn.axes] == ["4 of 60", "4 of 4", "2 of 2"]
    pixels = drawn.axes[1].images[0].get_array()
    assert pixels.shape == (19, 19, 3)
    assert [int(pixels[y, x, 0]) for y, x in ((1, 1), (1, 10), (10, 1), (10, 10))] == [0, 153, 204, 255]
    assert told["kinds"]["unselected"]["index"] == [1, 2]


def test_runs_that_cannot_be_drawn_say_why(capsys):
    for method, message in (
        ({"selection": "all"}, "runs/kd3 selects all images: give --alpha"),
        ({"threshold": 2}, "threshold: expected a probability, got 2"),
    ):
        finished(Path("runs/kd3"), **method)
        with pytest.raises(SystemExit):
            main(["images", "runs/kd3"])
        assert message in capsys.readouterr().err
    for spec, message in (
        ({"class_path": "helpers.ToyDataModule"}, "expected a pool such as UnionDataModule, got ToyDataModule"),
        ({"class_path": "NoSuchModule"}, "NoSuchModule: module 'kdlightning.data' has no attribute 'NoSuchModule'"),
    ):
        Path("pool.yaml").write_text(yaml.safe_dump({"data": spec}))
        with pytest.raises(SystemExit):
            main(["features", "runs/kd3", "--data", "pool.yaml", "--alpha", "1"])
        assert message in capsys.readouterr().err


def test_selection_over_epochs(capsys):
    known = {"precision": 0.5, "recall": 0.25, "label_accuracy": 0.75}
    for name, extra in (("one", known), ("other/one", {}), ("two", {})):
        Path(name).mkdir(parents=True)
        lines = [
            {"epoch": t, "selected": 8 + t, "share": (8 + t) / 40, "class_entropy": 0.9, "histogram": [8, t], **extra}
            for t in range(3)
        ]
        (Path(name) / "selection.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    drawn, told = draw_selection([Path("one"), Path("other/one"), Path("two")])
    assert list(told["runs"]) == ["one", "other/one", "two"]
    assert told["runs"]["one"]["share"] == [0.2, 0.225, 0.25]
    assert told["runs"]["one"]["label_accuracy"] == [0.75] * 3
    assert told["runs"]["two"].keys() == {"epoch", "selected", "share", "class_entropy"}
    assert [axes.get_title(loc="left") for axes in drawn.axes] == list(FACTS.values())
    assert [len(axes.lines) for axes in drawn.axes] == [3, 3, 1, 1, 1]
    assert list(drawn.axes[0].lines[2].get_ydata()) == [0.2, 0.225, 0.25]
    assert main(["selection", "two", "--output", "epochs.png"]) == 0
    assert size("epochs.png") == (2 * 680, 640)
    (Path("two") / "selection.jsonl").write_text("")
    with pytest.raises(SystemExit):
        main(["selection", "two"])
    assert "two/selection.jsonl is empty" in capsys.readouterr().err


def run(workspace, accuracy, seed=0, epochs=4, dataset="toy", student="LeNet5", **method):
    made = {"method": "KD3", "dataset": dataset, "access": "white", "variant": str(method)}
    made["student"] = "SharedClassifierNetwork"  # of any student
    path = workspace.run(accuracy=accuracy, seed=seed, **made)
    config = recipe(**{"contrastive_weight": 0.01, "threshold": 0.95, **method})
    config["model"]["init_args"]["student"] = {"class_path": f"kdlightning.networks.{student}"}
    config["data"]["init_args"]["source"]["init_args"].update(seed=seed, root=f"data/{seed}")  # no other experiment
    config["trainer"]["max_epochs"] = epochs
    (path.parent / "config.yaml").write_text(yaml.safe_dump(config))
    return path


def test_sensitivity_is_the_mean_over_seeds_of_runs_that_differ_in_it_alone(workspace):
    for seed, accuracy in enumerate((0.90, 0.92, 0.97)):
        run(workspace, accuracy, seed)
    for seed, accuracy in enumerate((0.80, 0.84)):
        run(workspace, accuracy, seed, contrastive_weight=1.0)
    run(workspace, 0.7, threshold=0.9)  # of another line
    run(workspace, 0.1, contrastive_weight=0.1, epochs=1)  # of none
    drawn, told = draw_sensitivity(read_runs([workspace.root]).runs, [ALPHA, THRESHOLD])
    (alpha,), (threshold,) = (told["parameters"][key] for key in (ALPHA, THRESHOLD))
    assert (alpha["line"], alpha["pair"], alpha["notes"]) == ("toy", "LeNet5 → LeNet5", [])
    assert [(point["value"], point["seeds"]) for point in alpha["points"]] == [(0.01, [0, 1, 2]), (1.0, [0, 1])]
    assert [point["accuracy_mean"] for point in alpha["points"]] == pytest.approx([0.93, 0.82])
    assert [point["accuracy_std"] for point in alpha["points"]] == pytest.approx([0.0013**0.5, 0.0008**0.5])
    assert [(point["value"], point["accuracy_mean"]) for point in threshold["points"]] == [(0.9, 0.7), (0.95, 0.93)]
    assert [axes.get_xlabel() for axes in drawn.axes] == ["α", "V_th"]
    assert [axes.get_xscale() for axes in drawn.axes] == ["log", "linear"]
    assert list(drawn.axes[0].containers[0].lines[0].get_ydata()) == pytest.approx([93.0, 82.0])
    ((more,),) = draw_sensitivity(
        read_runs([workspace.root]).runs, [ALPHA], ["trainer.max_epochs", "model.init_args.threshold"]
    )[1]["parameters"].values()
    assert [point["value"] for point in more["points"]] == [0.01, 0.1, 1.0]


def test_lines_are_named_after_what_tells_them_apart(workspace):
    for weight in (0.1, 1.0):
        run(workspace, 0.9, contrastive_weight=weight)
        run(workspace, 0.8, contrastive_weight=weight, mapping="convex")
    lines = lines_of(read_runs([workspace.root]).runs, ALPHA)
    assert sorted(name_lines(lines)) == ["toy", "toy, mapping=convex"]
    for weight in (0.1, 1.0):
        run(workspace, 0.9, dataset="other", student="LeNet5Half", contrastive_weight=weight)
    lines = lines_of(read_runs([workspace.root]).runs, ALPHA)
    assert name_lines(lines)[0] == "other, LeNet5 → LeNet5Half"
    assert "toy, LeNet5 → LeNet5, mapping=convex" in name_lines(lines)


def test_sensitivity_from_the_command_line(workspace, capsys):
    for weight in (0.1, 1.0):
        run(workspace, 0.9 - weight / 10, contrastive_weight=weight)
    workspace.run(method="DB3KD")  # another method's, without a configuration
    (workspace.root / "broken").mkdir()
    (workspace.root / "broken/result.json").write_text("{")
    assert main(["sensitivity", "runs", "--parameter", ALPHA, "--output", "alpha.png"]) == 0
    assert "left out: runs/broken/result.json" in capsys.readouterr().err
    assert size("alpha.png") == (680, 640)
    (line,) = json.loads(Path("alpha.json").read_text())["parameters"][ALPHA]
    assert [point["accuracy_mean"] for point in line["points"]] == pytest.approx([0.89, 0.8])
    for key, message in (
        (THRESHOLD, "expected runs that differ in model.init_args.threshold alone; values found in 2 runs: 0.95"),
        ("no.such", "expected runs that differ in no.such alone; values found in 2 runs: none"),
        ("model.class_path", "model.class_path: expected numbers, got 'kdlightning.methods.KD3'"),
    ):
        with pytest.raises(SystemExit):
            main(["sensitivity", "runs", "--parameter", key])
        assert message in capsys.readouterr().err
