import pytest

from kdlightning.shaders import OpenGLUnavailableError, ShaderError, canvas, program_files, render_file
from kdlightning.shaders.files import read_program

HANGS = "float x = 0.; for (int i = 0; i < i + 1; i++) { x += sin(x + FC.x + float(i)); } o = vec4(x);"


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        file = tmp_path / "programs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    return write


def test_names_say_the_dialect(write):
    texts = {"b/waves.geekest_300.glsl": "x", "a.frag": "y", "c.classic.frag": "z", "d.geek_mrt.glsl": "", "n.txt": ""}
    files = {name: write(name, text) for name, text in texts.items()}
    found = program_files(files["a.frag"].parent)
    assert found == [
        files[name] for name in ("a.frag", "b/waves.geekest_300.glsl", "c.classic.frag", "d.geek_mrt.glsl")
    ]
    starts = [read_program(file).splitlines()[1:3] for file in found[:3]]
    assert starts[0] == ["out vec4 kdl_colour;", "#define texture2D texture"]
    assert starts[1] == ["out vec4 o;", "uniform vec2 r, m;"]
    assert "#define main kdl_main\n#line 1\nz\n" in read_program(found[2])
    with pytest.raises(ShaderError, match=r"^unknown mode 'geek_mrt' in the name; there are image, classic,"):
        read_program(found[3])


def test_what_cannot_be_read_is_said(tmp_path):
    (tmp_path / "broken.glsl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ShaderError, match=r"^cannot be read: .*utf-8"):
        render_file(tmp_path / "broken.glsl", [0.0], 4)


def test_a_file_is_rendered_at_its_times(opengl, write):
    images = render_file(write("1.geekest.glsl", "gl_FragColor = vec4(FC.y / r.y, 1, t, 1);"), [0.0, 1.0], 2)
    assert images[:, 0].tolist() == [[[191, 191], [64, 64]]] * 2
    assert images[:, 1:, 0, 0].tolist() == [[255, 0], [255, 255]]
    grey = render_file(
        write("2.glsl", "void mainImage(out vec4 c, in vec2 p) { c = vec4(1, 0, 1, 1); }"), [3.0], 1, channels=1
    )
    assert grey.tolist() == [[[[round((0.299 + 0.114) * 255)]]]]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("2.geekest_300.glsl", "o = vec4(1);\no = oops;", r"0:2\(.*oops"),  # the line in the file
        ("3.geekest_300.glsl", HANGS, "^took longer than 5 s$"),
        ("5.glsl", "uniform float iDate; void mainImage(out vec4 c, in vec2 p) { c = vec4(iDate); }", "iDate a value"),
    ],
)  # fmt: skip
def test_why_a_file_gives_no_images(opengl, write, name, text, reason):
    with pytest.raises(ShaderError, match=reason):
        render_file(write(name, text), [0.0, 1.0], 512, time_limit=5)


def test_a_program_that_ends_its_process_is_one_without_images(tmp_path, monkeypatch, write):
    monkeypatch.setattr(canvas, "__file__", str(tmp_path / "crash.py"))
    (tmp_path / "crash.py").write_text("import sys; sys.stdin.read(); sys.exit(7)\n")
    with pytest.raises(ShaderError, match=r"^ended the process that rendered it, with code 7$"):
        render_file(write("a.geekest.glsl", ""), [0.0], 8)


def test_without_opengl_it_is_the_machines_fault_not_the_programs(tmp_path, monkeypatch, write):
    (tmp_path / "moderngl.py").write_text("raise ImportError('libGL.so.1 not loaded')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(OpenGLUnavailableError, match=r"libGL.so.1 not loaded.*libegl1 libgl1 libgl1-mesa-dri"):
        render_file(write("a.geekest.glsl", ""), [0.0], 8)
