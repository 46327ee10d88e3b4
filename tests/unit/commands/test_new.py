import dataclasses
import itertools
import json
import re
import shutil
import warnings
import zipfile
import zlib
from types import SimpleNamespace

import pytest
import torch
import yaml
from chat import Chat
from helpers import TinyNet
from lightning.pytorch.cli import LightningCLI
from pictures import NAMES, write_digits
from PIL import Image
from rich.prompt import PromptBase
from servers import serving

from kdlightning.__main__ import main
from kdlightning.commands import cli
from kdlightning.commands.advice import recommend
from kdlightning.commands.case import Case, CaseError, look
from kdlightning.commands.new import case_of, recipe
from kdlightning.commands.recipes import read_recipe
from kdlightning.data import ImageFolderDataModule, TransferSet
from kdlightning.networks import Adapter, LeNet5, TorchvisionNetwork, save_network
from kdlightning.serving import ServedModel

OWN = ["labelled", "flat"]
IMAGES = [*OWN, "none", "web"]
BUDGETS = [30, 100, 400, 10**8]
BLACK = list(itertools.product(["api", "network"], ["soft", "hard", "topk"], IMAGES, BUDGETS))
OPEN = [("weights", "soft", images, None) for images in IMAGES]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """A user's folders, teacher and servers."""
    root = tmp_path_factory.mktemp("mine")
    write_digits(root / "labelled", 12)
    write_digits(root / "flat", 12, flat=True)
    write_digits(root / "web", 20, side=40, mode="RGB")
    torch.manual_seed(0)
    network = LeNet5(image_size=16)
    save_network(network, root / "teacher")
    with serving(ServedModel(network, "t", "soft")) as soft, serving(ServedModel(network, "t", "hard")) as hard:
        yield SimpleNamespace(root=root, teacher=str(root / "teacher"), url={"soft": soft, "hard": hard}, built=set())


def case(there, teacher="network", answers="soft", images="labelled", budget=400, **more):
    place = there.teacher
    if teacher == "api":
        place = f"{there.url['hard' if answers == 'hard' else 'soft']}/v2/models/t"
    folder = {"none": "none", "web": f"web:{there.root / 'web'}"}.get(images, str(there.root / images))
    told = {"labels": images == "labelled", "budget": budget, "classes": 10, "output": "out", **more}
    return Case(teacher, place, "LeNet5Fifth", folder, answers, **told)


@pytest.mark.parametrize(("teacher", "answers", "images", "budget"), [*BLACK, *OPEN])
def test_every_combination_builds(there, tmp_path, monkeypatch, teacher, answers, images, budget):
    plan, text = recipe(case(there, teacher, answers, images, budget), "distil.yaml")
    file = tmp_path / "distil.yaml"
    file.write_text(text)
    root, stages, report = read_recipe(file)
    assert str(root) == "out"
    assert [stage.name for stage in stages][-2:] == ["student-seed1", "baseline-seed1"]
    assert report
    assert (plan.student.method, plan.student.variant) != (plan.baseline.method, plan.baseline.variant)
    assert max(len(line) for line in text.splitlines() if line.startswith("#")) <= 130
    monkeypatch.setattr(LightningCLI, "_run_subcommand", lambda *_: None)
    for number, stage in enumerate(stages):
        kind = re.sub(
            r"\d+", "0", f"{stage.config['model']} {stage.config['data']}"
        )  # what differs in numbers is built once
        if kind in there.built:
            continue
        there.built.add(kind)
        config = tmp_path / f"{number}.yaml"
        config.write_text(yaml.safe_dump(stage.config))
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*Unable to serialize")
            assert cli.main([stage.command, "--config", str(config)]) == 0


@pytest.mark.parametrize(("teacher", "answers", "images", "budget"), [
    *itertools.product(["network"], ["soft", "hard"], OWN, BUDGETS),
    ("api", "hard", "flat", 100), ("api", "soft", "labelled", 100), ("network", "hard", "web", 100),
])  # fmt: skip
def test_what_it_will_ask_is_within_the_budget(there, tmp_path, capsys, teacher, answers, images, budget):
    file = tmp_path / "distil.yaml"
    file.write_text(recipe(case(there, teacher, answers, images, budget), str(file))[1])
    assert main(["estimate", str(file)]) == 0
    out = capsys.readouterr().out
    assert "refused" not in out
    assert "may be stopped" not in out
    asked = [
        int(each.replace(",", ""))
        for each in re.findall(r"[\d,]*\d", out.partition("all: to pay")[2].split("images")[0])
    ]
    assert 0 < max(asked) <= budget


