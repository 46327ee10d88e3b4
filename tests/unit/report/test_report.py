import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import kdlightning
from kdlightning.commands.report import main
from kdlightning.report import ReportError, print_table, read_runs, summarise, write_report
from kdlightning.report.tables import comparison

KEYS = [
    *("method", "variant", "role", "dataset", "teacher", "student", "access", "point"),
    *("accuracy_mean", "accuracy_std", "seeds", "agreement", "parameters", "macs"),
    *("queries", "bytes_up", "bytes_down", "seconds", "checkpoint", "commit"),
    *("hardware", "versions", "accuracies", "accuracies_best", "configs", "agreement_std"),
    *("teacher_fingerprint", "fingerprints", "test_images", "test_fingerprints", "sequential"),
]


@pytest.fixture
def runs(workspace):
    workspace.teacher()
    for seed, accuracy in enumerate((0.96, 0.97, 0.98)):
        workspace.run(seed=seed, accuracy=accuracy)
    workspace.run(method="MEKD", variant=None, access="soft", accuracy=0.95, queries=50_000)
    workspace.transfer_set()
    return workspace


def table_line(markdown, start):
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {start} |"))
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_all_files_are_written_into_the_first_directory(runs):
    output = write_report([runs.root])
    assert output == runs.root / "report"
    assert sorted(path.name for path in output.iterdir()) == [
        "accuracy-digits.png",
        "distances-digits-transfer.png",
        "report.html",
        "report.md",
        "results.csv",
        "results.json",
        "transfer-sets.json",
    ]


def test_results_json_has_exactly_the_promised_keys(runs):
    results = json.loads((write_report([runs.root]) / "results.json").read_text())
    assert [list(result) for result in results] == [KEYS] * 3
    assert [(result["method"], result["seeds"]) for result in results] == [
        ("Supervised", [0]),
        ("DB3KD", [0, 1, 2]),
        ("MEKD", [0]),
    ]
    assert results[1]["accuracy_mean"] == pytest.approx(0.97)
    assert results[1]["accuracy_std"] == pytest.approx(0.01)
    assert results[1]["queries"] == 1_000_000
    assert results[1]["accuracies"] == [0.96, 0.97, 0.98]
    assert results[1]["versions"] == {"torch": "2.8.0"}
    assert results[1]["configs"] is None  # their files are gone


