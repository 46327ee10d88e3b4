"""Numbers of ours in the documents are those of the records under results/."""

import json
import re
import shutil
from pathlib import Path

import pytest
import resultspage
import yaml

import results
from kdlightning.report import Row, load_rows

ROOT = Path(__file__).parents[2]
QUOTED = yaml.safe_load((results.RECORDS / "quoted.yaml").read_text())
TYPED = {"student", "method", "access", "from", "images", "variant", "setting"}  # columns of words and settings


@pytest.fixture(scope="module")
def page():
    return results.Page(results.TEMPLATE.read_text())


def test_the_page_is_what_the_records_make(page):
    assert results.PAGE.read_text() == page.write(), "run `python experiments/results.py`"


def test_the_pages_figures_show_the_records(page):
    for name, rows in page.figures.items():
        assert results.is_drawn(results.PAGE.with_name(name), rows), "run `python experiments/results.py`"


def test_every_record_and_every_row_is_shown(page):
    page.write()
    assert page.used == {path.stem for path in results.RECORDS.glob("*.json")}
    for name in page.used:
        content = page._read(name)
        rows = [row for row in content if isinstance(row, Row)] if isinstance(content, list) else []
        students = [row for row in rows if row.role != "teacher"]  # two records may have the same teacher
        assert [f"{name}: {row.label}" for row in students if row not in page.shown] == []


def test_numbers_in_tables_come_from_records(page):
    records = [row for path in results.RECORDS.glob("*.json") for row in _rows(path)]
    written = {show(row) for row in records for show in resultspage.MEASURED.values()}
    for table in page.tables:
        for header, source in table["columns"].items():
            paper = header.startswith("paper")
            assert source.startswith("paper") == paper, f"{header}: the paper's numbers, and they alone, say so"
            assert source in resultspage.MEASURED or paper or source in TYPED, (
                f"{header}: {source} could hold typed numbers"
            )
    lines = [line for line in results.PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [cell.strip("*") for line in lines for cell in line[2:-2].split(" | ")]
    decimals = [cell for cell in cells if re.fullmatch(r"\d\d\.\d\d( ± \d+\.\d\d)?( \(\d seeds\))?", cell)]
    typed = [item for table in page.tables for row in table["rows"] for item in row.items()]
    papers = {value for key, value in typed if key.startswith("paper")}
    assert [cell for cell in decimals if cell not in written | papers] == []
    assert len(decimals) > 100


def test_prose_types_no_accuracy(page):
    prose = re.sub(
        r"^```(?:table|figure|curve|summary)\n.*?^```$|`[^`]*`|\{\{.*?\}\}",
        "",
        page.template,
        flags=re.MULTILINE | re.DOTALL,
    )
    assert re.findall(r"\b\d\d\.\d+\b", prose) == []


def test_the_table_of_all_methods_has_their_records_numbers(page):
    cells = _method_table((ROOT / "docs/methods.md").read_text())
    assert cells == {method: page.fill(ours) for method, ours in QUOTED["methods"].items()}


@pytest.mark.parametrize("name", sorted(QUOTED.keys() - {"methods", "helps"}))
def test_other_documents_quote_the_records(page, name):
    document = (ROOT / name).read_text()
    assert [quote for text in QUOTED[name] if (quote := page.fill(text)) not in document] == []


def test_a_changed_record_changes_the_page(tmp_path):
    shutil.copytree(results.RECORDS, tmp_path / "results")
    path = tmp_path / "results/mnist-db3kd.json"
    teacher, *others = json.loads(path.read_text())
    path.write_text(json.dumps([{**teacher, "accuracy_mean": 0.875}, *others]))
    page = results.Page(results.TEMPLATE.read_text(), tmp_path / "results")
    assert page.fill("{{db-teacher.mean}}") == "87.50"
    assert "| LeNet5 | teacher, from labels | 87.50 |" in page.write()


TABLE = """```table
record: mnist-db3kd
columns: {student: student, ours: accuracy, queries: queries, paper: paper}
rows:
- {row: DB3KD (sd) | LeNet5Half, as: sd, paper: "99.15"}
- {student: LeNet5Half, paper: "99.52"}
```
"""


def test_a_table_and_its_names():
    page = results.Page(
        f"{TABLE}\n{{{{sd.paper}}}} {{{{sd.queries / 4: 1}}}} {{{{sd.agreement: %0}}}} {{{{sd.mean - sd.mean}}}}\n"
    )
    lines = page.write().splitlines()
    assert lines[2:4] == ["| LeNet5Half | 99.15 ± 0.08 | 10,000 | 99.15 |", "| LeNet5Half | not run |  | 99.52 |"]
    assert lines[-1] == "99.15 2,500.0 99 0.00"


FIGURE = """```figure
file: results-digits.png
title: Digits
rows: {sd: DB3KD on samples}
```
"""


def test_a_figure_is_drawn_again_when_its_rows_change(tmp_path):
    page = results.Page(TABLE + FIGURE)
    assert page.write().splitlines()[-1] == "![Digits](results-digits.png)"
    ((name, rows),) = page.figures.items()
    assert [(row.label, row.queries) for row in rows] == [("DB3KD on samples", 10_000)]
    assert not results.is_drawn(tmp_path / name, rows)
    results.draw(tmp_path / name, rows)
    assert results.is_drawn(tmp_path / name, rows)
    assert not results.is_drawn(tmp_path / name, [rows[0].model_copy(update={"queries": 10_001})])
    with pytest.raises(results.PageError, match=r"no student of its rows has asked a teacher anything"):
        results.draw(tmp_path / name, [rows[0].model_copy(update={"queries": 0})])


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        (
            TABLE.replace("(sd)", "(xy)"),
            "0 rows are 'DB3KD (xy) | LeNet5Half'; there are\n  Supervised | LeNet5 | teacher",
        ),
        (TABLE.replace("(sd) | LeNet5Half", "(sd)"), "2 rows are"),
        (TABLE.replace('paper: "99.52"', 'accuracy: "99.52"'), "accuracy.*cannot be typed"),
        (TABLE + TABLE, "two rows are called 'sd'"),
        (TABLE + "{{ds.mean}}", "ds: neither the name of a row"),
        (TABLE + FIGURE.replace("sd:", "ds:"), "results-digits.png: no row that was run is called ds"),
        (TABLE + "{{digits-zsdb3kd-sets.nothing.rows}}", "no such entry"),
    ],
)
def test_complaints(template, complaint):
    with pytest.raises(results.PageError, match=re.sub(r"([()|])", r"\\\1", complaint)):
        results.Page(template).write()