@pytest.mark.parametrize(
    ("teacher", "answers", "images", "budget", "student", "baseline"),
    [
        ("network", "soft", "labelled", 10**8, "KD", "Supervised"),
        ("network", "soft", "labelled", 400, "ActiveMixup and AnsweredKD", "Supervised"),
        ("network", "soft", "labelled", 100, "AnsweredKD", "Supervised"),
        ("network", "soft", "labelled", 50, "KnockoffSelection and AnsweredKD", "Supervised"),
        ("network", "soft", "flat", 100, "AnsweredKD", "ML"),
        ("network", "hard", "labelled", 10**8, "DB3KD", "Supervised"),
        ("network", "hard", "flat", 100, "DB3KD", "AnsweredKD"),
        ("network", "topk", "flat", 50, "KnockoffSelection and AnsweredKD", "ML"),
        ("network", "hard", "none", 10**8, "ZSDB3KDImages and DB3KD", "AnsweredKD"),
        ("network", "soft", "none", 10**8, "AnsweredKD", "AnsweredKD"),
        ("network", "hard", "web", 60, "KnockoffSelection and AnsweredKD", "ML"),
        ("weights", "soft", "labelled", None, "KD", "Supervised"),
        ("weights", "soft", "none", None, "ShaderKD", "AnsweredKD"),
        ("weights", "soft", "web", None, "KD3", "KD"),
    ],
)
def test_the_recommendation_is_the_readmes(there, teacher, answers, images, budget, student, baseline):
    plan, _ = recipe(case(there, teacher, answers, images, budget), "x.yaml")
    assert (plan.title, plan.baseline.method) == (student, baseline)
    assert 2 <= plan.why.count(". ") + 1 <= 4


def test_labels_of_one_query_come_first_and_boundaries_where_images_are_few(there):
    told = case(there, "network", "hard", "labelled", 10**8)
    few, many = recommend(told, look(told)), recommend(told, dataclasses.replace(look(told), number=5000))
    assert few.student.variant == "bd"
    assert "Try robustness: sd first" in few.why
    assert many.student.variant == "sd"
    assert "robustness: sd" in many.phases[0].arguments


def test_a_teacher_without_features_is_not_given_to_kd3(there, tmp_path):
    inner = {"class_path": "helpers.TinyNet", "init_args": {}}
    init_args = {"network": inner, "num_classes": 10, "in_channels": 1, "image_size": 16}
    network = Adapter(TinyNet(), 10, in_channels=1, image_size=16)
    save_network(network, tmp_path / "t", init_args=init_args)
    told = Case("weights", str(tmp_path / "t"), "LeNet5Fifth", f"web:{there.root / 'web'}", output="out")
    assert recipe(told, "x.yaml")[0].student.method == "DFND"


@pytest.mark.parametrize("teacher", ["network", "api"])
def test_topk_answers_are_learnt_from_as_they_are(there, tmp_path, teacher):
    file = tmp_path / "distil.yaml"
    plan, text = recipe(case(there, teacher, "topk", "flat", 100, output=str(tmp_path / "out")), str(file))
    assert "k is the most classes that an answer names" in " ".join(plan.notes)
    file.write_text(text)
    assert main(["run", str(file), "--set", "epochs=1"]) == 0
    made = TransferSet(tmp_path / "out/answers")
    assert made.manifest["access"] == "topk"
    assert made.column("classes").shape == made.column("answer").shape == (len(made), 5)
    assert (made.column("rest") >= 0).all()
    record = json.loads((tmp_path / "out/student-seed1/result.json").read_text())
    assert (record["method"], record["access"]) == ("AnsweredKD", "topk")
    assert 0 < made.manifest["queries_paid"] <= 100


def test_any_json_api_with_the_best_classes_is_asked_by_a_template(there, tmp_path):
    told = Case(
        "api", "https://api.example.org/v1/classify", "ResNet8", str(there.root / "labelled"), "topk", True, 100
    )
    file = tmp_path / "distil.yaml"
    file.write_text(recipe(told, str(file))[1])
    teacher = read_recipe(file)[1][0].config["model"]["init_args"]["teacher"]
    assert teacher["class_path"] == "HTTPTopKTeacher"
    assert (teacher["init_args"]["k"], teacher["init_args"]["outputs"]) == (5, "probabilities")


def words(there, url, images, **more):
    told = {"model": "a-vision-model", "classes": NAMES, "budget": 60, **more}
    return Case("api", url, "LeNet5Fifth", images, "words", **told)


