"""Paired comparisons: terms worked out by hand, and what is said of them."""

import json
import math

import pytest

from kdlightning.commands.report import main
from kdlightning.report import ReportError, compare_all, find, read_runs, summarise, write_report
from kdlightning.report.paired import Comparison, _holm, _needed, compare

BETTER = (0.01, 0.02, 0.03, 0.02, 0.01, 0.03)  # mean 0.02, squared deviations 4 * 0.01^2


def students(workspace, accuracies, first=1, **changes):
    for seed, accuracy in enumerate(accuracies, first):
        workspace.run(seed=seed, accuracy=accuracy, **changes)


def rows_of(workspace):
    return summarise(read_runs([workspace.root]).runs)[0]


def pair(workspace, differences, **changes):
    students(workspace, [0.8 + one for one in differences], variant="bd", **changes)
    students(workspace, [0.8 for _ in differences], variant="noise", **changes)
    rows = rows_of(workspace)
    return compare(*find(rows, "DB3KD (bd)"), *find(rows, "DB3KD (noise)"))


def test_six_differences_by_hand(workspace):
    one = pair(workspace, BETTER)
    half = 2.570582 * math.sqrt(4e-4 / 5) / math.sqrt(6)  # Student's quantile at 97.5 %, five degrees of freedom
    assert one.difference == pytest.approx(0.02)
    assert (one.low, one.high) == pytest.approx((0.02 - half, 0.02 + half), abs=1e-8)
    assert (one.p, one.wins, one.losses, one.verdict) == (2 / 2**6, 6, 0, 1)
    assert one.statement == (
        "DB3KD (bd) beats DB3KD (noise) by 2.00 points (95 % interval 1.06 to 2.94, 6 of 6 seeds, p = 0.031)"
    )


def test_the_worse_one_is_behind(workspace):
    one = pair(workspace, [-each for each in BETTER], point={"images": 200})
    assert (one.p, one.wins, one.losses, one.verdict) == (2 / 2**6, 0, 6, -1)
    assert one.statement == (
        "DB3KD (bd) is behind DB3KD (noise) by 2.00 points at images 200 "
        "(95 % interval -2.94 to -1.06, 6 of 6 seeds, p = 0.031)"
    )


def test_the_share_of_signs_by_hand(workspace):
    # ±3 ±1 ±2: sums 6, 4, 2, 0, 0, -2, -4, -6; four of eight are as far from zero as 3 - 1 + 2
    one = pair(workspace, (0.03, -0.01, 0.02))
    assert (one.p, one.wins, one.losses) == (0.5, 2, 1)
    assert "cannot be told apart: +1.33 points (95 % interval -3.84 to 6.50, 2 of 3 seeds, p = 0.500;" in one.statement


def test_five_seeds_cannot_show_anything_however_clear_they_are(workspace):
    one = pair(workspace, (0.1, 0.11, 0.1, 0.11, 0.1))
    assert (one.p, one.verdict, one.needed) == (2 / 2**5, 0, 6)
    assert one.low > 0.09
    assert one.statement.endswith("5 of 5 seeds, p = 0.062; about 6 seeds would be needed)")


def test_equal_accuracies_differ_in_nothing(workspace):
    one = pair(workspace, (0.0,) * 6)
    assert (one.difference, one.low, one.high, one.p, one.wins, one.losses) == (0, 0, 0, 1, 0, 0)
    assert one.statement.endswith("0 of 6 seeds, p = 1.000; more than 1,000 seeds would be needed)")


def test_float32_accuracies_tie_where_their_counts_do(workspace):
    students(workspace, (0.8999999761581421, 0.8799999952316284, 0.8600000143051147), variant="bd")
    students(workspace, (0.8899999856948853, 0.8700000047683716, 0.8799999952316284), variant="noise")
    rows = rows_of(workspace)
    one = compare(*find(rows, "DB3KD (bd)"), *find(rows, "DB3KD (noise)"))
    assert one.p == 1  # +1, +1, -2 points: every choice of signs is at least as far from zero as their sum, 0


def test_many_seeds_are_tested_by_draws_that_are_the_same_every_time(workspace):
    differences = [0.01 + 0.01 * (-1) ** seed for seed in range(14)]  # seven ties, seven times two points
    one, other = pair(workspace, differences), None
    other = compare(*find(rows_of(workspace), "DB3KD (bd)"), *find(rows_of(workspace), "DB3KD (noise)"))
    assert one.p == other.p == pytest.approx(2 / 2**7, abs=0.002)


@pytest.mark.parametrize(("effect", "count"), [(0.5, 34), (0.8, 15), (1.0, 10), (10.0, 6), (0.01, None), (0.0, None)])
def test_seeds_needed_are_those_of_the_tables_of_power(effect, count):
    assert _needed(effect, 1.0) == count


def test_holm_by_hand():
    def tested(dataset, p):
        return Comparison(dataset, "s", "", "a", "b", (1, 2), (), p=p)

    made = _holm([*(tested("d", p) for p in (0.04, 0.01, 0.03, None)), tested("other", 0.04)])
    assert [one.p_holm for one in made] == pytest.approx([0.06, 0.03, 0.06, None, 0.04])


def test_seeds_without_a_partner_are_named_and_not_used(workspace):
    students(workspace, [0.8 + one for one in BETTER], variant="bd")
    students(workspace, [0.8] * 7, first=3, variant="noise")
    rows = rows_of(workspace)
    one = compare(*find(rows, "DB3KD (bd)"), *find(rows, "DB3KD (noise)"))
    assert (one.seeds, one.alone) == ((3, 4, 5, 6), (1, 2, 7, 8, 9))
    assert one.difference == pytest.approx((0.03 + 0.02 + 0.01 + 0.03) / 4)
    assert one.statement.endswith("; only one of them has seeds 1, 2, 7, 8, 9)")


