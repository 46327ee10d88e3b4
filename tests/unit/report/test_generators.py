import io
import json

import pytest
from rich.console import Console

from kdlightning.commands.report import main
from kdlightning.report import ReportError, print_generators, read_runs, write_report
from kdlightning.report.tables import generator_table


def line(markdown, start):
    return next([c.strip() for c in line.strip("|").split(" | ")] for line in markdown.splitlines() if start in line)


def test_generators_are_found_apart_from_runs(workspace):
    workspace.run()
    path = workspace.generator()
    findings = read_runs([workspace.root])
    assert [run.method for run in findings.runs] == ["DB3KD"]
    (generator,) = findings.generators
    assert findings.problems == ()
    assert (generator.path, generator.label) == (path, "MEKDGenerator (alpha=0.5)")
    assert (generator.fid, generator.kid, generator.class_histogram) == (23.8137, -0.0005125, (8, 4, 1, 0))
    assert (generator.queries, generator.train_images, generator.seed) == (1000, 1300, 3)


def test_the_table_says_with_which_features_and_no_generator_is_a_row(workspace):
    workspace.run(queries=0)
    workspace.generator()
    output = write_report([workspace.root])
    markdown, page = (output / "report.md").read_text(), (output / "report.html").read_text()
    assert f"| {' | '.join(column.heading for column in generator_table([]).columns)} |" in markdown
    assert line(markdown.split("## Generators")[1], "DCGANGenerator") == [
        *("DCGANGenerator / DCGANCritic", "MEKDGenerator (alpha=0.5)", "digits", "soft", "LeNet5", "3"),
        *("23.81", "-0.0005125", "0.9829", "6.54", "█▄▁·", "0.997", "86.57", "1,000", "67.6", "1,300"),
    ]
    assert "<h2>Generators</h2>" in page
    assert '<td class="number" data-value="23.8137">23.81</td>' in page
    assert "values that are measured with two feature extractors cannot be compared" in page
    runs = line(markdown.split("## Runs")[1], "DCGANGenerator")
    assert runs[:5] == ["MEKDGenerator (alpha=0.5)", "LeNet5 → DCGANGenerator", "3", "–", "–"]
    assert "2 runs behind these numbers" in page
    assert "torch 2.15.0 and 2.8.0" in markdown
    assert [row["method"] for row in json.loads((output / "results.json").read_text())] == ["DB3KD"]
    assert "MEKDGenerator" not in (output / "results.csv").read_text()


def test_what_is_missing_is_a_dash(workspace):
    path = workspace.root / "bare" / "result.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"method": "GeneratorModule", "role": "generator", "quality": {"fid": NaN}}')
    markdown = (write_report([workspace.root]) / "report.md").read_text()
    table = markdown.split("## Generators")[1]
    assert line(table, "GeneratorModule") == ["– / –", "GeneratorModule", *["–"] * 14]


def test_generators_alone_make_a_report(workspace, capsys):
    workspace.generator()
    assert main([str(workspace.root)]) == 0
    assert json.loads((workspace.root / "report" / "results.json").read_text()) == []
    assert "23.81" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"method": None}, "method: expected a string, got None"),
        ({"schema": 2}, "expected schema 1, got 2"),
        ({"quality": [1]}, "quality: expected an object"),
        ({"quality": {"fid": "low"}}, "fid: expected a number, got 'low'"),
        ({"quality": {"confidence": 1.5}}, r"confidence: expected a fraction in \[0, 1\], got 1.5"),
        ({"queries": -1}, "queries: expected a whole number that is not negative, got -1"),
        ({"class_histogram": ["a"]}, "class_histogram: expected a whole number that is not negative, got 'a'"),
        ({"class_histogram": 7}, "class_histogram: expected a list of counts, got 7"),
    ],
)
def test_what_is_wrong_is_said(workspace, changes, reason):
    path = workspace.generator(**changes)
    with pytest.raises(ReportError, match=f"could not be read: {path}: {reason}"):
        write_report([workspace.root])


def test_the_console_table_fits_a_hundred_columns(workspace):
    workspace.generator()
    workspace.generator(
        "other", variant="", generator="InfoGANGenerator", critic="InfoGANCritic", access=None, quality={}
    )
    console = Console(width=100, record=True, file=io.StringIO())
    print_generators(read_runs([workspace.root]).generators, console)
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 100
    assert all(cell in shown for cell in ("Generators", "23.81", "-0.0005125", "0.9829", "1,000", "67.6", "LeNet5"))
    print_generators([], console)
    assert console.export_text(clear=False).strip() == ""
