import pytest
import torch
import zsdb3kd as figures

from kdlightning.data import TransferSetWriter
from kdlightning.report import read_runs, summarise, write_report


def images(path, snapshots=(0, 4)):
    header = {"method": "ZSDB3KDImages", "access": "hard", "source": {}, "settings": {"iterations": 6}}
    writer = TransferSetWriter(path, header)
    index = torch.arange(6)
    level = (40 * index).to(torch.uint8)[:, None, None, None].expand(6, 1, 8, 8)
    rows = {"index": index, "label": index % 3, "image": level}
    writer.write({**rows, **{f"image_after_{n}": level + n for n in snapshots}})
    return writer.finish(index, {})


def test_means_are_of_the_teachers_classes(tmp_path):
    found = figures.class_means(images(tmp_path / "set"))
    assert sorted(found) == [0, 1, 2]
    torch.testing.assert_close(found[1], torch.full((1, 8, 8), (40 + 160) / 2 / 255))


def test_evolution_has_a_column_for_every_snapshot_and_the_end(tmp_path):
    drawn = figures.evolution(images(tmp_path / "set"), per_class=2)
    axes = drawn.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0", "4", "6"]
    pixels = axes.images[0].get_array()
    assert pixels.shape[:2] == (6 * 9 + 1, 3 * 9 + 1)
    assert pixels[1, 1, 0] == 0  # image 0 at the start, and 4 levels brighter after 4 iterations
    assert abs(float(pixels[1, 10, 0]) - 4 / 255) < 1e-6
    with pytest.raises(ValueError, match="has no snapshots"):
        figures.evolution(images(tmp_path / "none", snapshots=()))


def test_accuracy_against_iterations(workspace):
    for variant, accuracy in (("iterations=10", 0.9), ("iterations=2", 0.8), ("per_class=100", 0.5)):
        workspace.run(method="DB3KD", variant=variant, access="hard", accuracy=accuracy, seed=0)
    rows = summarise(read_runs([workspace.root]).runs)[0]
    drawn = figures.accuracy(rows, "iterations", "iterations of the synthesis")
    (line,) = drawn.axes[0].lines[:1]
    assert [list(map(float, one)) for one in line.get_data()] == [[2.0, 10.0], [80.0, 90.0]]


def test_from_the_command_line(workspace, tmp_path, capsys):
    images(tmp_path / "set")
    for figure in ("evolution", "means"):
        assert (
            figures.main([figure, "--images", str(tmp_path / "set"), "--output", str(tmp_path / f"{figure}.png")]) == 0
        )
        assert (tmp_path / f"{figure}.png").read_bytes()[:4] == b"\x89PNG"
    workspace.run(method="DB3KD", variant="per_class=100", access="hard", accuracy=0.9, seed=0)
    write_report([workspace.root], tmp_path / "report")
    assert figures.main(["samples", str(tmp_path / "report"), "--output", str(tmp_path / "s.png")]) == 0
    with pytest.raises(SystemExit):
        figures.main(["iterations", str(tmp_path / "report")])
    assert "expected rows with a variant such as 'iterations=...'" in capsys.readouterr().err
