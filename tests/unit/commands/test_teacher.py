import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from chat import LABELS, Chat
from helpers import Linear
from PIL import Image
from servers import answering, serving

from kdlightning.accounting.tariff import Usage
from kdlightning.commands.teacher import main
from kdlightning.networks import LeNet5Fifth, save_network
from kdlightning.remote.providers import OpenAIChatTeacher
from kdlightning.serving import ServedModel

KEY = "k3y-that-is-shown-to-nobody"


@pytest.fixture
def photo(tmp_path):
    Image.new("RGB", (40, 30), (255, 0, 0)).save(tmp_path / "photo.jpg")
    return "photo.jpg"


def configured(class_path, wrap=lambda teacher: teacher, **init_args):
    Path("teacher.yaml").write_text(yaml.safe_dump(wrap({"class_path": class_path, "init_args": init_args})))
    return "teacher.yaml"


def test_a_json_api_is_shown_at_work(photo, monkeypatch, capsys):
    monkeypatch.setenv("KDL_LONG", KEY)
    seen = []

    def answer(handler, body):
        seen.append(json.loads(body))
        handler.reply(200, {"key": KEY, "scores": {"cat": 0.25, "dog": 0.75}}, {"Content-Type": "application/json"})

    with answering(answer) as url:
        file = configured(
            "HTTPSoftLabelTeacher", url=f"{url}/v1?code=env:KDL_LONG", headers={"X-Key": "env:KDL_LONG"}, price=0.002,
            request={"auth": "env:KDL_LONG", "b64": "{image}"}, outputs="probabilities",
            reader={"answer": "scores"},
            labels=["cat", "dog"], budget={"price": 1.0},
        )  # fmt: skip
        assert main(["try", file, photo, "--shape", "3", "64", "64"]) == 0
    said = capsys.readouterr().out
    assert [len(seen), seen[0]["auth"]] == [1, KEY]
    assert KEY not in said
    lines = [
        "image    photo.jpg as 3 x 64 x 64", f"sent     POST {url}/v1?code=***, ", "X-Key: ***", "came     status 200",
        '"scores": {"cat": 0.25, "dog": 0.75}', "probabilities of 2 classes: class 1 (dog) 0.75, class 0 (cat) 0.25\n",
        "cost     1 image, ", ", 0.002 units of price\n",
    ]  # fmt: skip
    assert [line for line in lines if line not in said] == []
    assert "iVBORw0KGgo" in said
    assert seen[0]["b64"] not in said
    assert not Path("ledger.sqlite").exists()


def test_an_answer_that_was_not_agreed_is_shown_and_told_once(photo, capsys):
    asked = []

    def answer(handler, body):
        asked.append(body)
        handler.reply(200, {"result": "cow"})

    with answering(answer) as url:
        file = configured(
            "kdlightning.remote.HTTPHardLabelTeacher", url=url, request={"image": "{image}"}, outputs="text",
            reader={"answer": "label"}, labels=["cat", "dog"],
        )  # fmt: skip
        assert main(["try", file, photo]) == 2
    told = capsys.readouterr()
    assert len(asked) == 1
    assert '{"result": "cow"}' in told.out
    assert "expected 'label' of the path 'label' in the answer" in told.err


@pytest.mark.parametrize(
    "wrap", [lambda one: {"teacher": one}, lambda one: {"model": {"class_path": "KD", "init_args": {"teacher": one}}}]
)
def test_a_server_of_the_open_protocol_tells_the_image_s_shape(photo, wrap, capsys):
    model = ServedModel(Linear(torch.eye(3, 48)), "linear", "hard", shape=(3, 4, 4))
    with serving(model) as url:
        file = configured("RemoteHardLabelTeacher", wrap, url=url, model="linear", outputs="index")
        assert main(["try", file, photo]) == 0
    said = capsys.readouterr().out
    assert "photo.jpg as 3 x 4 x 4" in said
    assert '"datatype":"FP32"' in said
    assert "... (bytes: " in said
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\ufffd]", said)  # the tensor is not shown
    assert "read as  class 0\n" in said
    assert model.answered == 1


def test_a_teacher_in_this_process_answers_too(photo, capsys):
    save_network(LeNet5Fifth(image_size=28, in_channels=1), "net")
    file = configured("HardLabelTeacher", network="net")
    assert main(["try", file, photo, "--shape", "1", "28", "28"]) == 0
    said = capsys.readouterr().out
    assert "read as  class " in said
    assert "sent" not in said


