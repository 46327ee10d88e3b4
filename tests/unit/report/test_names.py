"""Names that users give stand in figures and pages as they are, whatever is in them."""

import json
import warnings

import pytest
from matplotlib import font_manager

from kdlightning.report import draw_confusions, names, read_confusions, read_runs, write_report
from kdlightning.report.figures import plot_confusion, plot_distances
from kdlightning.report.names import families, labels, note, one_line

NAMES = ["$5-$10", "$$", r"a_b^2 \frac{1}{2}", "猫", "קט", "line\nbreak", "<b>bold</b> & co", "x" * 75 + "y" * 75]
NUMBERS = [[(row * column) % 5 + 1 for column in range(8)] for row in range(8)]


@pytest.fixture(autouse=True)
def only_what_comes_with_matplotlib(monkeypatch):
    base = [one for one in font_manager.fontManager.ttflist if one.name == "DejaVu Sans" or "Last Resort" in one.name]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", base)
    names._fonts.cache_clear()
    yield
    names._fonts.cache_clear()


def test_a_name_is_on_one_line_and_loses_its_middle():
    assert one_line("line\nbreak \t here") == "line break here"
    assert one_line("x" * 32) == "x" * 32
    assert one_line(NAMES[-1]) == "x" * 21 + "…" + "y" * 10


def test_what_no_font_draws_is_numbered_and_said():
    assert labels(NAMES) == [*NAMES[:3], "(3)", "קט", "line break", NAMES[6], one_line(NAMES[7])]
    assert note(NAMES) == "Names that no font on this machine can draw are numbered: (3) 猫."
    assert note(["cat", "a\nb", "y" * 99]) == ""
    assert families(NAMES) == ["DejaVu Sans"]


def test_a_font_that_is_there_is_taken(monkeypatch):
    class Drawing:
        def get_char_index(self, code):
            return int(code == ord("猫"))

    other = font_manager.FontEntry(fname="other.ttf", name="Other", style="normal", weight=400)
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist, other])
    known = names.get_font
    monkeypatch.setattr(names, "get_font", lambda file: Drawing() if file == "other.ttf" else known(file))
    assert families(["a猫"]) == ["DejaVu Sans", "Other"]
    assert labels(["猫", "犬"]) == ["猫", "(1)"]


def test_figures_show_names_as_they_are_and_keep_their_size(workspace):
    run = workspace.run(dataset="d$s$\n猫")
    run.with_name("confusion.json").write_text(json.dumps({"class_names": NAMES, "counts": NUMBERS}))
    (entry,), _ = read_confusions(read_runs([workspace.root]).runs)
    workspace.transfer_set(class_names=NAMES, mean_distance=NUMBERS)
    (measured,) = read_runs([workspace.root]).transfer_sets
    for figure in (plot_confusion(entry), plot_distances(measured)):
        axes = figure.axes[0]
        shown = [text.get_text() for text in axes.get_xticklabels()]
        assert shown == [text.get_text() for text in axes.get_yticklabels()] == labels(NAMES)
        assert not any(text.get_parse_math() for text in axes.get_xticklabels())
        assert figure.get_size_inches().max() < 9
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (picture,) = draw_confusions([entry])
    assert picture.caption.endswith("Seeds: 0. Names that no font on this machine can draw are numbered: (3) 猫.")
    assert "\n" not in picture.title
    assert "&lt;b&gt;bold&lt;/b&gt; &amp; co" in picture.svg
    assert "<b>" not in picture.svg


def test_a_report_of_such_names_is_written(workspace):
    for number, name in enumerate(NAMES):
        workspace.run(method="KD", variant=name, dataset="<i>$1</i>\n猫", accuracy=0.9 + number / 100)
    output = write_report([workspace.root])
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "KD (&lt;b&gt;bold&lt;/b&gt; &amp; co)" in page
    assert "<b>bold</b>" not in page
    assert "<i>$1" not in page
    markdown = (output / "report.md").read_text(encoding="utf-8")
    assert "## &lt;i&gt;$1&lt;/i&gt; 猫" in markdown
    assert len([line for line in markdown.splitlines() if line.startswith("| KD (") and "MB" in line]) == len(NAMES)
