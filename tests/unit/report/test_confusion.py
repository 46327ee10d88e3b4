import json

import numpy as np
import pytest

from kdlightning.report import draw_confusions, read_confusions, read_runs, write_report
from kdlightning.report.figures import plot_confusion


def beside(run, counts, names=("cat", "dog")):
    run.with_name("confusion.json").write_text(json.dumps({"schema": 1, "class_names": names, "counts": counts}))


def read(workspace):
    return read_confusions(read_runs([workspace.root]).runs)


def test_seeds_are_added_up_and_the_newest_of_a_seed_counts(workspace):
    beside(workspace.run(seed=1), [[1, 2], [3, 4]])
    beside(workspace.run(seed=0), [[100, 0], [0, 100]])
    beside(workspace.run(seed=0), [[10, 20], [30, 40]])
    beside(workspace.teacher(), [[9, 9], [9, 9]])  # students only
    workspace.run(variant="bd")  # has none
    (entry,), problems = read(workspace)
    assert problems == []
    assert (entry.label, entry.dataset, entry.seeds) == ("DB3KD (mbd), LeNet5Fifth, hard", "digits", (0, 1))
    assert (entry.class_names, entry.counts) == (("cat", "dog"), ((11, 22), (33, 44)))


@pytest.mark.parametrize(
    ("counts", "names", "reason"),
    [
        ([[1, 2]], ["cat", "dog"], "expected 2 rows of 2 numbers"),
        ([[1], [2]], ["cat", "dog"], "expected 2 rows of 2 numbers"),
        ([[1, -2], [3, 4]], ["cat", "dog"], "counts: expected a whole number that is not negative, got -2"),
        ([[1, True], [3, 4]], ["cat", "dog"], "counts: expected a whole number that is not negative, got True"),
        ([], [], "expected a list of names"),
    ],
)
def test_what_cannot_be_used_is_a_problem(workspace, counts, names, reason):
    run = workspace.run()
    beside(run, counts, names)
    confusions, (problem,) = read(workspace)
    assert confusions == []
    assert problem.path == run.with_name("confusion.json")
    assert reason in problem.reason


def test_other_classes_are_not_added(workspace):
    beside(workspace.run(seed=0), [[1, 2], [3, 4]])
    beside(workspace.run(seed=1), [[1, 2], [3, 4]], ["dog", "cat"])
    (entry,), (problem,) = read(workspace)
    assert entry.seeds == (0,)
    assert "not those of the other seeds" in problem.reason


def test_the_heat_map_shows_shares_of_rows(workspace):
    beside(workspace.run(), [[9, 1, 0], [0, 0, 0], [0, 5, 5]], ["a", "b", "c"])
    (entry,), _ = read(workspace)
    (axes, bar) = plot_confusion(entry).axes
    shown = axes.images[0].get_array()
    assert np.array_equal(shown.filled(-1), [[90, 10, -1], [-1, -1, -1], [-1, 50, 50]])
    assert [text.get_text() for text in axes.texts] == ["90.0", "10.0", "50.0", "50.0"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("class by the student", "class by the label")
    assert bar.get_ylabel() == "share of the row (%)"


def test_it_is_part_of_the_report(workspace):
    beside(workspace.run(), [[9, 1], [0, 10]])
    (entry,), _ = read(workspace)
    (picture,) = draw_confusions([entry])
    output = write_report([workspace.root])
    assert picture.name == "confusion-digits-db3kd-mbd-lenet5fifth-hard.png"
    assert (output / picture.name).read_bytes().startswith(b"\x89PNG")
    assert "Classes taken for others, digits, DB3KD (mbd), LeNet5Fifth, hard" in (output / "report.md").read_text()
