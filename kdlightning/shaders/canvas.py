"""What talks to OpenGL, through EGL and without a window; as a script, the process that renders a user's program.

Imports neither torch nor the rest of the package, so that the script starts at once. It reads a JSON object from its
input: ``shader``, ``seconds``, ``size``, and ``limit``, the seconds after which it ends. It writes the images' bytes
and exits with 0, or writes why there are none and exits with `REFUSED` or `UNAVAILABLE`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    import moderngl

_VERTEX = """#version 330 core
void main() { gl_Position = vec4(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0, 0.0, 1.0); }
"""
_FRAMES_PER_SECOND = 60
REFUSED, UNAVAILABLE = 3, 4


class OpenGLUnavailableError(RuntimeError):
    """There is no OpenGL context to be had on this machine; the message says what to install."""


class ShaderError(ValueError):
    """A fragment shader that cannot be rendered, and why: mostly in the driver's words."""


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
    """A moderngl context on EGL; an OpenGLUnavailableError if moderngl, the libraries or a device are missing."""
    # Mesa's software driver compiles longer than it renders: without LLVM's passes a new program takes half the time,
    # and an image of 224 px a third more. Set GALLIVM_PERF, to nothing for instance, for many large images per program.
    os.environ.setdefault("GALLIVM_PERF", "nopt")
    options: dict[str, Any] = {"backend": "egl"}  # moderngl's stub wants a dictionary
    try:
        import moderngl

        return moderngl.create_context(standalone=True, **options)
    except Exception as error:  # glcontext raises nothing narrower
        needed = "It needs moderngl, `pip install moderngl`, and EGL with a driver: on Debian or Ubuntu"
        packages = "`apt-get install --no-install-recommends libegl1 libgl1 libgl1-mesa-dri`"
        other = "The torch back end (Program.render) needs none of them"
        raise OpenGLUnavailableError(f"OpenGL is not available ({error}). {needed} {packages}. {other}") from error


class Canvas:
    """A context, so many compiled programs, those used last, and a square of pixels; also a context manager.

    An OpenGLUnavailableError if moderngl, the libraries or a device are missing.
    """

    def __init__(self, *, cached_programs: int = 64) -> None:
        self.context = create_context()
        self.context.gc_mode = "auto"  # the driver's objects go with Python's
        self._black = self.context.texture((1, 1), 4, bytes(4))
        self._black.use(0)
        self._compiled = lru_cache(cached_programs)(self._compile)
        self._frame = lru_cache(1)(self._make_frame)

    def draw(self, shader: str, seconds: Sequence[float], size: int, rows: Sequence[bytes] = ()) -> np.ndarray:
        """Images of one complete fragment shader, uint8 ``(N, size, size, 3)``, the uppermost row first.

        Each has its time, and its parameters in ``rows``, float32: one row for each image, one for all, or none. A
        ShaderError if the driver does not compile it, or it has a uniform that `uniforms` does not know.
        """
        (vertices, members), frame = self._compiled(shader), self._frame(size)
        frame.use()
        images = np.empty((len(seconds), size, size, 3), np.uint8)
        told: dict[str, tuple[float, ...]] = {}
        for number, second in enumerate(seconds):
            values = uniforms(second, size)
            for name in members.keys() & values.keys():
                if values[name] != told.get(name):  # cut or filled up with 0 to the size that was declared
                    value = (*values[name], 0, 0, 0, 0)[: members[name].dimension]
                    members[name].value = value[0] if len(value) == 1 else value
            told = values
            if "parameters" in members and number < len(rows):
                parameters = members["parameters"]  # the driver has dropped those at the end that are unused
                parameters.write(rows[number][: 4 * parameters.array_length])
            vertices.render(vertices=3)
            frame.read_into(images[number], components=3, alignment=1)
        return images[:, ::-1]  # OpenGL's first row is the lowest

    def _compile(self, shader: str) -> tuple[moderngl.VertexArray, dict[str, moderngl.Uniform]]:
        """What renders a program, and those of its uniforms that count."""
        import moderngl

        try:
            program = self.context.program(vertex_shader=_VERTEX, fragment_shader=shader)
        except moderngl.Error as error:
            lines = [line.strip() for line in str(error).splitlines() if "error" in line.lower()]
            raise ShaderError("; ".join(lines[:5]) or " ".join(str(error).split())) from error
        members = {name: member for name in program if isinstance(member := program[name], moderngl.Uniform)}
        unknown = sorted(members.keys() - uniforms(0.0, 1).keys() - {"parameters", "zero"})
        if unknown:
            raise ShaderError(f"nothing gives uniform {', '.join(unknown)} a value here")
        return self.context.vertex_array(program, []), members

    def _make_frame(self, size: int) -> moderngl.Framebuffer:
        frame = self.context.simple_framebuffer((size, size), 4)
        # Mesa compiles another version of every program for targets that are overwritten whole
        frame.color_mask = (True, True, True, False)
        return frame

    def close(self) -> None:
        """Give back what the driver holds."""
        self._compiled.cache_clear()
        self._frame.cache_clear()
        self.context.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main() -> int:
    """Render what standard input asks for; the exit code."""
    asked = json.load(sys.stdin)
    signal.setitimer(signal.ITIMER_REAL, asked["limit"])  # ends the process even while the driver does not return
    try:
        answer = Canvas().draw(asked["shader"], asked["seconds"], asked["size"]).tobytes()
        code = 0
    except Exception as error:  # noqa: BLE001  # one program's trouble, whatever it is, is reported as its own
        answer = str(error).encode()
        code = UNAVAILABLE if isinstance(error, OpenGLUnavailableError) else REFUSED
    sys.stdout.buffer.write(answer)
    return code


if __name__ == "__main__":
    sys.exit(main())