@pytest.mark.parametrize("images", ["labelled", "flat", "web"])
def test_words_of_a_chat_model_are_learnt_from_and_refusals_left_out(there, tmp_path, images):
    def say(image):
        digit = zlib.crc32(image.encode())
        return "I cannot help with that." if digit % 10 == 0 else f"It is a **{NAMES[digit % 7].title()}**."

    place = f"web:{there.root / 'web'}" if images == "web" else str(there.root / images)
    labels = {"labels": True, "classes": None} if images == "labelled" else {}
    file, chat = tmp_path / "distil.yaml", Chat(say)
    with chat.serving() as url:
        told = words(there, f"{url}/v1", place, output=str(tmp_path / "out"), shape=(1, 16, 16), **labels)
        plan, text = recipe(told, str(file))
        file.write_text(text)
        assert "OpenAIChatTeacher" in text
        assert main(["run", str(file), "--set", "epochs=1"]) == 0
    assert plan.title == "AnsweredKD"
    made = TransferSet(tmp_path / "out/answers")
    refused = sum(zlib.crc32(image.encode()) % 10 == 0 for image in chat.asked)
    assert max(chat.asked.values()) == 1
    assert len(chat.asked) <= 60
    assert 0 < len(made.unanswered["index"]) <= refused
    assert len(made) + len(made.unanswered["index"]) == made.manifest["queries"]
    if images == "web":  # 40 pixels, larger than the student's
        assert made.manifest["source"]["teacher_size"] == 40
        assert made.column("shown_size").unique().tolist() == [40]
    record = json.loads((tmp_path / "out/student-seed1/result.json").read_text())
    assert (record["method"], record["access"]) == ("AnsweredKD", "hard")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"classes": None}, "--classes: the names of the classes, which the model has to say, are told by no folder"),
        ({"classes": 10}, "--classes: the names of the classes"),
        ({"model": None}, "--answers words is of a chat model behind an API .* --model and --images"),
        ({"url": "http://127.0.0.1:9/v1/chat/completions"}, "--url: give the address up to its version"),
    ],
    ids=["no names", "a number", "no model", "the whole path"],
)
def test_what_words_lack_is_said(there, change, text):
    url = change.get("url", "http://127.0.0.1:9/v1")
    with pytest.raises(CaseError, match=text):
        recipe(words(there, url, str(there.root / "flat"), **{k: v for k, v in change.items() if k != "url"}), "x.yaml")


def test_names_given_twice_have_to_agree(there):
    told = words(there, "http://127.0.0.1:9/v1", str(there.root / "labelled"), labels=True)
    with pytest.raises(CaseError, match=r"--classes: the class folders are .* in this order; leave the names out"):
        recipe(told, "x.yaml")


def test_the_key_is_named_and_never_written(there, monkeypatch, tmp_path):
    monkeypatch.setenv("MY_KEY", "sesame-open")
    for url in (f"{there.url['soft']}/v2/models/t", "https://api.example.org/v1/classify"):
        told = Case("api", url, "LeNet5Fifth", str(there.root / "labelled"), labels=True, budget=200, key_env="MY_KEY")
        text = recipe(told, "x.yaml")[1]
        assert "sesame-open" not in text
        assert "MY_KEY" in text
    with pytest.raises(CaseError, match="never the key"):
        Case("api", url, "LeNet5Fifth", "none", budget=200, key_env="sk-1234abcd")
    with pytest.raises(CaseError, match="may hold a key"):
        look(Case("api", "https://a.org/x?api_key=1", "LeNet5Fifth", str(there.root / "labelled"), budget=200))


def test_any_json_api_is_asked_by_a_template(there, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "k")
    told = Case("api", "https://api.example.org/v1/classify", "ResNet8", str(there.root / "labelled"), answers="hard",
                labels=True, budget=100, key_env="MY_KEY", output="out")  # fmt: skip
    file = tmp_path / "distil.yaml"
    file.write_text(recipe(told, str(file))[1])
    teacher = read_recipe(file)[1][0].config["model"]["init_args"]["teacher"]
    assert teacher["class_path"] == "HTTPHardLabelTeacher"
    assert teacher["init_args"]["request"] == {"image": "{image}"}
    assert teacher["init_args"]["headers"] == {"Authorization": "Bearer env:MY_KEY"}
    assert teacher["init_args"]["labels"] == sorted(NAMES)


