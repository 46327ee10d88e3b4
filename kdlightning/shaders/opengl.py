"""Programs of the package, and complete fragment shaders, rendered by OpenGL."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from kdlightning.shaders.canvas import Canvas
from kdlightning.shaders.program import Program, checked_times, quantised, to_luma


class OpenGLRenderer:
    """Renders fragment shaders on EGL, on a GPU or by Mesa's software driver; also a context manager.

    A program is compiled at its first image, which takes tens of milliseconds in Mesa's software driver; the
    ``cached_programs`` used last stay compiled. To be used in the thread and the process that made it, and to be
    made after any fork. A shader that never ends blocks this process for good: `render_programs` runs strangers'
    programs in another process, with a time limit.

    Args:
        cached_programs: how many compiled programs to keep.

    Raises:
        OpenGLUnavailableError: if moderngl, the libraries or a device are missing.
    """

    def __init__(self, *, cached_programs: int = 64) -> None:
        self._canvas = Canvas(cached_programs)

    @property
    def device(self) -> str:
        """The driver's name for what it renders on."""
        return str(self._canvas.context.info["GL_RENDERER"])

    def render(
        self,
        program: Program | str,
        times: Sequence[float] | Tensor,
        size: int,
        *,
        channels: int = 3,
        variants: Sequence[int] | None = None,
    ) -> Tensor:
        """Images of one program.

        Args:
            program: a `Program`, or the text of a complete fragment shader, whose uniforms have names that
                `canvas.uniforms` knows.
            times: seconds ``(N,)``, one image each.
            size: height and width.
            channels: 3 for colour, 1 for its luma.
            variants: as in `Program.render`; for a program of the package only.

        Returns:
            uint8 ``(N, channels, size, size)``, on the CPU.

        Raises:
            ShaderCompileError: if the driver does not compile it, or it has a uniform that has no value here.
            ValueError: if a size or a number of images does not fit.
        """
        seconds = checked_times(times, size, channels, variants).tolist()
        if isinstance(program, str):
            if variants is not None:
                raise ValueError("expected no variants for a shader given as text: it has no parameters")
            images = self._canvas.draw(program, seconds, size)
        else:
            numbers = program.parameters([0] if variants is None else variants).numpy()
            images = self._canvas.draw(program.glsl(), seconds, size, [row.tobytes() for row in numbers])
        return from_canvas(torch.from_numpy(images.copy()), channels)

    def close(self) -> None:
        """Give back what the driver holds."""
        self._canvas.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def from_canvas(images: Tensor, channels: int) -> Tensor:
    """What a `Canvas` drew, uint8 ``(N, H, W, 3)``, as ``(N, channels, H, W)``."""
    images = images.permute(0, 3, 1, 2).contiguous()
    return images if channels == 3 else quantised(to_luma(images.float() / 255))
