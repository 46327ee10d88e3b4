import json
import math

import pytest

from kdlightning.report import ReportError, load_rows, read_runs, summarise


def rows_of(workspace):
    return summarise(read_runs([workspace.root]).runs)


def test_seeds_are_averaged_with_the_sample_deviation(workspace):
    for seed, accuracy, queries in ((2, 0.90, 10), (0, 0.92, 20), (1, 0.97, 33)):
        workspace.run(seed=seed, accuracy=accuracy, queries=queries, agreement=accuracy, seconds=seed)
    (row,), notes = rows_of(workspace)
    assert row.accuracy_mean == pytest.approx(0.93)
    # deviations -0.03, -0.01, 0.04: squares sum to 0.0026, divided by n - 1 = 2
    assert row.accuracy_std == pytest.approx(math.sqrt(0.0013))
    assert row.seeds == [0, 1, 2]
    assert row.queries == 21
    assert isinstance(row.queries, int)
    assert row.agreement == pytest.approx(0.93)
    assert row.seconds == pytest.approx(1.0)
    assert (row.checkpoint, row.commit, notes) == ("last", "abc1234", [])


def test_a_mean_that_is_not_whole_stays_a_fraction(workspace):
    workspace.run(seed=0, queries=1)
    workspace.run(seed=1, queries=2)
    assert rows_of(workspace)[0][0].queries == 1.5


def test_one_seed_has_no_deviation(workspace):
    workspace.run(accuracy=0.5)
    (row,), _ = rows_of(workspace)
    assert (row.accuracy_mean, row.accuracy_std, row.agreement_std, row.seeds) == (0.5, None, None, [0])


def test_students_without_labels_are_compared_by_their_agreement(workspace):
    for seed, agreement in ((0, 0.90), (1, 0.94)):
        workspace.run(seed=seed, accuracy=None, agreement=agreement, tested_on="held out", test_images=6)
    workspace.run(method="Worse", accuracy=None, agreement=0.5)
    workspace.run(method="Unknown", accuracy=None, agreement=None)
    rows, notes = rows_of(workspace)
    assert [row.method for row in rows] == ["DB3KD", "Worse", "Unknown"]
    assert (rows[0].accuracy_mean, rows[0].accuracies, rows[0].agreement) == (None, None, pytest.approx(0.92))
    assert rows[0].agreement_std == pytest.approx(math.sqrt(2 * 0.02**2))
    on = "DB3KD (mbd), LeNet5Fifth on digits"
    assert notes == [f"{on}: tested on 6 images with answers, which were kept from training."]


def test_some_seeds_without_an_accuracy_make_no_mean(workspace):
    workspace.run(seed=0)
    workspace.run(seed=1, accuracy=None)
    (row,), _ = rows_of(workspace)
    assert (row.accuracy_mean, row.accuracy_std, row.accuracies, row.agreement) == (None, None, None, 0.98)


def test_a_teacher_from_elsewhere_has_a_row_by_what_its_students_say(workspace):
    known = {"teacher_accuracy": 0.91, "teacher_parameters": 5_000, "teacher_fingerprint": "ab" * 32}
    workspace.run(seed=0, **known)
    workspace.run(seed=1, **known)
    teacher, student = rows_of(workspace)[0]
    assert (teacher.role, teacher.method, teacher.student) == ("teacher", "Teacher", "LeNet5")
    assert (teacher.accuracy_mean, teacher.parameters, teacher.queries, len(teacher.seeds)) == (0.91, 5_000, 0, 1)
    assert student.seeds == [0, 1]
    workspace.run(seed=2, **known | {"teacher_accuracy": 0.8, "teacher_fingerprint": "cd" * 32})
    rows, _ = rows_of(workspace)
    assert [row.label for row in rows if row.role == "teacher"] == ["Teacher (abababab)", "Teacher (cdcdcdcd)"]
    workspace.teacher()  # one that is among the runs says it itself
    assert [row.method for row in rows_of(workspace)[0] if row.role == "teacher"] == ["Supervised"]


@pytest.mark.parametrize("key", ["method", "variant", "dataset", "teacher", "student", "access"])
def test_every_key_of_the_group_separates(workspace, key):
    workspace.run(seed=0)
    workspace.run(seed=1, **{key: "other"})
    rows, _ = rows_of(workspace)
    assert [len(row.seeds) for row in rows] == [1, 1]
    assert {getattr(row, key) for row in rows} >= {"other"}


