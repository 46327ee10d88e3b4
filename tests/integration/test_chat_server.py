"""A chat server that is not ours: `transformers serve`, in an environment of its own (`make chatserver`).

It serves a vision-language model of 16 units with random weights, whose answers depend on the image.
"""

import base64
import io
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest
import torch
import yaml
from PIL import Image

from kdlightning.__main__ import main
from kdlightning.accounting.tariff import Tariff
from kdlightning.remote import RemoteTeacherError
from kdlightning.remote.providers import OpenAIChatSoftLabelTeacher, OpenAIChatTeacher
from kdlightning.remote.providers.arguments import question

MODEL = """
import sys
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor,
    PreTrainedTokenizerFast,
)

torch.manual_seed(0)
words = ["<unk>", "<s>", "</s>", "<image>", "cat", "dog", "bird"]
tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
chat = "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}"
chat += " {{ c['text'] }} {% endif %}{% endfor %}{% endfor %}"
special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
fast = PreTrainedTokenizerFast(
    tokenizer_object=tokenizer, additional_special_tokens=["<image>"], chat_template=chat, **special
)
images = CLIPImageProcessor(size={"shortest_edge": 8}, crop_size={"height": 8, "width": 8})
LlavaProcessor(
    images, fast, patch_size=4, vision_feature_select_strategy="default", image_token="<image>",
    num_additional_image_tokens=1, chat_template=chat,
).save_pretrained(sys.argv[1])
small = {"hidden_size": 16, "num_attention_heads": 2}
ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
vision = CLIPVisionConfig(**small, intermediate_size=16, num_hidden_layers=2, image_size=8, patch_size=4)
text = LlamaConfig(**small, **ends, intermediate_size=32, num_hidden_layers=1, vocab_size=len(words))
model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=3))
model.generation_config.update(**ends)
model.save_pretrained(sys.argv[1])
"""
BESIDE = Path(sys.prefix) / "chatserver" / "bin" / "python"
PYTHON = os.environ.get("KDLIGHTNING_CHATSERVER") or (BESIDE if BESIDE.exists() else None)
LABELS = ["cat", "dog", "bird"]
COLOURS = [(1, 0, 0), (0, 1, 0), (0, 0, 0), (0, 0, 1), (1, 1, 1), (1, 1, 0), (0, 1, 1), (1, 0, 1)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Yields the server's url, the model's name, and the file that it writes into."""
    if PYTHON is None:
        pytest.skip("no chat server is installed: `make chatserver`, or name its python in KDLIGHTNING_CHATSERVER")
    directory = tmp_path_factory.mktemp("chat")
    quiet = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run([PYTHON, "-c", MODEL, directory / "model"], check=True, capture_output=True, env=quiet)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    command = [Path(PYTHON).parent / "transformers", "serve", directory / "model", "--host", "127.0.0.1"]
    with (directory / "log").open("w") as log:
        command += ["--port", str(port), "--device", "cpu"]
        process = subprocess.Popen(command, stdout=log, stderr=log, env=quiet)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}/health", process, directory / "log")
        yield f"http://127.0.0.1:{port}/v1", str(directory / "model"), directory / "log"
    finally:
        process.terminate()
        process.wait(60)


def wait_until_ready(url, process, log, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with suppress(httpx2.TransportError):
            if httpx2.get(url).status_code == 200:
                return
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def said(url, model, image):
    """What the server says of an image, asked without us, and the tokens that it counts."""
    file = io.BytesIO()
    Image.fromarray((image * 255).byte().movedim(0, -1).numpy()).save(file, "png")
    shown = {"url": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"}
    content = [{"type": "text", "text": question(LABELS, None)}, {"type": "image_url", "image_url": shown}]
    request = {"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": content}]}
    reply = httpx2.post(f"{url}/chat/completions", json=request, timeout=60).json()
    return reply["choices"][0]["message"]["content"], reply["usage"]


def test_its_words_are_read_paid_and_kept(server, tmp_path):
    url, model, _ = server
    images = torch.tensor(COLOURS, dtype=torch.float32)[:, :, None, None].expand(-1, 3, 8, 8).contiguous()
    words, usages = zip(*(said(url, model, image) for image in images), strict=True)
    options = {"url": url, "max_tokens": 1, "ledger": str(tmp_path / "ledger.sqlite"), "max_unanswered": 1.0}
    teacher = OpenAIChatTeacher(model, LABELS, price=Tariff(input=1.0, output=10.0), **options)
    found = teacher.ask(images)
    assert found.tolist() == [LABELS.index(word) if word in LABELS else -1 for word in words]
    assert len(set(found.tolist())) > 1  # it sees the images
    assert teacher.paid.queries == len(images)
    tokens = [sum(usage[f"{kind}_tokens"] for usage in usages) for kind in ("prompt", "completion")]
    assert [teacher.cost.input_tokens, teacher.cost.output_tokens] == tokens
    assert teacher.cost.price == pytest.approx((tokens[0] + 10 * tokens[1]) / 1_000_000)
    again = OpenAIChatTeacher(model, LABELS, offline=True, **options)
    assert torch.equal(again.ask(images), found)
    assert again.paid.queries == 0


def test_it_is_a_teacher_of_the_command_line(server, tmp_path, monkeypatch, capsys):
    url, model, _ = server
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8), (0, 0, 0)).save("black.png")
    given = {"class_path": "OpenAIChatTeacher", "init_args": {"model": model, "labels": LABELS, "url": url}}
    given["init_args"] |= {"max_tokens": 1, "ledger": None}
    Path("teacher.yaml").write_text(yaml.safe_dump({"teacher": given}))
    word, _ = said(url, model, torch.zeros(3, 8, 8))
    with suppress(SystemExit):
        main(["teacher", "try", "teacher.yaml", "black.png"])
    shown = capsys.readouterr().out
    assert f"{url}/chat/completions" in shown
    assert (word or "no answer") in shown


def test_that_it_gives_no_log_probabilities_is_told_at_its_first_answer(server):
    url, model, log = server
    before = log.read_text().count("POST /v1/chat/completions")
    with pytest.raises(RemoteTeacherError, match="this model gives no log-probabilities of tokens"):
        OpenAIChatSoftLabelTeacher(model, LABELS, url=url, ledger=None).ask(torch.rand(6, 3, 8, 8))
    assert log.read_text().count("POST /v1/chat/completions") == before + 1