def accuracies(method, images, values, **more):
    content = {
        "method": method, "variant": "", "role": "student", "dataset": "mnist", "teacher": "T", "student": "S",
        "access": "hard", "point": {"images": images}, "accuracy_mean": sum(values) / len(values),
        "accuracy_std": 0.01, "seeds": list(range(len(values))), "accuracies": list(values), "commit": "abc1234",
    }  # fmt: skip
    blank = ("agreement", "parameters", "macs", "queries", "bytes_up", "bytes_down", "seconds", "checkpoint")
    return dict.fromkeys(blank) | content | more


@pytest.fixture
def records(tmp_path):
    """A record with two arms at two numbers of images, and a teacher."""
    better = [0.91, 0.92, 0.93, 0.92, 0.91, 0.93]  # 2 points above 0.9; its least p-value is 2 / 2^6
    rows = [
        accuracies("KD", 50, [0.5] * 6),
        accuracies("New", 50, better),
        accuracies("KD", 500, [0.9] * 6),
        accuracies("New", 500, better, access="soft", seconds=90.0),
        accuracies("Supervised", 0, [0.99], role="teacher", teacher=None, student="T", point={}),
    ]
    (tmp_path / "curves.json").write_text(json.dumps(rows))
    return tmp_path


CURVE = """```curve
file: results-curve.png
title: Two arms
record: curves
axis: images
rows: {New: ours, KD: KD, Supervised: teacher}
```
"""


def test_a_curve_is_a_figure_and_a_table(records, tmp_path):
    page = results.Page(CURVE, records)
    assert "; 6 networks, 9 min;" in page.write()  # six of 90 seconds each; the other rows are untimed
    assert page.write().splitlines()[:6] == [
        "![Two arms](results-curve.png)",
        "",
        "| images | 50 | 500 |",
        "| :-- | --: | --: |",
        "| ours | **92.00 ± 1.00** | **92.00 ± 1.00** |",
        "| KD | 50.00 ± 1.00 | 90.00 ± 1.00 |",
    ]
    assert len(page.shown) == 5
    ((name, rows),) = page.figures.items()
    results.draw(tmp_path / name, rows)
    assert results.is_drawn(tmp_path / name, rows)
    other = rows[0].model_copy(update={"accuracies": [0.92] * 6})  # the same mean, another band
    assert not results.is_drawn(tmp_path / name, [other, *rows[1:]])


