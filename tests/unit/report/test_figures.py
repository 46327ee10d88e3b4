import numpy as np
import pytest

from kdlightning.report import read_runs, summarise
from kdlightning.report.accuracy import _aside, _short_names, plot_accuracy
from kdlightning.report.figures import distance_matrix, draw_figures, plot_distance_curve, plot_distances

PNG = b"\x89PNG\r\n\x1a\n"


def rows_of(workspace):
    return summarise(read_runs([workspace.root]).runs)[0]


def transfer_set_of(workspace):
    return read_runs([workspace.root]).transfer_sets[0]


def test_distance_matrix_has_the_teachers_class_in_its_rows(workspace):
    workspace.transfer_set()
    matrix = distance_matrix(transfer_set_of(workspace))
    assert matrix[0, 1] == 4.25
    assert matrix[1, 0] == 2.0
    assert np.isnan(np.diag(matrix)).all()


def test_heat_map_shows_the_matrix_upright_with_blank_cells(workspace):
    workspace.transfer_set()
    axes = plot_distances(transfer_set_of(workspace)).axes[0]
    (image,) = axes.images
    assert image.origin == "upper"
    assert image.get_array()[0, 1] == 4.25
    assert image.get_array().mask.tolist() == [[True, False, False], [False, True, True], [False, False, True]]
    assert {text.get_position(): text.get_text() for text in axes.texts} == {  # x = target, y = teacher's class
        (1, 0): "4.25",
        (2, 0): "1.50",
        (0, 1): "2.00",
        (0, 2): "3.00",
        (1, 2): "0.50",
    }
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("target class", "teacher's class of the image")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]


def test_numbers_are_light_on_dark_cells_and_dark_on_light_cells(workspace):
    workspace.transfer_set()
    colours = {text.get_text(): text.get_color() for text in plot_distances(transfer_set_of(workspace)).axes[0].texts}
    assert (colours["0.50"], colours["4.25"]) == ("white", "black")


def test_many_classes_are_not_annotated(workspace):
    names = [str(i) for i in range(50)]
    workspace.transfer_set(class_names=names, mean_distance=[[1.0] * 50] * 50)
    axes = plot_distances(transfer_set_of(workspace)).axes[0]
    assert (len(axes.texts), axes.get_xlabel()) == (0, "target class (index)")


@pytest.mark.parametrize(("queries", "scale"), [([100, 500, 900], "linear"), ([10, 100, 1000], "log")])
def test_distance_curve_has_its_values_and_band(workspace, queries, scale):
    workspace.transfer_set(distance_curve={"queries": queries, "mean": [5, 4, 3], "std": [1, 0.5, 4]})
    axes = plot_distance_curve(transfer_set_of(workspace)).axes[0]
    assert axes.lines[0].get_xydata().tolist() == [[queries[0], 5], [queries[1], 4], [queries[2], 3]]
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (0, 7)  # 3 - 4 is no distance
    assert axes.get_xscale() == scale


def test_accuracy_stands_at_its_queries_with_its_deviation(workspace):
    workspace.run(seed=0, accuracy=0.90)
    workspace.run(seed=1, accuracy=0.94)
    workspace.teacher(accuracy=0.99)
    axes = plot_accuracy(rows_of(workspace)).axes[0]
    _, bar, point, teacher = axes.lines
    assert point.get_xydata() == pytest.approx(np.array([[1_000_000, 92.0]]))
    assert bar.get_ydata() == pytest.approx([92 - 2 * 2**0.5, 92 + 2 * 2**0.5])
    assert list(teacher.get_ydata()) == [99.0, 99.0]
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in axes.texts] == ["1"]
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["1  DB3KD (mbd)  92.00", "teacher, LeNet5  99.00"]
    bottom, top = axes.get_ylim()
    assert bottom < 92 - 2 * 2**0.5
    assert 99 < top < 100


def test_a_student_without_queries_has_a_tick_of_its_own_left_of_the_others(workspace):
    workspace.run(queries=5_000)
    workspace.run(method="KD3", variant=None, access="white", queries=0)
    workspace.run(method="Unknown", variant=None, queries=None)
    axes = plot_accuracy(rows_of(workspace)).axes[0]
    ticks = dict(zip([label.get_text() for label in axes.get_xticklabels()], axes.get_xticks(), strict=True))
    assert list(ticks) == ["0", "1k", "10k"]
    names = {line.get_label(): line.get_xdata()[0] for line in axes.lines if line.get_label()[0] != "_"}
    assert names["2  KD3, white  97.00"] == pytest.approx(ticks["0"])
    assert axes.get_xlim()[0] < ticks["0"] < ticks["1k"] == pytest.approx(1000)
    assert len(names) == 2  # "Unknown" has no place


