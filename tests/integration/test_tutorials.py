"""The tutorials run as they are printed: their blocks, in order, in an empty folder. They assert what they claim."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningCLI
from PIL import Image

from kdlightning.commands import cli
from kdlightning.networks import LeNet5, TransposedGenerator, save_network

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(python|yaml|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(900)  # half a minute each on a core of their own
@pytest.mark.parametrize("page", sorted(DOCS.glob("tutorial-*.md")), ids=lambda path: path.stem)
def test_every_block_of_a_tutorial_runs(page, tmp_path):
    blocks = BLOCK.findall(page.read_text().replace("8099", free_port()))  # the server of tutorial-vlm
    try:
        executed = [run(language, text, tmp_path) for language, text in blocks]
    finally:
        for file in tmp_path.glob("*.pid"):  # a server that a page has not come to stop
            with suppress(ProcessLookupError):
                os.kill(int(file.read_text()), signal.SIGTERM)
    # every page writes files, gives commands, and checks values
    assert {"write", "bash", "python"} <= set(executed)
    assert sum(text.count("\nassert ") for _, text in blocks) >= 5


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return str(listening.getsockname()[1])


@pytest.fixture
def after_the_demo(tmp_path, monkeypatch):
    """A folder in which `make demo` has been, phase 1 of MEKD, and a download."""
    monkeypatch.chdir(tmp_path)
    save_network(LeNet5(image_size=28), "runs/demo/teacher/network")
    save_network(TransposedGenerator(image_size=28, width=4), "runs/mekd/generator/network")
    Path("downloads").mkdir()
    Image.new("L", (28, 28)).save("downloads/0.png")
    return tmp_path


@pytest.mark.parametrize("page", sorted(DOCS.glob("method-*.md")), ids=lambda path: path.stem)
def test_every_configuration_of_a_method_page_builds(page, after_the_demo, monkeypatch):
    monkeypatch.setattr(LightningCLI, "_run_subcommand", lambda *_: None)
    text = page.read_text()
    blocks = [block for language, block in BLOCK.findall(text) if language == "yaml"]
    assert blocks
    for block in blocks:
        assert run("yaml", block, after_the_demo) == "write"
        name = block.split()[1]
        command = re.search(rf"kdlightning (predict|fit) --config {name}", text)
        assert cli.main([command[1] if command else "fit", "--config", name]) == 0


def test_the_readmes_ten_lines_of_python_leave_a_record(after_the_demo):
    text = (DOCS.parent / "README.md").read_text()
    ((_, code),) = [block for block in BLOCK.findall(text) if block[0] == "python"]
    run("python", code, after_the_demo)
    record = json.loads((after_the_demo / "runs/python/result.json").read_text())
    assert record["method"] == "KD"
    assert record["queries"] == 10 * 1300
    assert (after_the_demo / "runs/python/network/model.safetensors").is_file()


def run(language, text, folder):
    """Do with a block what a reader does: write the file that its first line names, or run it."""
    name = re.match(r"# ([\w-]+\.(?:py|yaml))\n", text)
    if name:
        (folder / name[1]).write_text(text)
        return "write"
    command = {"bash": ["bash", "-e", "-c", text], "python": [sys.executable, "-c", text]}[language]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return language
