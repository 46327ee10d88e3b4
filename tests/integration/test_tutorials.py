"""The tutorials run as they are printed: their blocks, in order, in an empty folder. They assert what they claim."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(python|yaml|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.timeout(900)  # half a minute each on a core of their own
@pytest.mark.parametrize("page", sorted(DOCS.glob("tutorial-*.md")), ids=lambda path: path.stem)
def test_every_block_of_a_tutorial_runs(page, tmp_path):
    blocks = BLOCK.findall(page.read_text())
    executed = [run(language, text, tmp_path) for language, text in blocks]
    # every page writes files, gives commands, and checks values
    assert {"write", "bash", "python"} <= set(executed)
    assert sum(text.count("\nassert ") for _, text in blocks) >= 5


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
