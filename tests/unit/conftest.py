import pytest

from kdlightning.shaders import OpenGLRenderer, OpenGLUnavailableError


@pytest.fixture(scope="module")
def opengl():
    try:
        renderer = OpenGLRenderer()
    except OpenGLUnavailableError as error:
        pytest.skip(str(error))
    with renderer:
        yield renderer