def test_a_short_axis_of_queries_writes_its_powers_of_ten_only(workspace):
    workspace.run(queries=432)
    figure = plot_accuracy(rows_of(workspace))
    figure.draw_without_rendering()
    written = [label.get_text() for label in figure.axes[0].get_xticklabels(which="both") if label.get_text()]
    assert written == ["100", "1k"]


def test_without_a_student_that_asked_there_is_no_figure(workspace):
    workspace.teacher()
    workspace.run(queries=0)
    assert plot_accuracy(rows_of(workspace)) is None
    assert draw_figures(rows_of(workspace), []) == []


def test_points_are_numbers_and_a_list_best_first(workspace):
    for i in range(12):
        workspace.run(method=f"A method with quite a long name, number {i}", variant=None, accuracy=0.97 + i / 10000)
    workspace.teacher(accuracy=0.99)
    figure = plot_accuracy(rows_of(workspace))
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names[:2] == [
        "1  A method with quite a long name, number 11  97.11",
        "2  A method with quite a long name, number 10  97.10",
    ]
    assert names[-1] == "teacher, LeNet5  99.00"
    numbers = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert [numbers[str(i + 1)][1] for i in range(12)] == pytest.approx([97.11 - i / 100 for i in range(12)])
    assert numbers["1"][0] == pytest.approx(1_000_000)  # the best one stands at its queries, others that hide it aside
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][1:3] == ["97", "97.5"]
    (picture,) = draw_figures(rows_of(workspace), ())
    assert picture.caption.endswith("Points that would hide others stand aside, with a line to their place.")


def test_accuracies_that_are_far_apart_get_an_axis_that_opens_towards_100(workspace):
    for i, accuracy in enumerate((1.0, 0.999, 0.99, 0.9, 0.5, 0.1, 0.0)):
        for variant in "ab":
            workspace.run(method=f"A method with quite a long name, number {i}", variant=variant, accuracy=accuracy)
    axes = plot_accuracy(rows_of(workspace)).axes[0]
    even = axes.transData.transform([(1e6, percent) for percent in (1, 50, 99)])[:, 1]
    assert even[1] - even[0] == pytest.approx(even[2] - even[1])
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert (labels[0], labels[-1], len(set(labels))) == ("0.1", "99.99", 16)
    bottom, top = axes.get_ylim()
    assert all(bottom < y < top or y in (0, 100) for _, y in (text.get_position() for text in axes.texts))


def test_points_stand_aside_only_where_they_would_hide_others():
    assert _aside([(0, 0), (10, 0), (0, 10)], 10) == [(0, 0), (10, 0), (0, 10)]
    assert _aside([(0, 0), (0, 0), (0, 0)], 10) == [(0, 0), (10, 0), (-10, 0)]
    assert _aside([(0, 0), (3, 0)], 10) == [(0, 0), (10.5, 0)]


def test_names_say_what_tells_rows_apart(workspace):
    workspace.run(access="hard")
    workspace.run(access="soft")
    assert sorted(_short_names(rows_of(workspace))) == ["DB3KD (mbd), hard", "DB3KD (mbd), soft"]
    workspace.run(access="soft", student="LeNet5Half")
    assert "DB3KD (mbd), LeNet5Half, soft" in _short_names(rows_of(workspace))


def test_pictures_have_distinct_safe_names_and_are_png(workspace):
    workspace.run(dataset="a/b")
    workspace.run(dataset="a b")
    workspace.transfer_set("db3kd", distance_curve={"queries": [1, 2], "mean": [2, 1], "std": [0, 0]})
    findings = read_runs([workspace.root])
    pictures = draw_figures(summarise(findings.runs)[0], findings.transfer_sets)
    assert [picture.name for picture in pictures] == [
        "accuracy-a-b.png",
        "accuracy-a-b-2.png",
        "distances-digits-db3kd.png",
        "curve-digits-db3kd.png",
    ]
    assert all(picture.png.startswith(PNG) for picture in pictures)
    assert pictures[2].title == "Class-by-class boundary distance, digits"
    assert pictures[2].caption.startswith("Transfer set db3kd, 4,321 queries.")