SENTENCE = "New beats KD by 2.00 points at images 500 (95 % interval 1.06 to 2.94, 6 of 6 seeds, p = 0.031)"


def test_what_is_said_of_two_rows_is_made_of_their_seeds(records):
    page = results.Page("", records)
    assert page.fill("{{compare curves: New | KD | images=500}}") == SENTENCE
    assert page.fill("So {{compare curves: New | KD | images=500 | soft}}.") == f"So {SENTENCE}."
    told = "'New | KD | images=5' are no two rows; there are\n  KD | S | student | hard | images=50\n"
    with pytest.raises(results.PageError, match=re.escape(told)):
        page.fill("{{compare curves: New | KD | images=5}}")
    with pytest.raises(results.PageError, match="are no two rows"):
        page.fill("{{compare curves: New | KD}}")


SUMMARY = """```summary
columns: [few, many]
rows:
  New:
  - {ours: "curves: New | images=50", baselines: ["curves: KD | images=50"], teacher: "curves: Supervised"}
  - {}
```
"""


def test_the_first_screen_shows_ours_beside_the_best_other(records):
    (line,) = results.Page(SUMMARY, records).write().splitlines()[2:]
    cell = "**92.00 ± 1.00** New<br>50.00 ± 1.00 best other, KD<br>99.00 teacher"
    assert line == f"| New | {cell} | not run |"
    with pytest.raises(results.PageError, match="New has 1 cells for 2 columns"):
        results.Page(SUMMARY.replace("  - {}\n", ""), records)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        (("New: ours", "Old: ours"), "no rows with images are 'Old'; there are"),
        (("axis: images", "axis: queries"), "no rows with queries are 'New'"),
        (("KD: KD", "KD: ours"), "two rows are 'KD' at images 50: tell them apart"),
    ],
)
def test_complaints_about_curves(records, changed, complaint):
    with pytest.raises(results.PageError, match=complaint):
        results.Page(CURVE.replace(*changed), records)


def test_the_readme_says_where_methods_help():
    document = "| `No` | begin | x |\n\n| begin with | where it helps |\n|---|---|\n| `KD`, [`New`](a.md) | old |\n"
    assert results.helps(document, {"New": SENTENCE}).splitlines() == [
        "| `No` | begin | x |",
        "",
        "| begin with | where it helps |",
        "|---|---|",
        f"| `KD`, [`New`](a.md) | {SENTENCE} |",
    ]
    assert results.helps(document, {}).endswith("| not measured yet |\n")


def test_the_readmes_column_is_what_the_records_make(page):
    readme = results.README.read_text()
    assert readme == results.helps(readme, results.said(page)), "run `python experiments/results.py`"
    table = readme[readme.index(results.HELPS) :]
    assert QUOTED["helps"].keys() <= set(re.findall(r"\[`(\w+)`\]", table[: table.index("\n\n")]))


def test_no_record_without_a_commit(records):
    assert results.without_commit() == []
    for commit in (None, "mixed", "abc1234, not stated"):
        (records / "new.json").write_text(json.dumps([accuracies("KD", 50, [0.5], commit=commit)]))
        assert results.without_commit(records) == ["new"]
    (records / "new.json").write_text(json.dumps([accuracies("KD", 50, [0.5], commit="abc1234, abc1234+")]))
    assert results.without_commit(records) == []
    assert {path.stem for path in results.RECORDS.glob("*.json")} > results.COMMIT_NOT_STATED


def _rows(path):
    content = yaml.safe_load(path.read_text())
    return load_rows(path) if isinstance(content, list) and "accuracy_mean" in content[0] else []


def _method_table(document):
    """The method's cell → the cell of "ours", of every table that begins with a method."""
    tables = re.findall(r"^\| method \|.*\n(?:\|.*\n)+", document, re.MULTILINE)
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in "".join(tables).splitlines()]
    heads = [row for row in rows if row[0] == "method"]
    assert heads
    assert all(row[-1] == "ours" for row in heads)
    return {row[0]: row[-1] for row in rows if row[0].startswith("`")}
