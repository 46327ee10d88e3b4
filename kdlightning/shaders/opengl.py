"""Programs of the package rendered by OpenGL."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kdlightning.shaders.canvas import Canvas
from kdlightning.shaders.program import Program, checked_times, quantised, to_luma


class OpenGLRenderer(Canvas):
    """Renders on EGL, on a GPU or by Mesa's software driver; made as a `Canvas` is, and as it a context manager.

    A program is compiled at its first image, which takes tens of milliseconds in Mesa's software driver. To be used in
    the thread and the process that made it, and to be made after any fork. A shader given as text (:meth:`draw`) that
    never ends blocks this process for good: `render_file` runs strangers' programs in another one.
    """

    @property
    def device(self) -> str:
        """The driver's name for what it renders on."""
        return str(self.context.info["GL_RENDERER"])

    def render(
        self,
        program: Program,
        times: Sequence[float] | Tensor,
        size: int,
        *,
        channels: int = 3,
        variants: Sequence[int] | None = None,
    ) -> Tensor:
        """As `Program.render`, but uint8 and on the CPU."""
        seconds = checked_times(times, size, channels, variants).tolist()
        rows = [row.numpy().tobytes() for row in program.parameters([0] if variants is None else variants)]
        return from_canvas(self.draw(program.glsl, seconds, size, rows), channels)


def from_canvas(images: np.ndarray, channels: int) -> Tensor:
    """What a `Canvas` drew, uint8 ``(N, H, W, 3)``, as ``(N, channels, H, W)``."""
    pixels = torch.from_numpy(images.copy()).permute(0, 3, 1, 2).contiguous()
    return pixels if channels == 3 else quantised(to_luma(pixels.float() / 255))
