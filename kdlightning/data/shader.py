"""Images of shader programs: rendered, looked through, kept on disk. They show nothing.

.. [Frank2023] L. Frank, J. Davis. Data-Free Knowledge Distillation Using Adversarially Perturbed OpenGL Shader Images.
   2023.
"""

import hashlib
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kdlightning import shaders
from kdlightning.data.base import ImageDataModule
from kdlightning.data.collected import CollectedDataModule, Collection
from kdlightning.shaders import OpenGLRenderer, Program

_SPAN = 10.0  # seconds of a program's time that images are taken from


class ShaderDataModule(CollectedDataModule):
    """A pool of shader images, D_S of [Frank2023]_; classes, size, augmentation, validation and test are the source's.

    Program ``i`` comes from (``render_seed``, i), and an image from its program, a time and a draw of the program's
    numbers. Images that are constant or simple are dropped, and others rendered in their place: those of which more
    than ``flat`` have one colour, or whose pixels have fewer than ``colours`` colours (both at 16 levels per channel).

    Args:
        source: the task's data set. Its training images are never used.
        size: number of images.
        per_program: images of one program.
        renderer: ``torch`` or ``opengl``; they agree to 2/255 on nearly all programs.
        render_seed: owner of the images.
        flat: the largest share of pixels of one colour.
        colours: the least number of colours.
        cache: where rendered images are kept, by a hash of everything that makes them.
        fraction: share of the images, see :class:`CollectedDataModule`.

    Attributes:
        dropped: share of the rendered images that were constant or simple, after :meth:`setup`.

    Raises:
        ValueError: a number below 1, or a share outside its range.
    """

    dropped: float

    def __init__(
        self,
        source: ImageDataModule,
        size: int = 25_000,
        per_program: int = 10,
        renderer: Literal["torch", "opengl"] = "torch",
        render_seed: int = 0,
        flat: float = 0.9,
        colours: int = 4,
        cache: str = "cache",
        fraction: float = 1.0,
    ) -> None:
        super().__init__(source, fraction)
        for setting, value in {"size": size, "per_program": per_program, "colours": colours}.items():
            if value < 1:
                raise ValueError(f"{setting}: expected at least 1, got {value}")
        if not 0 < flat <= 1:
            raise ValueError(f"flat: expected a share above 0 and up to 1, got {flat}")
        self.size, self.per_program, self.renderer, self.render_seed = size, per_program, renderer, render_seed
        self.flat, self.colours, self.cache = flat, colours, Path(cache).expanduser()

    def prepare_data(self) -> None:
        """Let the source download, and render once, on one process."""
        super().prepare_data()
        self._rendered()

    def collect(self) -> Collection:
        """The pool, from the cache if it has been rendered before."""
        images, self.dropped = self._rendered()
        return Collection(torch.from_numpy(images), None)

    def identity(self) -> dict[str, Any]:
        """Adds what makes the images."""
        return {**super().identity(), "shaders": self._key()[:16]}

    def _program(self, number: int) -> Program:
        return Program.from_seed(self.render_seed * 1_000_003 + number)

    def _key(self) -> str:
        settings = (
            self.size, self.per_program, self.renderer, self.render_seed, self.flat, self.colours, self.channels,
            self.image_size, _SPAN,
        )  # fmt: skip
        digest = hashlib.sha256(repr(settings).encode())
        for source in sorted(Path(shaders.__file__).parent.glob("*.py")):  # another version writes other programs
            digest.update(source.read_bytes())
        return digest.hexdigest()

    def _rendered(self) -> tuple[np.ndarray, float]:
        file = self.cache / f"shaders-{self._key()[:16]}.npy"
        if not file.exists():
            images, dropped = self._render()
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary = file.with_suffix(f".{os.getpid()}.npy")
            np.save(temporary, images.numpy())
            file.with_suffix(".txt").write_text(f"{dropped}\n")
            temporary.replace(file)
        images = np.load(file, mmap_mode="c")
        return images, float(file.with_suffix(".txt").read_text())

    def _render(self) -> tuple[Tensor, float]:
        """The images, and which share of all that were rendered was dropped."""
        images = torch.empty(self.size, self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        kept = number = dropped = 0
        with OpenGLRenderer() if self.renderer == "opengl" else nullcontext() as opengl:
            while kept < self.size:
                if number > 20 + 20 * self.size:
                    raise RuntimeError(
                        f"{number} programs gave {kept} images of {self.size}: lower colours, or raise flat"
                    )
                made = self._images(self._program(number), number, opengl)
                left_out = simple(made, self.flat, self.colours)
                made = made[~left_out][: self.size - kept]
                images[kept : kept + len(made)] = made
                kept, number, dropped = kept + len(made), number + 1, dropped + int(left_out.sum())
        return images, dropped / (number * self.per_program)

    def _images(self, program: Program, number: int, opengl: OpenGLRenderer | None) -> Tensor:
        generator = torch.Generator().manual_seed(self.render_seed * 1_000_003 + number)
        times = (_SPAN * torch.rand(self.per_program, generator=generator)).tolist()
        variants = range(self.per_program)
        draw: Any = program.render if opengl is None else lambda *a, **k: opengl.render(program, *a, **k)
        made: Tensor = draw(times, self.image_size, channels=self.channels, variants=variants)
        return made if made.dtype == torch.uint8 else made.mul(255).round_().to(torch.uint8)


def simple(images: Tensor, flat: float = 0.9, colours: int = 4) -> Tensor:
    """Which images are constant, or nearly so.

    Args:
        images: uint8 ``(N, C, H, W)``.
        flat: the largest share of pixels that may have one colour, at 16 levels per channel.
        colours: the least number of such colours.

    Returns:
        bool ``(N,)``.
    """
    levels = (images // 16).flatten(2).long()
    base = torch.tensor([16**k for k in range(images.shape[1])], device=images.device).view(1, -1, 1)
    code = (levels * base).sum(1)
    counts = torch.zeros(len(images), 16 ** images.shape[1], dtype=torch.int32, device=images.device)
    counts.scatter_add_(1, code, torch.ones_like(code, dtype=torch.int32))
    return (counts.amax(1) > flat * code.shape[1]) | ((counts > 0).sum(1) < colours)