@pytest.mark.parametrize(
    ("content", "image", "text"),
    [
        ("a: 1", "photo.jpg", "expected a teacher's class_path and init_args"),
        ("{class_path: HTTPSoftLabelTeacher, init_args: {url: 'https://h'}}", "photo.jpg", "request"),
        ("{class_path: HardLabelTeacher, init_args: {network: none}}", "photo.jpg", "none"),
        ("{class_path: HTTPSoftTeacher}", "photo.jpg", "HTTPSoftTeacher"),
        ("[", "photo.jpg", "while parsing"),
        (
            "{class_path: OpenAIBatchTeacher}",
            "photo.jpg",
            "one image is asked at once, and a OpenAIBatchTeacher answers in",
        ),
    ],
)
def test_what_is_wrong_is_told_without_a_traceback(photo, content, image, text, capsys):
    Path("teacher.yaml").write_text(content)
    assert main(["try", "teacher.yaml", image]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("class_path", "settings", "told"),
    [
        ("HTTPHardLabelTeacher", {"outputs": "text"}, "expected outputs index or text, and labels with text, got"),
        ("HTTPSoftLabelTeacher", {"batchmax": 2}, "'batchmax' is not accepted"),
        ("HTTPSoftLabelTeacher", {"budget": "two"}, "Expected a <class 'int'>"),
    ],
)
def test_what_is_wrong_with_a_teacher_is_said_once_and_nothing_of_another_kind(
    class_path, settings, told, photo, capsys
):
    settings = {"url": "http://127.0.0.1:9", "request": "{image}", "outputs": "probabilities"} | settings
    assert main(["try", configured(class_path, **settings), photo]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert not [words for words in ("import path", "Import path", "LightningModule", "Union") if words in said]


@pytest.mark.parametrize(("given", "near"), [("HTTPSoftLabelTeachr", "HTTPSoftLabelTeacher"), ("LeNet5", None)])
def test_a_class_that_is_no_teacher_is_told_what_one_is(given, near, photo, capsys):
    assert main(["try", configured(given), photo]) == 2
    said = capsys.readouterr().err
    assert f"'teacher' takes a BlackBoxTeacher; '{given}' is " in said
    assert near is None or f"did you mean '{near}'?" in said


@pytest.mark.parametrize("side", ["0", "-8"])
def test_a_shape_that_is_none_is_refused(side, photo, capsys):
    file = configured("HTTPHardLabelTeacher", url="http://127.0.0.1:9", request="{image}", outputs="index")
    assert main(["try", file, photo, "--shape", "3", side, side]) == 2
    assert (
        f"--shape: expected a square image, grey (1) or in colour (3), got [3, {side}, {side}]"
        in capsys.readouterr().err
    )


class MyTeacher(OpenAIChatTeacher):
    pass


def my_teacher(url: str, ledger: str | None = "ledger.sqlite") -> OpenAIChatTeacher:
    return OpenAIChatTeacher("m", LABELS, url=url, ledger=ledger)


@pytest.mark.parametrize(
    "named", ["OpenAIChatTeacher", "kdlightning.remote.providers.OpenAIChatTeacher", f"{__name__}.MyTeacher"]
)
def test_a_vendors_teacher_is_asked_each_time_and_told_what_that_image_cost(named, photo, capsys):
    chat = Chat(tokens=lambda image: Usage(120, 2))
    price = {"input": 0.15, "output": 0.6}
    with answering(chat) as url:
        file = configured(named, url=url, model="m", labels=LABELS, price=price, budget={"price": 1.0})
        for _ in range(2):
            assert main(["try", file, photo, "--shape", "3", "32", "32"]) == 0
            said = capsys.readouterr().out
            assert "cost     1 image, " in said
            assert ", 120 tokens in, 2 out, 1.92e-05 units of price\n" in said  # (120 x 0.15 + 2 x 0.6) / a million
            assert [word for word in ("sent     POST", "came     status 200") if word not in said] == []
    assert len(chat.billed) == 2
    assert list(Path.cwd().glob("*.sqlite*")) == []


@pytest.mark.parametrize("named", ["OpenAIChatTeacher", "AnthropicTeacher", "GeminiTeacher"])
def test_a_vendors_server_that_fails_is_tried_once(named, photo, monkeypatch):
    tried = []

    def fail(handler, body):
        tried.append(body)
        handler.reply(503, {"error": "later"})

    monkeypatch.setenv("SOME_KEY", KEY)
    with answering(fail) as url:
        file = configured(named, url=url, model="m", labels=LABELS, api_key_env="SOME_KEY")
        assert main(["try", file, photo, "--shape", "3", "32", "32"]) == 2
    assert len(tried) == 1


def test_a_function_that_makes_a_teacher_with_a_ledger_is_refused(photo, capsys):
    with answering(Chat()) as url:
        assert main(["try", configured(f"{__name__}.my_teacher", url=url), photo]) == 2
    said = capsys.readouterr().err
    assert "makes a teacher with a ledger: give the OpenAIChatTeacher and its arguments" in said


def test_a_function_that_makes_a_teacher_without_a_ledger_is_asked(photo, capsys):
    chat = Chat(say=lambda image: "eel")
    with answering(chat) as url:
        assert main(["try", configured(f"{__name__}.my_teacher", url=url, ledger=None), photo]) == 0
    assert "read as  class 2 (eel)\n" in capsys.readouterr().out
    assert len(chat.billed) == 1


def test_a_recipe_is_tried_by_its_first_teacher(photo, capsys):
    seen = []

    def answer(handler, body):
        seen.append(json.loads(body))
        handler.reply(200, {"label": "dog"})

    with answering(answer) as url:
        teacher = {
            "class_path": "HTTPHardLabelTeacher",
            "init_args": {
                "url": url, "request": {"b64": "{{image}}"}, "reader": {"answer": "label"}, "outputs": "text",
                "labels": ["cat", "dog"], "ledger": "{output}/ledger.sqlite", "budget": 100,
            },
        }  # fmt: skip
        model = {"class_path": "TeacherAnswers", "init_args": {"teacher": "{teacher}"}}
        stages = [{"name": "answers", "command": "predict", "config": {"model": model}}]
        recipe = {"output": "runs", "variables": {"teacher": teacher}, "stages": stages}
        Path("distil.yaml").write_text(yaml.safe_dump(recipe))
        assert main(["try", "distil.yaml", photo, "--shape", "3", "32", "32"]) == 0
    assert "read as  class 1 (dog)\n" in capsys.readouterr().out
    assert [len(seen), seen[0]["b64"][:11]] == [1, "iVBORw0KGgo"]  # a PNG, where the recipe has braces twice
    assert not Path("runs").exists()
