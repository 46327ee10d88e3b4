"""Where a run lies on a curve: what its record says, and what a report makes of it."""

import json
import math

import pytest

from kdlightning.callbacks import RunResult
from kdlightning.commands.report import main
from kdlightning.report import load_rows, read_runs, summarise, write_report


def rows_of(workspace):
    return summarise(read_runs([workspace.root]).runs)


def test_points_tell_rows_apart_and_sort_them(workspace):
    for images in (1000, 50):
        for seed in (0, 1):
            workspace.run(seed=seed, point={"images": images}, accuracy=images / 2000 + seed / 100)
    workspace.run(seed=0, method="MEKD", point={"images": 50}, accuracy=0.9)
    workspace.teacher()  # a record of before there were points
    rows, notes = rows_of(workspace)
    assert [(row.method, row.point, row.place, row.seeds) for row in rows] == [
        ("Supervised", {}, "", [0]),
        ("MEKD", {"images": 50}, "images 50", [0]),
        ("DB3KD", {"images": 50}, "images 50", [0, 1]),
        ("DB3KD", {"images": 1000}, "images 1,000", [0, 1]),
    ]
    assert rows[3].accuracies == [0.5, 0.51]
    assert notes == []


def test_the_order_of_a_points_names_does_not_matter(workspace):
    workspace.run(seed=0, point={"images": 50, "share": 0.1})
    workspace.run(seed=1, point={"share": 0.1, "images": 50})
    (row,), _ = rows_of(workspace)
    assert (row.seeds, row.place) == ([0, 1], "images 50, share 0.1")


def test_the_point_stands_in_a_column_of_its_own_where_there_is_one(workspace, capsys):
    workspace.run(point={"images": 200})
    main([str(workspace.root)])
    heads = capsys.readouterr().out.splitlines()[2].split()
    assert heads[:4] == ["Method", "Point", "Student", "Access"]
    assert not {"Parameters", "Seconds"} & set(heads)  # there is no room for all
    output = workspace.root / "report"
    assert "| DB3KD (mbd) | images 200 | LeNet5Fifth |" in (output / "report.md").read_text()
    assert "DB3KD (mbd), at images 200, reaches 97.00 %" in (output / "report.md").read_text()
    assert "point=" not in (line := (output / "results.csv").read_text().splitlines()[1])
    assert "images=200" in line
    (row,) = load_rows(output / "results.json")
    assert row == rows_of(workspace)[0][0]
    (content,) = json.loads((output / "results.json").read_text())
    assert content["point"] == {"images": 200}
    assert isinstance(content["point"]["images"], int)


def test_a_kept_row_of_before_there_were_points_has_none(workspace, tmp_path):
    workspace.run()
    path = write_report([workspace.root], tmp_path) / "results.json"
    (content,) = json.loads(path.read_text())
    del content["point"]
    path.write_text(json.dumps([content]))
    assert load_rows(path)[0].point == {}
    assert "| Point |" not in (tmp_path / "report.md").read_text()


def test_the_best_student_is_compared_with_the_references_of_its_point(workspace):
    for images, accuracy in ((50, 0.6), (500, 0.8)):
        workspace.run(method="Supervised", variant=None, role="reference", point={"images": images}, accuracy=accuracy)
        workspace.run(point={"images": images}, accuracy=accuracy + 0.1)
    page = (write_report([workspace.root]) / "report.md").read_text()
    assert "LeNet5Fifth without a teacher has 80.00 % (1 seed).**" in page


@pytest.mark.parametrize(
    "point", [[3], 200, {"images": "many"}, {"images": True}, {" ": 1}, {"images": math.inf}], ids=repr
)
def test_a_record_with_another_point_is_a_problem(workspace, point):
    path = workspace.run(point=point)
    reason = f"point: expected finite numbers by their names, such as images: 200, got {point}"
    assert read_runs([workspace.root]).problems == ((path, reason),)


@pytest.mark.parametrize(
    ("point", "got"), [({"images": "many"}, "images: 'many'"), ({"share": math.nan}, "share: nan"), ({"": 1}, ": 1")]
)
def test_a_run_is_not_begun_with_another_point(point, got):
    with pytest.raises(ValueError, match="point takes finite numbers by their names") as complaint:
        RunResult(point=point)
    assert str(complaint.value) == f"point takes finite numbers by their names, such as images: 200; got {got}"


def test_a_points_numbers_stay_what_they_are():
    assert RunResult(point={"images": 200, "share": 0.1}).point == {"images": 200, "share": 0.1}
    assert RunResult().point == {}