def test_one_seed_and_none(workspace):
    students(workspace, [0.85], first=1, variant="bd")
    students(workspace, [0.8], first=1, variant="noise")
    students(workspace, [0.8], first=2, variant="sd")
    rows = rows_of(workspace)
    (bd,), (noise,), (sd,) = (find(rows, f"DB3KD ({name})") for name in ("bd", "noise", "sd"))
    assert compare(bd, noise).statement == (
        "DB3KD (bd) against DB3KD (noise): +5.00 points on one seed, which tells nothing"
    )
    assert compare(bd, sd).statement == (
        "DB3KD (bd) and DB3KD (sd) have no seed in common; only one of them has seeds 1, 2"
    )


def test_seeds_that_were_added_until_there_was_a_verdict_are_held_to_one_percent(workspace):
    one = pair(workspace, BETTER)._replace(level=0.01)
    assert one.verdict == 0
    rows = [row.model_copy(update={"sequential": True}) for row in rows_of(workspace)]
    one = compare(*find(rows, "DB3KD (bd)"), *find(rows, "DB3KD (noise)"))
    assert one.level == 0.01
    assert "99 % interval 0.53 to 3.47, 6 of 6 seeds, p = 0.031, seeds added until there was a verdict" in one.statement


def test_rows_are_paired_by_data_set_teacher_student_and_point(workspace):
    for images in (50, 500):
        students(workspace, [0.9, 0.91], variant="bd", point={"images": images, "queries": 10})
        students(workspace, [0.8, 0.82], variant="noise", point={"images": images, "queries": 10})
        reference = {"method": "Supervised", "variant": None, "role": "reference", "teacher": None, "access": "labels"}
        students(workspace, [0.5 + images / 1000] * 2, point={"images": images}, **reference)
    students(workspace, [0.9, 0.9], variant="bd", dataset="fashion")
    students(workspace, [0.9, 0.9], variant="bd", teacher_fingerprint="ab")
    workspace.teacher()
    rows = rows_of(workspace)
    compared, notes = compare_all(rows)
    made = {(one.row, one.baseline, one.place): round(one.difference, 4) for one in compared}
    assert made == {
        ("DB3KD (bd)", "Supervised", "images 50, queries 10"): 0.355,
        ("DB3KD (noise)", "Supervised", "images 50, queries 10"): 0.26,
        ("DB3KD (bd)", "Supervised", "images 500, queries 10"): -0.095,
        ("DB3KD (noise)", "Supervised", "images 500, queries 10"): -0.19,
    }
    assert notes == []
    compared, notes = compare_all(rows, ["DB3KD (noise)"])
    assert [(one.row, one.place) for one in compared] == [
        ("DB3KD (bd)", "images 50, queries 10"),
        ("DB3KD (bd)", "images 500, queries 10"),
    ]
    assert "DB3KD (bd), LeNet5Fifth on fashion: not compared, there is no 'DB3KD (noise)' to pair it with." in notes
    assert len(notes) == 4


def test_teachers_with_other_weights_are_no_pair(workspace):
    students(workspace, [0.9, 0.9], variant="bd", teacher_fingerprint="ab")
    students(workspace, [0.8, 0.8], variant="noise", teacher_fingerprint="cd")
    assert compare_all(rows_of(workspace), ["DB3KD (noise)"])[0] == []


def test_a_missing_accuracy_is_said(workspace):
    students(workspace, [0.9, None], variant="bd")
    students(workspace, [0.8, 0.8], variant="noise")
    compared, (note,) = compare_all(rows_of(workspace), ["DB3KD (noise)"])
    assert compared == []
    assert note == "DB3KD (bd), LeNet5Fifth on digits: not compared with 'DB3KD (noise)', an accuracy is missing."


def test_two_accesses_of_a_method_are_told_apart(workspace):
    for access, accuracy in (("soft", 0.9), ("hard", 0.8)):
        students(workspace, [accuracy] * 2, variant=None, method="MEKD", access=access)
    (one,), _ = compare_all(rows_of(workspace), ["MEKD | hard"])
    assert (one.row, one.baseline) == ("MEKD, soft", "MEKD, hard")


def test_a_baseline_that_is_not_there_is_one_sentence(workspace, capsys):
    students(workspace, [0.9], variant="bd")
    assert main([str(workspace.root), "--baseline", "KD"]) == 2
    assert capsys.readouterr().err == "kdlightning report: no row is the baseline 'KD'; there are: DB3KD (bd)\n"
    with pytest.raises(ReportError, match="no row is the baseline"):
        write_report([workspace.root], baselines=["KD"])


def test_the_report_says_what_the_comparison_says(workspace, capsys):
    students(workspace, [0.8 + one for one in BETTER], variant="bd")
    students(workspace, [0.8] * 6, variant="noise")
    assert main([str(workspace.root), "--baseline", "DB3KD (noise)"]) == 0
    (one,) = json.loads((workspace.root / "report/comparisons.json").read_text())
    assert one["statement"] in capsys.readouterr().out.splitlines()
    assert (one["p"], one["p_holm"], one["seeds"], one["alone"]) == (0.03125, 0.03125, [1, 2, 3, 4, 5, 6], [])
    line = "| DB3KD (bd) | DB3KD (noise) | LeNet5Fifth | 2.00 | 1.06 to 2.94 (95%) | 6 of 6 seeds | 0.031 | 0.031 "
    assert line + "| better | 6 | – |" in (workspace.root / "report/report.md").read_text()
    assert "<h3>Paired comparisons</h3>" in (workspace.root / "report/report.html").read_text()
