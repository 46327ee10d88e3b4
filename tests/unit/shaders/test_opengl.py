import sys

import pytest

from kdlightning.shaders import OpenGLRenderer, OpenGLUnavailableError, Program, ShaderError
from kdlightning.shaders.canvas import create_context
from kdlightning.shaders.graph import Colour, X, Y, constant
from kdlightning.shaders.opengl import from_canvas

HEAD = "#version 330 core\nuniform vec2 resolution;\nuniform float time;\nout vec4 colour;\n"


def test_both_back_ends_agree(opengl):
    """Within 2/255 on every pixel of at least 99 % of programs, each at another time, half with other numbers."""
    wrong = []
    for seed in range(100):
        program, times, variants = Program.from_seed(seed), [0.1 * seed], [seed % 2 * seed]
        expected = program.render(times, 32, variants=variants) * 255
        if (opengl.render(program, times, 32, variants=variants) - expected).abs().max() > 2.5:  # one was rounded
            wrong.append(seed)
    assert len(wrong) <= 1, f"the back ends differ on seeds {wrong}"


def test_images_are_the_right_way_up(opengl):
    image = opengl.render(Program(Colour(X, Y, constant(0.2))), [0.0], 4)[0]
    assert image[0].tolist() == [[0, 0, 64, 191]] * 4
    assert image[1].tolist() == [[191] * 4, [64] * 4, [0] * 4, [0] * 4]
    assert image[2].unique().tolist() == [51]


def test_a_shader_as_text_is_told_time_and_size(opengl):
    shader = f"{HEAD}void main() {{ colour = vec4(time / 10, resolution.x / 10, gl_FragCoord.x / 10, 1); }}"
    images = from_canvas(opengl.draw(shader, [1.0, 6.0], 2), 3)
    assert images[:, 0, 0, 0].tolist() == [26, 153]
    assert images[1, :, 0].tolist() == [[153, 153], [51, 51], [13, 38]]
    assert from_canvas(opengl.draw(shader, [], 2), 3).shape == (0, 3, 2, 2)


def test_one_channel_is_the_luma(opengl):
    shader = f"{HEAD}void main() {{ colour = vec4(1, 0, 1, 1); }}"
    assert from_canvas(opengl.draw(shader, [0.0], 1), 1).item() == round((0.299 + 0.114) * 255)


def test_what_does_not_compile_is_the_drivers_message(opengl):
    with pytest.raises(ShaderError, match=r"5\(.*nonsense"):
        opengl.draw(f"{HEAD}void main() {{ colour = nonsense; }}", [0.0], 4)


def test_a_uniform_without_a_value_is_refused(opengl):
    with pytest.raises(ShaderError, match="nothing gives uniform strange a value"):
        opengl.draw(f"{HEAD}uniform float strange;\nvoid main() {{ colour = vec4(strange); }}", [0.0], 4)


def test_programs_stay_compiled_up_to_a_number(opengl):
    with OpenGLRenderer(cached_programs=2) as renderer:
        for red in (0.2, 0.4, 0.6, 0.2):
            program = Program(Colour(constant(red), constant(0), constant(0)))
            assert renderer.render(program, [0.0], 1)[0, 0].item() == round(255 * red)
        assert renderer._compiled.cache_info().currsize == 2


def check_message(error):
    for word in ("libegl1", "libgl1", "libgl1-mesa-dri", "pip install moderngl", "torch back end"):
        assert word in str(error.value)


def test_without_moderngl_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "moderngl", None)
    with pytest.raises(OpenGLUnavailableError, match="import of moderngl halted") as error:
        OpenGLRenderer()
    check_message(error)


def test_without_egl_the_error_says_what_to_install(monkeypatch):
    moderngl = pytest.importorskip("moderngl")

    def missing(**_):
        raise Exception("libEGL.so.1 not loaded")

    monkeypatch.setattr(moderngl, "create_context", missing)
    with pytest.raises(OpenGLUnavailableError, match="libEGL") as error:
        create_context()
    check_message(error)
    assert Program.from_seed(0).render([0.0], 4).isfinite().all()  # torch does without
