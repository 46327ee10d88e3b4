"""What talks to OpenGL, through EGL and without a window; and the process that renders users' programs.

Imports neither torch nor the rest of the package: run as a script, ``canvas.py FD SECONDS``, it starts at once. It then
answers on the connection with that file descriptor: first with what is wrong with OpenGL here, or ""; then every
(shader, times, size) with an array of images, or with a text that says why there are none.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections import OrderedDict
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import moderngl

_VERTEX = """#version 330 core
void main() { gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0); }
"""
_FRAMES_PER_SECOND = 60
_MOVING = {"time", "t", "iTime", "frame", "f", "iFrame"}
# A process whose parent is gone ends this many seconds after the parent would have ended it.
_GRACE = 5


class OpenGLUnavailableError(RuntimeError):
    """There is no OpenGL context to be had on this machine; the message says what to install."""


class ShaderCompileError(ValueError):
    """A fragment shader that cannot be rendered; the message is the driver's."""


def uniforms(second: float, size: int) -> dict[str, tuple[float, ...]]:
    """What a shader is told about its image, under every name that Shadertoy, TwiGL and this package have for it.

    The mouse rests in the corner, there is no sound, and the picture before this one (``b``, ``backbuffer``) is
    black: every image is the first one. Frames come at 60 a second.
    """
    frame, zeros = int(second * _FRAMES_PER_SECOND), (0, 0, 0, 0)
    return {
        "iResolution": (size, size, 1), "resolution": (size, size), "r": (size, size),
        "iTime": (second,), "time": (second,), "t": (second,), "iTimeDelta": (1 / _FRAMES_PER_SECOND,),
        "iFrame": (frame,), "frame": (frame + 1,), "f": (frame + 1,), "iFrameRate": (_FRAMES_PER_SECOND,),
        "iMouse": zeros, "mouse": zeros, "m": zeros, "sound": zeros, "s": zeros, "backbuffer": zeros, "b": zeros,
    }  # fmt: skip


def create_context() -> moderngl.Context:
    """A moderngl context on EGL.

    Raises:
        OpenGLUnavailableError: if moderngl, the libraries or a device are missing.
    """
    try:
        import moderngl
    except ImportError as error:
        raise OpenGLUnavailableError(_missing(error)) from error
    options: dict[str, Any] = {"backend": "egl"}  # moderngl's stub wants a dictionary
    # Mesa's software driver compiles longer than it renders: without LLVM's passes a new program takes half the time,
    # and an image of 224 px a third more. Set GALLIVM_PERF, to nothing for instance, for many large images per program.
    os.environ.setdefault("GALLIVM_PERF", "nopt")
    try:
        return moderngl.create_context(standalone=True, **options)
    except Exception as error:  # glcontext raises nothing narrower
        raise OpenGLUnavailableError(_missing(error)) from error


def _missing(error: Exception) -> str:
    return (
        f"OpenGL is not available ({error}). It needs moderngl, `pip install 'kdlightning[shaders]'`, and EGL with a"
        " driver: on Debian or Ubuntu `apt-get install --no-install-recommends libegl1 libgl1 libgl1-mesa-dri`."
        " The torch back end (Program.render, render_pool) needs none of them"
    )


class _Compiled(NamedTuple):
    """A program in the driver, and those of its uniforms that count."""

    program: moderngl.Program
    vertices: moderngl.VertexArray
    members: dict[str, moderngl.Uniform]

    @classmethod
    def of(cls, context: moderngl.Context, source: str) -> _Compiled:
        import moderngl

        try:
            program = context.program(vertex_shader=_VERTEX, fragment_shader=source)
        except moderngl.Error as error:
            raise ShaderCompileError(_driver_message(str(error))) from error
        found = {name: program[name] for name in program}
        members = {name: member for name, member in found.items() if isinstance(member, moderngl.Uniform)}
        unknown = sorted(members.keys() - uniforms(0.0, 1).keys() - {"parameters", "zero"})
        if unknown:
            program.release()
            raise ShaderCompileError(f"nothing gives uniform {', '.join(unknown)} a value here")
        return cls(program, context.vertex_array(program, []), members)

    def set_uniforms(self, values: dict[str, tuple[float, ...]], *, everything: bool) -> None:
        """Cut or filled up with 0 to the size that was declared; everything, or what changes with time."""
        for name in self.members.keys() & (values.keys() if everything else _MOVING):
            member = self.members[name]
            value = (*values[name], 0, 0, 0, 0)[: member.dimension]
            member.value = value[0] if len(value) == 1 else value

    def set_parameters(self, row: bytes) -> None:
        """A row of float32; the driver has dropped those at the end that do not count."""
        if "parameters" in self.members:
            self.members["parameters"].write(row[: 4 * self.members["parameters"].array_length])

    def release(self) -> None:
        """Give it back to the driver."""
        self.vertices.release()
        self.program.release()


