"""A rerun is recognised as the same, or not."""

import json

import pytest

from kdlightning.commands.report import main
from kdlightning.report import load_rows, recognise, write_report


@pytest.fixture
def kept(workspace, tmp_path):
    """A kept record: two seeds each of three variants and a fourth, which is not run again."""
    for variant in ("bits", "accuracies", "others", "gone"):
        for seed in (1, 2):
            workspace.run(variant=variant, seed=seed, accuracy=0.9, fingerprint=f"{variant}{seed}")
    path = write_report([workspace.root], tmp_path / "kept") / "results.json"
    for file in workspace.root.rglob("result.json"):
        told = json.loads(file.read_text())
        if told["variant"] == "gone":
            file.unlink()
            continue
        if told["variant"] != "bits":
            told["fingerprint"] = "another"
        if told["variant"] == "others":
            told["accuracy"] = 0.92 if told["seed"] == 1 else 0.89
        file.write_text(json.dumps(told))
    return path


def test_each_row_is_told_by_its_networks_then_by_its_accuracies(workspace, kept, capsys):
    workspace.run(variant="new")
    assert main([str(workspace.root), "--against", str(kept)]) == 0
    name = "DB3KD ({}), LeNet5Fifth, hard, digits: {}"
    said = [
        name.format("bits", "the same networks to the bit (2 seeds)"),
        name.format("accuracies", "the same accuracies, other weights (2 seeds)"),
        name.format(
            "others",
            "other accuracies: +0.50 points on the mean, -1.00 to +2.00 (2 seeds; a machine, commit abc1234)",
        ),
        name.format("new", "no such row is kept"),
        name.format("gone", "kept, but not run again"),
    ]
    out = capsys.readouterr().out.splitlines()
    assert sorted(out[-6:-1]) == sorted(said)
    assert said[0] in (workspace.root / "report/report.html").read_text()


def test_a_record_without_fingerprints_is_compared_by_its_accuracies(workspace, kept):
    rows = load_rows(kept)
    old = [row.model_copy(update={"fingerprints": None, "accuracies": [0.9 + 1e-9, 0.9]}) for row in rows]
    assert {said.partition(": ")[2] for said in recognise(rows, old)} == {
        "the same accuracies, weights not known (2 seeds)"
    }


def test_only_shared_seeds_count_and_another_teacher_is_said(workspace, kept):
    row = load_rows(kept)[0].model_copy(update={"teacher_fingerprint": "ab"})
    other = row.model_copy(
        update={"seeds": [2, 3], "accuracies": [0.8, 0.7], "fingerprints": ["x", "y"], "teacher_fingerprint": "cd"}
    )
    (said,) = recognise([row], [other])
    assert "+10.00 points on the mean, +10.00 to +10.00 (1 seed, from another teacher;" in said
    assert recognise([row], [other.model_copy(update={"seeds": [8, 9]})])[0].endswith(": no seed in common")
    missing = other.model_copy(update={"accuracies": None})
    assert recognise([row], [missing])[0].endswith(": cannot be compared, an accuracy is missing")


def test_a_record_that_is_not_there_is_one_sentence(workspace, tmp_path, capsys):
    workspace.run()
    assert main([str(workspace.root), "--against", str(tmp_path / "no.json")]) == 2
    assert f"{tmp_path / 'no.json'}: [Errno 2] No such file" in capsys.readouterr().err