def test_settings_that_are_averaged_as_if_they_were_seeds_are_said(workspace):
    workspace.run(seed=1, settings={"temperature": 4.0, "weight": 1.0})
    workspace.run(seed=2, settings={"temperature": 1.0, "weight": 1.0})
    workspace.run(seed=3)  # an older record
    (row,), (note,) = rows_of(workspace)
    assert row.seeds == [1, 2, 3]
    assert note.endswith(
        "runs of one row differ in temperature; are these the same experiment? --result.variant NAME keeps them apart."
    )


def test_a_replay_from_a_ledger_takes_no_place_and_sets_no_price(workspace):
    workspace.run(seed=1, queries=81)
    workspace.run(seed=1, queries=0)  # the newest
    (row,), notes = rows_of(workspace)
    assert (row.queries, notes) == (81, [])
    workspace.run(seed=2, queries=0)
    (note,) = rows_of(workspace)[1]
    assert note.endswith("some seeds have paid for no query, as if a ledger had answered: the mean is no price.")


def test_rows_are_sorted_by_role_then_accuracy(workspace):
    workspace.run(method="C", accuracy=0.8)
    workspace.run(method="B", accuracy=0.9)
    workspace.run(method="A", role="reference", accuracy=0.1)
    workspace.teacher(accuracy=0.05)
    assert [row.method for row in rows_of(workspace)[0]] == ["Supervised", "A", "B", "C"]


def test_of_a_seed_that_was_run_twice_the_newest_is_kept_and_it_is_said(workspace):
    older = workspace.run(seed=3, accuracy=0.91)
    newer = workspace.run(seed=3, accuracy=0.93)
    (row,), (note,) = rows_of(workspace)
    assert (row.accuracy_mean, row.seeds) == (0.93, [3])
    assert note.startswith("DB3KD (mbd), LeNet5Fifth on digits: seed 3 was run more than once")
    assert f"{newer}: 93.00%" in note
    assert f"{older} (91.00%) is left out" in note


def test_a_copy_of_a_run_counts_once_without_a_note(workspace):
    workspace.run(seed=3)
    workspace.run(seed=3)
    (row,), notes = rows_of(workspace)
    assert (row.seeds, notes) == ([3], [])


def test_a_run_below_two_of_the_directories_counts_once(workspace):
    path = workspace.run()
    assert [run.path for run in read_runs([workspace.root, path.parent]).runs] == [path]


def test_seeds_that_do_not_belong_together_are_named(workspace):
    workspace.run(seed=0)
    workspace.run(seed=1, parameters=20_000, commit="fff0000", checkpoint="best", agreement=None)
    (row,), notes = rows_of(workspace)
    assert (row.parameters, row.commit, row.checkpoint, row.agreement) == (None, "abc1234, fff0000", "mixed", None)
    assert notes == [
        "DB3KD (mbd), LeNet5Fifth on digits: seeds 0, 1 differ in parameters; are these the same experiment?",
        "DB3KD (mbd), LeNet5Fifth on digits: not (only) the last checkpoint was tested, but: best.",
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"accuracy": 97.1}, "accuracy: expected a fraction in [0, 1], got 97.1"),
        ({"accuracy": -0.1}, "accuracy: expected a fraction in [0, 1], got -0.1"),
        ({"accuracy": float("nan")}, "accuracy: expected a fraction in [0, 1], got nan"),
        ({"seed": True}, "seed: expected a whole number, got True"),
        ({"seed": 1.5}, "seed: expected a whole number, got 1.5"),
        ({"role": "pupil"}, "role: expected one of teacher, reference, student, got 'pupil'"),
        ({"queries": -1}, "queries: expected a whole number that is not negative, got -1"),
        ({"method": 3}, "method: expected a string, got 3"),
        ({"versions": "2.8"}, "versions: expected an object of texts, got '2.8'"),
        ({"schema": 2}, "expected schema 1, got 2; update kdlightning to read it"),
    ],
)
def test_a_run_with_a_wrong_value_is_a_problem_not_a_crash(workspace, changes, reason):
    good, bad = workspace.run(seed=1), workspace.run(**changes)
    findings = read_runs([workspace.root])
    assert [run.path for run in findings.runs] == [good]
    assert findings.problems == ((bad, reason),)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[]", "expected a JSON object, got list"),
        ('{"method": "MEKD", "variant": null, "role": "student", "dataset": "d", "teacher": null, "student": "s"}',
         "missing access, seed, accuracy"),
    ],
)  # fmt: skip
def test_malformed_and_incomplete_files_are_problems(workspace, content, reason):
    path = workspace.run()
    path.write_text(content)
    findings = read_runs([workspace.root])
    assert (findings.runs, findings.problems) == ((), ((path, reason),))


