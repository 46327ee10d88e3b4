"""Many images of many programs, by either back end."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from kdlightning.shaders.opengl import OpenGLRenderer
from kdlightning.shaders.program import Program, quantised


def render_pool(
    seeds: Sequence[int],
    times: Sequence[float] | Tensor,
    size: int,
    *,
    channels: int = 3,
    variants: Sequence[int] | None = None,
    backend: Literal["torch", "opengl"] = "torch",
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Images of the programs of these seeds, each at each time.

    Args:
        seeds: which programs, ``S`` of them.
        times: seconds ``(T,)`` for every program, or ``(S, T)``.
        size: height and width.
        channels: 3 for colour, 1 for its luma.
        variants: ``T`` whole numbers, the draw of the program's numbers that each time is shown with (see
            `Program.render`); None for variant 0.
        backend: where images are made; the two differ by at most 2/255 in nearly every program.
        device: where torch computes; OpenGL chooses its own.
        progress: called after each program with the images done so far.

    Returns:
        uint8 ``(S * T, channels, size, size)``, on the CPU; image ``s * T + t`` is of seed ``s`` at time ``t``, and
        depends on the seed, its time and variant, and the size only.

    Raises:
        OpenGLUnavailableError: if OpenGL is asked for and cannot be had.
        ValueError: if the sizes or the numbers of images do not fit.
    """
    seconds = torch.as_tensor(times, dtype=torch.float32)
    seconds = seconds.expand(len(seeds), -1) if seconds.ndim == 1 else seconds
    if seconds.ndim != 2 or len(seconds) != len(seeds):
        raise ValueError(f"expected times (T,) or ({len(seeds)}, T), got {tuple(seconds.shape)}")
    number = seconds.shape[1]
    images = torch.empty(len(seeds) * number, channels, size, size, dtype=torch.uint8)

    def fill(render: Callable[[Program, Tensor], Tensor]) -> None:
        for row, (seed, own) in enumerate(zip(seeds, seconds, strict=True)):
            images[row * number : (row + 1) * number] = render(Program.from_seed(seed), own)
            if progress is not None:
                progress((row + 1) * number)

    if backend == "torch":
        fill(
            lambda program, own: quantised(
                program.render(own, size, channels=channels, variants=variants, device=device)
            )
        )
    else:
        with OpenGLRenderer(cached_programs=1) as renderer:
            fill(lambda program, own: renderer.render(program, own, size, channels=channels, variants=variants))
    return images
