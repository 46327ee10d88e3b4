import pytest
import torch

from kdlightning.shaders import (
    MODES,
    OpenGLUnavailableError,
    canvas,
    fragment_shader,
    load_programs,
    render_programs,
)

RIGHT = "{0}.x / {1}.x"  # from 0 at the left to 1 at the right
PROGRAMS = {
    "image": "void mainImage(out vec4 c, in vec2 p) { c.rg = vec2(p.x / iResolution.x, iTime + iMouse.z); }",
    "classic": """#version 100
        #extension GL_OES_standard_derivatives : enable
        precision highp float;
        uniform vec2 resolution; uniform float time; uniform sampler2D backbuffer;
        void main() { gl_FragColor = vec4(gl_FragCoord.x / resolution.x, time, texture2D(backbuffer, vec2(.5)).r, 1); }
        """,
    "geek": """precision highp float;
        uniform vec2 r; uniform float t; uniform vec2 m;
        void main(void) { gl_FragData[0] = vec4(gl_FragCoord.x / r.x, t + m.x, 0, 1); }
        """,
    "geeker": "void main(){gl_FragColor=vec4(gl_FragCoord.x/r.x,t,s,1);}",
    "geekest": "gl_FragColor=vec4(FC.x/r.x,t,0,1);",
    "classic_300": """#version 300 es
        precision highp float;
        uniform vec2 resolution; uniform float time;
        layout (location = 0) out highp vec4 outColor;
        void main() { outColor += vec4(gl_FragCoord.x / resolution.x, time, 0, 1); }
        """,
    "geek_300": "uniform vec2 r; uniform float t; out vec4 o; void main() { o.xy = vec2(gl_FragCoord.x / r.x, t); }",
    "geeker_300": "void add(float a) { o.y += a; }\nvoid main() { o.x += gl_FragCoord.x / r.x; add(t); }",
    "geekest_300": "for (float i = 0.; i < 4.; i++) o.xy += vec2(FC.x / r.x, t) / 4.;",
}
HANGS = "float x = 0.; for (int i = 0; i < i + 1; i++) { x += sin(x + FC.x + float(i)); } o = vec4(x);"


def collection(tmp_path, texts):
    directory = tmp_path / "programs"
    for name, text in texts.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return load_programs(directory)


@pytest.mark.parametrize("mode", MODES)
def test_every_dialect_renders_what_it_says(opengl, mode):
    image = opengl.render(fragment_shader(PROGRAMS[mode], mode), [0.25], 2)[0]
    assert image.tolist() == [[[64, 191]] * 2, [[64] * 2] * 2, [[0] * 2] * 2]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("o.rgb = hsv(0., 1., 1.);", (255, 0, 0)),
        ("o.rgb = hsv(1. / 3., 1., .6);", (0, 153, 0)),
        ("o.rgb = hsv(.5, .6, 1.);", (102, 255, 255)),
        ("o.rg = rotate2D(PI / 2.) * vec2(0, -1.);", (255, 0, 0)),  # counter-clockwise
        ("o.rgb = rotate3D(PI2 / 4., vec3(0, 0, 9)) * vec3(.6, 0, .2);", (0, 153, 51)),
        ("o.rg = vec2(fsnoise(vec2(0)), fsnoiseDigits(vec2(0)) + snoise2D(vec2(3, 5)));", (0, 0, 0)),
        ("o.rgb = vec3(f, s, 0) / 85.;", (48, 0, 0)),  # the 16th frame
    ],
)
def test_helpers_of_the_geekest_mode(opengl, text, expected):
    image = opengl.render(fragment_shader(text, "geekest_300"), [0.25], 1)
    assert image.flatten().tolist() == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("call", ["snoise2D(p.xy)", "snoise3D(p.xyz)", "snoise4D(p)"])
def test_signed_noise_fills_its_range_smoothly(opengl, call):
    shader = fragment_shader(
        f"vec4 p = FC.xyxy * vec4(.11, .13, .05, -.07); o = vec4({call}) * .5 + .5;", "geekest_300"
    )
    image = opengl.render(shader, [0.0], 128)[0, 0].float()
    assert image.mean().item() == pytest.approx(127, abs=12)
    assert image.std() > 25
    assert (image[:, 1:] - image[:, :-1]).abs().max() < 70