def test_unknown_keys_are_ignored_and_optional_keys_may_be_absent(workspace):
    path = workspace.run(colour="blue", path="/elsewhere")
    text = path.read_text().replace('"agreement": 0.98, ', "")
    path.write_text(text)
    (run,) = read_runs([workspace.root]).runs
    assert (run.path, run.agreement, hasattr(run, "colour")) == (path, None, False)


def test_a_transfer_set_keeps_rows_and_columns(workspace):
    workspace.transfer_set(distance_curve={"queries": [10, 100], "mean": [5, 4], "std": [1, 0.5]})
    (found,) = read_runs([workspace.root]).transfer_sets
    assert found.mean_distance == ((None, 4.25, 1.5), (2.0, None, None), (3.0, 0.5, None))
    assert found.distance_curve == ((10.0, 100.0), (5.0, 4.0), (1.0, 0.5))
    assert (found.robustness, found.class_names, found.queries) == ("bd", ("a", "b", "c"), 4321)


def test_manifests_without_distances_are_not_shown(workspace):
    path = workspace.transfer_set()
    path.write_text('{"class_names": ["a"], "dataset": "digits"}')
    findings = read_runs([workspace.root])
    assert (findings.transfer_sets, findings.problems) == ((), ())
    assert findings.manifests == {"transfer": {"dataset": "digits"}}


def test_a_manifests_single_values_are_kept_by_name_or_by_path(workspace):
    paths = [workspace.transfer_set(name, rows=rows) for rows, name in enumerate(("labels", "a/images", "b/images"))]
    manifests = read_runs([workspace.root]).manifests
    assert list(manifests) == [str(paths[1].parent), str(paths[2].parent), "labels"]
    assert [facts["rows"] for facts in manifests.values()] == [1, 2, 0]
    assert manifests["labels"]["queries"] == 4321
    assert not {"class_names", "mean_distance"} & manifests["labels"].keys()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"class_names": None}, "class_names: expected a list of names, got None"),
        ({"mean_distance": [[1.0]]}, "mean_distance: expected 3 rows of 3 numbers, one per class name"),
        ({"mean_distance": [["x"] * 3] * 3}, "mean_distance: expected a number, got 'x'"),
        ({"distance_curve": {"queries": [1], "mean": [1, 2], "std": [1]}},
         "distance_curve: expected queries, mean and std, three lists of the same length, "
         "got {'mean': [1, 2], 'queries': [1], 'std': [1]}"),
        ({"queries": "many"}, "queries: expected a whole number that is not negative, got 'many'"),
    ],
)  # fmt: skip
def test_a_transfer_set_with_a_wrong_value_is_a_problem(workspace, changes, reason):
    path = workspace.transfer_set(**changes)
    assert read_runs([workspace.root]).problems == ((path, reason),)


def test_a_path_that_is_not_a_directory_is_refused(tmp_path):
    with pytest.raises(ReportError, match="nowhere is not a directory"):
        read_runs([tmp_path / "nowhere"])


def test_rows_survive_the_json_file(workspace, tmp_path):
    from kdlightning.report import write_report

    workspace.run(seed=0, accuracy=0.9)
    workspace.run(seed=1, accuracy=0.95)
    output = write_report([workspace.root], tmp_path / "out")
    assert load_rows(output / "results.json") == rows_of(workspace)[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"accuracy_mean": 97.1}, "row 1: accuracy_mean: expected a fraction in [0, 1], got 97.1"),
        ({"role": "pupil"}, "row 1: role: expected one of teacher, reference, student, got 'pupil'"),
        ({"queries": "many"}, "row 1: queries: expected a number that is not negative, got 'many'"),
        ({"seeds": [1.5]}, "row 1: seeds: expected a whole number, got 1.5"),
    ],
)
def test_a_wrong_row_is_one_sentence_with_file_and_field(workspace, tmp_path, changes, reason):
    from kdlightning.report import write_report

    workspace.run()
    path = write_report([workspace.root], tmp_path / "out") / "results.json"
    (row,) = json.loads(path.read_text())
    path.write_text(json.dumps([row, {**row, **changes}]))
    with pytest.raises(ReportError) as complaint:
        load_rows(path)
    assert str(complaint.value) == f"{path}: {reason}"


@pytest.mark.parametrize(
    ("content", "reason"), [("{", "Expecting property name"), ("{}", "expected a list of rows, got dict")]
)
def test_what_is_no_list_of_rows_is_a_sentence_too(tmp_path, content, reason):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(ReportError, match=f"{path}: {reason}"):
        load_rows(path)
