"""docs/reliability.md lists what the tests under tests/hostile say that they try."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def marks() -> set[tuple[str, ...]]:
    found = set()
    for path in (ROOT / "tests/hostile").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.tried":
                texts = map(ast.literal_eval, node.args)
                found.add(tuple(text[0].upper() + text[1:] for text in texts))
    return found


def test_the_table_lists_every_attack_and_all_held():
    page = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+) \| ([\d,]+) \| (.+) \| ([\d,]+) \|$", page, re.M)
    assert {(what, held) for what, _, held, _ in rows} == marks(), "run `make reliability`"
    assert [row for row in rows if row[1] != row[3]] == []