def test_sizes_colours_and_classes_are_seen(there, tmp_path):
    seen = look(case(there))
    assert (seen.num_classes, seen.channels, seen.image_size, seen.number) == (10, 1, 16, 120)
    assert list(seen.names) == sorted(NAMES)
    save_network(TorchvisionNetwork("mobilenet_v3_small", num_classes=10), tmp_path / "t")
    colour = write_digits(tmp_path / "colour", 4, side=48, mode="RGB")
    for number, file in enumerate(sorted(colour.rglob("*.png"))):
        Image.new("RGB", (60, 48), (number, 200, 90)).save(file)
    seen = look(Case("network", str(tmp_path / "t"), "ResNet8", str(colour), labels=True, budget=50))
    assert (seen.channels, seen.image_size) == (3, 48)  # this teacher resizes: the images stay as they are
    seen = look(Case("network", str(tmp_path / "t"), "ResNet8", str(there.root / "labelled"), labels=True, budget=50))
    assert seen.channels == 1


def test_folders_of_parts_are_kept(there, tmp_path):
    for part in ("train", "valid", "test"):
        write_digits(tmp_path / "parts" / part, 3)
    seen = look(Case("network", there.teacher, "ResNet8", str(tmp_path / "parts"), labels=True, budget=50))
    assert (seen.train, seen.val, seen.test, seen.number) == ("train", "valid", "test", 30)


def test_a_folder_of_class_folders_is_split_in_three(there):
    options = {"train": ".", "test": None, "channels": 1, "num_test": 24}
    data = ImageFolderDataModule(str(there.root / "labelled"), 16, num_val=0.1, **options)
    data.setup()
    parts = [set(part.index.tolist()) for part in (data.train_set, data.val_set, data.test_set)]
    assert [len(part) for part in parts] == [86, 10, 24]
    assert set.union(*parts) == set(range(120))
    again = ImageFolderDataModule(str(there.root / "flat"), 16, num_classes=10, **options)
    again.setup()
    assert again.test_set.labels is None
    assert again.train_set.labels is None
    assert again.num_classes == 10


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"images": "absent"}, "--images: there is no .*absent; expected a folder, none, or web:DIR"),
        ({"images": "flat", "labels": True}, "no class folders with images .* say --labels no"),
        ({"classes": 7}, "10 class folders but .*--classes says 7: they have to be the same classes"),
        ({"budget": 4}, "--budget: 4 answers are too few to learn 10 classes from"),
        ({"budget": None}, "--budget: expected the most images that the teacher may answer, got None"),
        ({"shape": (1, 16, 12)}, "expected square images"),
        ({"shape": (1, 20, 20)}, "the teacher does not take images of"),
        ({"output": "a{b}"}, "braces"),
    ],
)
def test_what_does_not_fit_is_said(there, change, text):
    with pytest.raises(CaseError, match=text):
        recipe(case(there, **change), "x.yaml")


@pytest.mark.parametrize(
    ("student", "text"),
    [
        ("Resnet8", "there is no network 'Resnet8'; did you mean ResNet8 or [Rr]es[^ ]+ or [Rr]es"),
        ("nowhere.Net", "cannot be imported"),
    ],
)
def test_a_student_that_is_not_there_is_said(there, student, text):
    told = Case("network", there.teacher, student, str(there.root / "labelled"), labels=True, budget=100)
    with pytest.raises(CaseError, match=text):
        look(told)


def test_a_model_that_is_not_served_or_answers_otherwise_is_said(there):
    folder = str(there.root / "labelled")
    with pytest.raises(CaseError, match=r"--url: .*v2/models/NAME"):
        look(Case("api", there.url["soft"], "ResNet8", folder, labels=True, budget=100))
    with pytest.raises(CaseError, match="--url: "):
        look(Case("api", f"{there.url['hard']}/v2/models/t", "ResNet8", folder, "soft", labels=True, budget=100))
    seen = look(Case("api", "http://127.0.0.1:9/v2/models/t", "ResNet8", folder, labels=True, budget=100))
    assert "The server was not looked at" in seen.notes[0]


FLAGS = ["--teacher", "network", "--answers", "soft", "--labels", "yes", "--budget", "100", "--student", "ResNet8"]