def test_csv_says_what_json_says(runs):
    output = write_report([runs.root])
    with (output / "results.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    results = json.loads((output / "results.json").read_text())
    assert list(lines[0]) == KEYS
    for line, result in zip(lines, results, strict=True):
        expected = {k: " ".join(map(str, value)) if isinstance(value, list) else value for k, value in result.items()}
        expected |= {"versions": "torch=2.8.0", "point": ""}
        assert line == {key: "" if value is None else str(value) for key, value in expected.items()}


def test_markdown_cells(runs):
    markdown = (write_report([runs.root]) / "report.md").read_text()
    titles = [column.heading for column in comparison([]).columns]
    assert f"| {' | '.join(titles)} |" in markdown
    assert table_line(markdown, "DB3KD (mbd)") == [
        *("DB3KD (mbd)", "LeNet5Fifth", "hard", "97.00 ± 1.00 (3)", "98.00", "10,000 (5.5× smaller)", "1,000,000"),
        *("student", "LeNet5", "123 k", "784 MB", "4.00 MB", "12.5"),
    ]
    assert "95.00 (1)" in table_line(markdown, "MEKD")  # one seed has no deviation
    assert table_line(markdown, "Supervised") == [
        *("Supervised", "LeNet5", "teacher", "99.00 (1)", "–", "55,000", "0"),
        *("teacher", "–", "123 k", "0 B", "0 B", "12.5"),
    ]


def test_markdown_states_what_the_numbers_are(runs):
    markdown = (write_report([runs.root]) / "report.md").read_text()
    for statement in (
        "- Commit: abc1234",
        "- Hardware: a machine",
        "- Versions: torch 2.8.0",
        "at the last checkpoint: mean ± sample standard deviation over seeds",
        "A query is one image answered by the teacher; evaluation is not counted.",
        "Queries and bytes of a student are what its transfer set cost plus its own.",
        "![Accuracy against queries, digits](accuracy-digits.png)",
    ):
        assert statement in markdown


def test_how_much_smaller_is_not_said_where_the_teachers_name_has_two_sizes(runs):
    runs.teacher(variant="judge", parameters=1_000)
    markdown = (write_report([runs.root]) / "report.md").read_text()
    assert table_line(markdown, "DB3KD (mbd)")[5] == "10,000"


def test_each_dataset_has_its_table(runs):
    runs.run(dataset="fashion")
    markdown = (write_report([runs.root]) / "report.md").read_text()
    assert re.findall(r"^## (.*)$", markdown, re.M) == ["digits", "fashion", "Runs"]
    fashion = markdown.split("## fashion")[1].split("## Runs")[0]
    assert "| 10,000 |" in fashion  # no teacher's size is known there


def test_a_transfer_set_of_a_data_set_without_runs_is_shown_too(runs):
    runs.transfer_set("other", dataset="unseen")
    page = (write_report([runs.root]) / "report.html").read_text()
    section = page.split("<h2>unseen</h2>")[1].split("</section>")[0]
    assert (section.count("<svg"), section.count("<table>")) == (1, 0)


def test_html_is_self_contained_and_holds_the_figures(runs):
    output = write_report([runs.root])
    page = (output / "report.html").read_text()
    drawings = re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    assert len(drawings) == 2
    assert [text in drawings[0] for text in ("DB3KD (mbd)", "MEKD", "teacher, LeNet5  99.00")] == [True] * 3
    assert [f">{number}</text>" in drawings[1] for number in ("4.25", "1.50", "2.00", "3.00", "0.50")] == [True] * 5
    assert "var(--ink)" in drawings[0]  # what is black on white has the page's colour
    assert not re.search(r"https?://|<link|<script |<img|@import|url\((?!#)| src=", page)
    assert set(re.findall(r'href="(.{5})', page)) <= {"data:", *re.findall(r'href="(#.{4})', page)}
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page
    assert re.search(r'<td class="number" data-value="0.97\d*">97.00 ± 1.00 \(3\)</td>', page)
    assert '<td class="number" data-value="1000000">1,000,000</td>' in page


def test_names_are_escaped(workspace):
    workspace.run(method="A|B*<script>", variant="x_y", dataset="<b>&")
    output = write_report([workspace.root])
    markdown, page = (output / "report.md").read_text(), (output / "report.html").read_text()
    assert "| A\\|B\\*&lt;script&gt; (x\\_y) |" in markdown
    assert "## &lt;b&gt;&amp;" in markdown
    assert '<td class="words">A|B*&lt;script&gt; (x_y)</td>' in page
    assert "<h2>&lt;b&gt;&amp;</h2>" in page
    assert page.count("<script>") == 1  # the page's own


HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)> $x_{ {{ 7 * 7 }} --> </svg>'


def test_no_name_breaks_out_of_the_page(workspace):
    names = dict.fromkeys(("method", "variant", "dataset", "student", "commit", "hardware", "config"), HOSTILE)
    run = workspace.run(**names)
    counts = {"class_names": ["<script>", "dog"], "counts": [[8, 2], [3, 0]]}
    run.with_name("confusion.json").write_text(json.dumps(counts))
    workspace.transfer_set(dataset=HOSTILE, class_names=["<script>", "b", "c"])
    workspace.generator(method=HOSTILE, generator=HOSTILE)
    workspace.privacy(dataset=HOSTILE, network=HOSTILE)
    page = (write_report([workspace.root]) / "report.html").read_text()
    assert page.count("<script>") == page.count("</script>") == 1
    assert page.count("<svg") == page.count("</svg>") == 4
    assert "<img" not in page
    assert page.count("{{ 7 * 7 }}") > 10  # a name is no template either


def test_the_page_begins_with_few_columns_and_keeps_the_others_behind_a_box(runs):
    page = (write_report([runs.root]) / "report.html").read_text()
    headings = re.findall(r'<th scope="col" class="([^"]*)">([^<]*)</th>', page.split("</thead>")[0])
    shown = [heading for classes, heading in headings if "extra" not in classes]
    assert shown == [
        *("Method", "Student", "Access", "Accuracy % ± std (seeds)", "Agreement %", "Parameters", "Queries"),
    ]
    hidden = [heading for classes, heading in headings if "extra" in classes]
    assert hidden == ["Role", "Teacher", "MACs", "Bytes up", "Bytes down", "Seconds"]
    assert '<label class="more"><input type="checkbox"> all columns</label>\n<div class="scroll"' in page
    assert ".extra { display: none; }" in page
    assert ".more:has(:checked) + .scroll :is(.extra, .narrow) { display: table-cell; }" in page
    assert '<td class="number extra" data-value="784000000">784 MB</td>' in page


def test_the_best_student_of_each_method_is_shown_and_the_others_are_folded_away(workspace):
    counts = json.dumps({"class_names": ["cat", "dog"], "counts": [[8, 2], [3, 0]]})
    for method, variant, accuracy in (("A", "1", 0.5), ("A", "2", 0.7), ("B", "1", 0.6)):
        run = workspace.run(method=method, variant=variant, accuracy=accuracy)
        run.with_name("confusion.json").write_text(counts)
    page = (write_report([workspace.root]) / "report.html").read_text()
    shown, folded = page.split('<div class="matrices">')[1:3]
    headings = [re.findall(r"<h3>([^<]*), LeNet5Fifth, hard</h3>", part) for part in (shown, folded)]
    assert headings == [["A (2)", "B (1)"], ["A (1)"]]
    assert "<summary>1 other student</summary>" in page


def test_unreadable_files_are_listed(runs):
    bad = runs.run()
    bad.write_text("{")
    manifest = runs.transfer_set("broken", class_names=[])
    output = write_report([runs.root])
    markdown, page = (output / "report.md").read_text(), (output / "report.html").read_text()
    assert f"> **1 run could not be read**\n>\n> - {bad}: Expecting property name" in markdown.replace("\\_", "_")
    assert f"> **1 transfer set could not be read**\n>\n> - {manifest}: class_names" in markdown.replace("\\_", "_")
    assert "<strong>1 run could not be read</strong>" in page
    assert str(bad) in page


def test_links_to_directories_are_followed_and_each_run_is_read_once(workspace, tmp_path):
    workspace.teacher()
    run = workspace.run()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "all").symlink_to(workspace.root, target_is_directory=True)
    (workspace.root / "a-latest").symlink_to(run.parent, target_is_directory=True)
    (workspace.root / "round").symlink_to(elsewhere, target_is_directory=True)  # a circle
    assert len(read_runs([elsewhere]).runs) == 2
    assert sorted(one.path for one in read_runs([workspace.root]).runs) == sorted(workspace.root.rglob("result.json"))