def test_names_say_the_dialect(tmp_path):
    programs, failures = collection(
        tmp_path,
        {"b/waves.geekest_300.glsl": "x", "a.frag": "y", "c.classic.frag": "z", "d.geek_mrt.glsl": "", "notes.txt": ""},
    )
    assert [(each.file, each.mode, each.text) for each in programs] == [
        ("a.frag", "image", "y"),
        ("b/waves.geekest_300.glsl", "geekest_300", "x"),
        ("c.classic.frag", "classic", "z"),
    ]
    assert [each.file for each in failures] == ["d.geek_mrt.glsl"]
    assert failures[0].reason.startswith("unknown mode 'geek_mrt' in the name; there are image, classic,")


def test_what_cannot_be_read_is_listed(tmp_path):
    (tmp_path / "programs").mkdir()
    (tmp_path / "programs" / "broken.glsl").write_bytes(b"\xff\xfe\x00")
    programs, failures = load_programs(tmp_path / "programs")
    assert programs == []
    assert (failures[0].file, failures[0].reason[:14]) == ("broken.glsl", "cannot be read")
    with pytest.raises(NotADirectoryError, match="nowhere"):
        load_programs(tmp_path / "nowhere")


def test_failures_are_listed_and_do_not_stop_the_others(opengl, tmp_path):
    programs, failures = collection(
        tmp_path,
        {
            "1.geekest_300.glsl": "o = vec4(1, 0, t, 1);",
            "2.geekest_300.glsl": "o = vec4(1);\no = oops;",
            "3.geekest_300.glsl": HANGS,
            "4.geek_300.glsl": "void main() {}",
            "5.glsl": "uniform float iDate;\nvoid mainImage(out vec4 c, in vec2 p) { c = vec4(iDate); }",
            "6.geekest.glsl": "gl_FragColor = vec4(0, 1, t, 1);",
        },
    )
    assert failures == []
    rendered = render_programs(programs, [0.0, 1.0], 512, time_limit=3)
    assert rendered.files == ["1.geekest_300.glsl", "6.geekest.glsl"]
    assert rendered.images.shape == (2, 2, 3, 512, 512)
    assert rendered.images[:, :, :, 100, 100].tolist() == [[[255, 0, 0], [255, 0, 255]], [[0, 255, 0], [0, 255, 255]]]
    reasons = {each.file[0]: each.reason for each in rendered.failures}
    assert sorted(reasons) == ["2", "3", "4", "5"]
    assert "0:2(" in reasons["2"]  # the line in the file
    assert "oops" in reasons["2"]
    assert reasons["3"] == "took longer than 3 s"
    assert reasons["4"] == "expected a declaration `out vec4 name;`, as mode geek_300 has it"
    assert reasons["5"] == "nothing gives uniform iDate a value here"


def test_a_program_that_ends_the_renderer_is_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(canvas, "__file__", str(tmp_path / "crash.py"))
    (tmp_path / "crash.py").write_text(
        "import sys; from multiprocessing.connection import Connection\n"
        "connection = Connection(int(sys.argv[1])); connection.send(''); connection.recv(); sys.exit(7)\n"
    )
    programs, _ = collection(tmp_path, {"a.geekest.glsl": "", "b.geekest.glsl": ""})
    rendered = render_programs(programs, [0.0], 8, channels=1)
    assert torch.equal(rendered.images, torch.empty(0, 1, 1, 8, 8, dtype=torch.uint8))
    assert [each.reason for each in rendered.failures] == ["ended the process that rendered it, with code 7"] * 2


def test_without_opengl_it_is_the_machines_fault_not_the_programs(tmp_path, monkeypatch):
    (tmp_path / "moderngl.py").write_text("raise ImportError('libGL.so.1 not loaded')\n")
    monkeypatch.syspath_prepend(tmp_path)
    programs, _ = collection(tmp_path, {"a.geekest.glsl": ""})
    with pytest.raises(OpenGLUnavailableError, match=r"libGL.so.1 not loaded.*libegl1 libgl1 libgl1-mesa-dri"):
        render_programs(programs, [0.0], 8)