def _driver_message(text: str) -> str:
    """The lines of a driver's report that name errors, at most five; the whole text if there are none."""
    errors = [line.strip() for line in text.splitlines() if "error" in line.lower()]
    return "; ".join(errors[:5]) or " ".join(text.split())


class Canvas:
    """A context, the programs used last, and a square of pixels.

    Args:
        cached_programs: how many compiled programs to keep.

    Raises:
        OpenGLUnavailableError: if moderngl, the libraries or a device are missing.
    """

    def __init__(self, cached_programs: int) -> None:
        self.context = create_context()
        self._cached_programs = cached_programs
        self._programs: OrderedDict[str, _Compiled] = OrderedDict()
        self._frame: moderngl.Framebuffer | None = None
        self._black = self.context.texture((1, 1), 4, bytes(4))
        self._black.use(0)

    def draw(self, shader: str, seconds: Sequence[float], size: int, rows: Sequence[bytes] = ()) -> np.ndarray:
        """Images of one complete fragment shader.

        Args:
            shader: the text.
            seconds: the time of each image.
            size: height and width.
            rows: its parameters, float32: one row for each image, one for all, or none.

        Returns:
            uint8 ``(N, size, size, 3)``, the uppermost row first.

        Raises:
            ShaderCompileError: if the driver does not compile it, or it has a uniform that `uniforms` does not know.
        """
        compiled, frame = self._compiled(shader), self._frame_of(size)
        images = np.empty((len(seconds), size, size, 3), np.uint8)
        for number, second in enumerate(seconds):
            compiled.set_uniforms(uniforms(second, size), everything=number == 0)
            if number < len(rows):
                compiled.set_parameters(rows[number])
            compiled.vertices.render(vertices=3)
            frame.read_into(images[number], components=3, alignment=1)
        return images[:, ::-1]  # OpenGL's first row is the lowest

    def release(self) -> None:
        """Give back what the driver holds."""
        self._programs.clear()
        self.context.release()

    def _compiled(self, shader: str) -> _Compiled:
        if shader in self._programs:
            self._programs.move_to_end(shader)
            return self._programs[shader]
        compiled = _Compiled.of(self.context, shader)
        if len(self._programs) >= self._cached_programs:
            self._programs.popitem(last=False)[1].release()
        self._programs[shader] = compiled
        return compiled

    def _frame_of(self, size: int) -> moderngl.Framebuffer:
        """The pixels to render to, kept between calls of the same size, and made the target."""
        if self._frame is None or self._frame.size != (size, size):
            if self._frame is not None:
                self._frame.release()
            self._frame = self.context.simple_framebuffer((size, size), 4)
            # Mesa compiles another version of every program for targets that are overwritten whole
            self._frame.color_mask = (True, True, True, False)
        self._frame.use()
        return self._frame


def serve(connection: Connection, time_limit: float) -> None:
    """Answer until the other end closes."""
    try:
        canvas = Canvas(cached_programs=1)
    except OpenGLUnavailableError as error:
        connection.send(str(error))
        return
    connection.send("")
    while True:
        try:
            shader, seconds, size = connection.recv()
        except EOFError:
            return
        signal.alarm(math.ceil(time_limit) + _GRACE)  # ends the process even while the driver does not return
        try:
            answer: np.ndarray | str = np.ascontiguousarray(canvas.draw(shader, seconds, size))
        except Exception as error:  # noqa: BLE001  # one program's trouble, whatever it is, is reported as its own
            answer = str(error)
        signal.alarm(0)
        connection.send(answer)


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), float(sys.argv[2]))