def test_the_command_writes_once_and_says_why(there, capsys, tmp_path):
    flags = [*FLAGS, "--network", there.teacher, "--images", str(there.root / "labelled")]
    assert main(["new", *flags]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith("AnsweredKD, beside Supervised. The teacher answers probabilities")
    assert "kdlightning estimate distil.yaml" in out
    assert main(["new", *flags]) == 2
    assert capsys.readouterr().err == "kdlightning new: distil.yaml exists: give another --file, or --overwrite\n"
    assert main(["new", *flags, "--overwrite"]) == 0


def test_without_a_terminal_the_missing_flag_is_named(there, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: False))
    assert main(["new", *FLAGS, "--images", str(there.root / "labelled")]) == 2
    assert capsys.readouterr().err.startswith("kdlightning new: --network is missing, and there is nobody to ask")
    assert main(["new", "--network", there.teacher]) == 2
    assert "--teacher api|network|weights is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answers", "asked", "method"),
    [
        (["network", "{teacher}", "soft", "{labelled}", "yes", "many", "1000", "", "LeNet5Fifth"], 9, "ActiveMixup"),
        (["weights", "{teacher}", "none", "LeNet5Fifth"], 4, "ShaderKD"),
    ],
)
def test_in_a_terminal_only_what_matters_is_asked(there, monkeypatch, tmp_path, answers, asked, method):
    paths = {"teacher": there.teacher, "labelled": there.root / "labelled"}
    given = iter(answers)
    questions = []
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr(
        PromptBase, "get_input", lambda console, text, *_, **__: questions.append(text) or next(given).format(**paths)
    )
    assert main(["new"]) == 0
    assert len(questions) == asked
    assert f"class_path: {method}" in (tmp_path / "distil.yaml").read_text()


def test_the_output_is_named_after_images_and_student():
    told = dict.fromkeys(("url", "key_env", "answers", "labels", "budget", "classes", "shape", "output"))
    told |= {"teacher": "weights", "network": "t", "images": "web:down loads", "student": "ResNet8"}
    assert case_of(told).output == "runs/down-loads-resnet8"


def mixed(there, place):
    """A teacher that numbers the classes otherwise than their folders sort."""
    names = [NAMES[number] for number in (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)]
    assert names != sorted(names)
    save_network(LeNet5(image_size=16), place, class_names=names)
    return names


def packed(root, place):
    with zipfile.ZipFile(place, "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, file.relative_to(root))
    return place


@pytest.mark.parametrize("kind", ["folder", "zip", "with a test folder"])
def test_classes_are_listed_as_the_teacher_numbers_them(there, tmp_path, kind, capsys):
    names = mixed(there, tmp_path / "teacher")
    images = there.root / "labelled"
    if kind == "zip":
        images = packed(images, tmp_path / "images.zip")
    elif kind == "with a test folder":
        images = tmp_path / "parts"
        shutil.copytree(there.root / "labelled", images / "train")
        shutil.copytree(there.root / "labelled", images / "test")
    told = dataclasses.replace(
        case(there), place=str(tmp_path / "teacher"), images=str(images), output=str(tmp_path / "out")
    )
    facts, (_, text) = look(told), recipe(told, "distil.yaml")
    assert facts.numbered.startswith(f"0 {names[0]}, 1 {names[1]}, ")
    file = tmp_path / "distil.yaml"
    file.write_text(text)
    data = read_recipe(file)[1][-1].config["data"]["init_args"]
    assert data["classes"] == names
    assert data["num_val"] > 0
    read = ImageFolderDataModule(data["root"], 16, train=data["train"], test=data["test"], classes=data["classes"])
    assert read.class_names == names
    assert main(["estimate", str(file)]) == 0
    file.write_text(re.sub(r"\n +classes: .*", "", text))
    capsys.readouterr()
    assert main(["estimate", str(file)]) == 2
    out = capsys.readouterr().out
    assert re.search(r": `kdlightning run` will refuse it: \d+ of the 10 classes of .* have another number", out)


def test_nothing_is_listed_where_the_folders_sort_as_the_teacher_numbers(there, tmp_path):
    save_network(LeNet5(image_size=16), tmp_path / "teacher", class_names=sorted(NAMES))
    _, text = recipe(dataclasses.replace(case(there), place=str(tmp_path / "teacher")), "distil.yaml")
    assert "classes: [" not in text


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"classes": NAMES}, "--classes: .* of the 10 classes of the data have another number for the teacher"),
        ({"extra": "zebra"}, "--images: .* of the 10 classes of the data have another number for the teacher"),
    ],
)
def test_classes_that_cannot_be_put_into_the_teachers_order_are_refused(there, tmp_path, changes, told):
    names = mixed(there, tmp_path / "teacher")
    if "extra" in changes:  # a name that the folders do not have
        save_network(LeNet5(image_size=16), tmp_path / "teacher", class_names=["zebra", *names[1:]], overwrite=True)
        one = case(there)
    else:
        one = case(there, images="flat", classes=list(changes["classes"]))
    with pytest.raises(CaseError, match=told):
        look(dataclasses.replace(one, place=str(tmp_path / "teacher")))
