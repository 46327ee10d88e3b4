"""Accuracy against a number of the runs' points, as a figure and as a table."""

import math

import pytest

from kdlightning.report import find_curves, plot_curve, read_runs, summarise, write_report
from kdlightning.report.tables import curve_table

REFERENCE = {"method": "Supervised", "variant": None, "role": "reference", "teacher": None, "access": "labels"}


def curves_of(workspace):
    return find_curves(summarise(read_runs([workspace.root]).runs)[0])


@pytest.fixture
def curve(workspace):
    workspace.teacher()
    for images in (50, 200, 5000):
        for seed in (1, 2):
            workspace.run(seed=seed, point={"images": images}, accuracy=0.8 + images / 50_000 + seed / 100)
            workspace.run(seed=seed, point={"images": images}, accuracy=0.85 + seed / 100, **REFERENCE)
    workspace.run(method="MEKD", variant=None, point={"images": 200}, accuracy=0.9)
    (found,) = curves_of(workspace)
    return found


def test_arms_are_told_by_method_and_have_their_rows_by_number(curve):
    assert (curve.axis, curve.student, curve.place, curve.numbers) == ("images", "LeNet5Fifth", "", [50, 200, 5000])
    assert {arm.name: [round(row.accuracy_mean, 3) for row in arm.rows.values()] for arm in curve.arms} == {
        "Supervised": [0.865, 0.865, 0.865],
        "DB3KD (mbd)": [0.816, 0.819, 0.915],
        "MEKD": [0.9],
    }
    assert [row.role for row in curve.lines] == ["teacher"]


def test_the_table_marks_the_best_of_each_number(curve):
    table = curve_table(curve)
    assert [column.heading for column in table.columns] == ["Method", "images 50", "images 200", "images 5,000"]
    cells = {arm.name: [column.show(arm) for column in table.columns[1:]] for arm in table.items}
    assert cells == {
        "Supervised": ["★ 86.50 ± 0.71 (2)", "86.50 ± 0.71 (2)", "86.50 ± 0.71 (2)"],
        "DB3KD (mbd)": ["81.60 ± 0.71 (2)", "81.90 ± 0.71 (2)", "★ 91.50 ± 0.71 (2)"],
        "MEKD": ["–", "★ 90.00 (1)", "–"],
    }


def test_the_figure_has_a_line_and_a_band_for_each_arm(curve):
    (axes,) = plot_curve(curve).axes
    drawn = {line.get_label(): line for line in axes.lines}
    assert set(drawn) == {"Supervised", "DB3KD (mbd)", "MEKD", "teacher, LeNet5 99.00"}
    assert drawn["DB3KD (mbd)"].get_xdata().tolist() == [50, 200, 5000]
    assert drawn["DB3KD (mbd)"].get_ydata().tolist() == pytest.approx([81.6, 81.9, 91.5])
    assert axes.get_xscale() == "log"  # 5,000 is 100 times 50
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["50", "200", "5k"]
    # Student's quantile at 97.5 % with one degree of freedom, times the deviation of two seeds that are a point apart
    half = 12.7062 * (1 / math.sqrt(2)) / math.sqrt(2)
    band = axes.collections[[arm.name for arm in curve.arms].index("DB3KD (mbd)")].get_paths()[0].vertices[:, 1]
    low, high = axes.get_ylim()
    assert (band.min(), band.max()) == pytest.approx((max(81.6 - half, low), min(91.5 + half, high)), abs=1e-3)


def test_the_list_is_in_the_order_of_the_greatest_number(workspace):
    for images in (1, 5):
        workspace.run(variant="low", point={"images": images}, accuracy=0.9 - images / 10)
        workspace.run(variant="high", point={"images": images}, accuracy=0.3 + images / 10)
    (found,) = curves_of(workspace)
    (axes,) = plot_curve(found).axes
    assert [entry.get_text() for entry in axes.get_legend().get_texts()] == ["DB3KD (high)", "DB3KD (low)"]
    assert axes.get_xscale() == "linear"


def test_two_numbers_make_a_curve_for_each_with_the_other_held(workspace):
    for images in (50, 500):
        workspace.run(point={"images": images}, **REFERENCE)
        for queries in (10, 100):
            workspace.run(point={"images": images, "queries": queries})
    found = curves_of(workspace)
    assert [(one.axis, one.place, [arm.name for arm in one.arms], len(one.lines)) for one in found] == [
        ("images", "queries 10", ["Supervised", "DB3KD (mbd)"], 0),
        ("images", "queries 100", ["Supervised", "DB3KD (mbd)"], 0),
        ("queries", "images 50", ["DB3KD (mbd)"], 1),
        ("queries", "images 500", ["DB3KD (mbd)"], 1),
    ]


def test_accesses_and_teachers_are_named_where_there_are_several(workspace):
    for images in (50, 500):
        for access in ("soft", "hard"):
            workspace.run(variant=None, method="MEKD", access=access, point={"images": images})
        for teacher in ("A", "B"):
            workspace.run(variant=None, method="KD", access="soft", teacher=teacher, point={"images": images})
    (found,) = curves_of(workspace)
    assert sorted(arm.name for arm in found.arms) == ["KD, A", "KD, B", "MEKD, hard", "MEKD, soft"]


def test_one_number_is_no_curve(workspace):
    workspace.run(point={"images": 50})
    workspace.run(variant="sd", point={"images": 500})
    workspace.run(variant="bd")
    assert curves_of(workspace) == []


def test_the_report_shows_the_curve_and_its_rows_in_no_other_figure(workspace, curve):
    output = write_report([workspace.root])
    assert sorted(path.name for path in output.glob("*.png")) == ["against-digits-images-lenet5fifth.png"]
    page = (output / "report.md").read_text()
    assert "### Accuracy against images, LeNet5Fifth, digits" in page
    assert "| DB3KD (mbd) | 81.60 ± 0.71 (2) | 81.90 ± 0.71 (2) | ★ 91.50 ± 0.71 (2) |" in page
    assert "The band" not in page
    assert "the band is its 95 % interval" in page
    workspace.run(variant="elsewhere", queries=10)
    write_report([workspace.root])
    assert (output / "accuracy-digits.png").exists()
