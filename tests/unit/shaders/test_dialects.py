import pytest

from kdlightning.shaders import ShaderError
from kdlightning.shaders.dialects import MODES, fragment_shader
from kdlightning.shaders.opengl import from_canvas

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


def draw(opengl, text, mode, size):
    return from_canvas(opengl.draw(fragment_shader(text, mode), [0.25], size), 3)[0]


@pytest.mark.parametrize("mode", MODES)
def test_every_dialect_renders_what_it_says(opengl, mode):
    image = draw(opengl, PROGRAMS[mode], mode, 2)
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
    image = draw(opengl, text, "geekest_300", 1)
    assert image.flatten().tolist() == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("call", ["snoise2D(p.xy)", "snoise3D(p.xyz)", "snoise4D(p)"])
def test_signed_noise_fills_its_range_smoothly(opengl, call):
    text = f"vec4 p = FC.xyxy * vec4(.11, .13, .05, -.07); o = vec4({call}) * .5 + .5;"
    image = draw(opengl, text, "geekest_300", 128)[0].float()
    assert image.mean().item() == pytest.approx(127, abs=12)
    assert image.std() > 25
    assert (image[:, 1:] - image[:, :-1]).abs().max() < 70


def test_an_output_has_to_be_declared():
    with pytest.raises(ShaderError, match="a declaration `out vec4 name;`, as mode geek_300 has it"):
        fragment_shader("void main() {}", "geek_300")