def test_notes_are_shown(runs, tmp_path):
    runs.run(seed=2, accuracy=0.5)
    empty = tmp_path / "empty"
    empty.mkdir()
    markdown = (write_report([runs.root, empty]) / "report.md").read_text().replace("\\_", "_")
    assert "> **2 things to know**" in markdown
    assert "seed 2 was run more than once; the newest is kept" in markdown
    assert f"No finished run was found in {empty}." in markdown


def test_a_report_replaces_the_earlier_one_and_leaves_no_drafts(runs):
    first = write_report([runs.root])
    names = sorted(path.name for path in first.iterdir())
    (first / "report.md").write_text("old")
    runs.run(seed=3, accuracy=0.93)
    second = write_report([runs.root])
    assert sorted(path.name for path in second.iterdir()) == names
    assert "96.00 ± 2.16 (4)" in (second / "report.md").read_text()


@pytest.mark.parametrize("broken", [False, True])
def test_without_results_the_command_says_what_was_looked_for(workspace, capsys, broken):
    workspace.transfer_set()
    if broken:
        workspace.run().write_text("[]")
    assert main([str(workspace.root)]) == 2
    message = capsys.readouterr().err
    assert f"looked for result.json in {workspace.root} and below" in message
    assert ("expected a JSON object, got list" in message) is broken
    assert not (workspace.root / "report").exists()


def test_no_directories_is_an_error():
    with pytest.raises(ReportError, match="No directories were given"):
        write_report([])


def test_the_command_writes_and_prints(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    bad = runs.run()
    bad.write_text("{")
    assert main([str(runs.root), "--output", str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "97.00 ± 1.00 (3)" in captured.out
    assert captured.out.endswith(f"{tmp_path / 'out' / 'report.html'}\n")
    assert f"left out:\n  {bad}: Expecting" in captured.err


def test_help_names_what_is_read_and_written(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: kdlightning report")
    assert all(name in text for name in ("result.json", "manifest.json", "results.csv", "--output DIR", "--wandb"))


def test_a_report_needs_neither_torch_nor_wandb(runs):
    runs.generator()
    runs.privacy("transfer")
    code = (
        "import sys; from kdlightning.commands.report import main; code = main(sys.argv[1:]); "
        "print(code, sorted({'torch', 'lightning', 'wandb', 'pandas', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(kdlightning.__file__).parents[1])}
    command = [sys.executable, "-c", code, str(runs.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[-1] == "0 []"


def test_console_table_fits_a_hundred_columns(runs):
    runs.run(method="[red]KD", accuracy=0.9, queries=45_000_000, student="LeNet5Half")  # not markup, a name
    console = Console(width=100, record=True, file=io.StringIO())
    print_table(summarise(read_runs([runs.root]).runs)[0], console)
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    cells = [re.split(r"\s{2,}", line) for line in lines if line]
    assert cells[0] == ["digits"]
    assert cells[2] == ["Method", "Student", "Access", "± std (seeds)", "%", "Parameters", "Queries", "Seconds"]
    assert cells[4:] == [
        ["Supervised", "LeNet5", "teacher", "99.00 (1)", "–", "55,000", "0", "12.5"],
        ["DB3KD (mbd)", "LeNet5Fifth", "hard", "97.00 ± 1.00 (3)", "98.00", "10,000", "1,000,000", "12.5"],
        ["MEKD", "LeNet5Fifth", "soft", "95.00 (1)", "98.00", "10,000", "50,000", "12.5"],
        ["[red]KD (mbd)", "LeNet5Half", "hard", "90.00 (1)", "98.00", "10,000", "45,000,000", "12.5"],
    ]
    assert max(map(len, lines)) <= 100
