"""Images of shader programs: rendered, looked through, kept on disk. They show nothing.

.. [Frank2023] L. Frank, J. Davis. Data-Free Knowledge Distillation Using Adversarially Perturbed OpenGL Shader Images.
   2023.
"""

import hashlib
from collections import deque
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from kdlightning import shaders
from kdlightning.data.base import ImageDataModule, at_least
from kdlightning.data.cached import kept
from kdlightning.data.collected import CollectedDataModule
from kdlightning.data.sets import ImageTensorDataset
from kdlightning.shaders import OpenGLRenderer, Program, ShaderError, program_files, render_file
from kdlightning.shaders.program import quantised

_SPAN = 10.0  # seconds of a program's time that images are taken from


class ShaderDataModule(CollectedDataModule):
    """A pool of shader images, D_S of [Frank2023]_; classes, size, augmentation, validation and test are the source's.

    Program ``i`` comes from (``render_seed``, i), and an image from its program, a time and a draw of the program's
    numbers. Images that are constant or simple are dropped, and others rendered in their place: those of which more
    than ``flat`` have one colour, or whose pixels have fewer than ``colours`` colours (both at 16 levels per channel).

    With ``programs``, they are the user's own, in turn, at random times. A program that cannot be rendered, or whose
    images in a turn are all simple, is named in a warning and left out. A ValueError tells of a number below 1, a share
    outside its range, OpenGL while training, or programs without OpenGL.

    Args:
        source: the task's data set. Its training images are never used.
        size: number of images.
        per_program: images of one program.
        renderer: ``torch`` or ``opengl``; they agree to 2/255 on nearly all programs.
        render_seed: owner of the images.
        flat: the largest share of pixels of one colour.
        colours: the least number of colours.
        programs: a folder with fragment shaders (``*.frag``, ``*.glsl``) in the place of the grammar; by OpenGL only. A
            file has Shadertoy's ``mainImage``, or one of `kdlightning.shaders.dialects`, which its name then says:
            ``waves.geekest.frag``.
        cache: where rendered images are kept, by a hash of everything that makes them.
        online: keep rendering while :class:`ShaderKD` trains: new images, of programs that the pool has not seen, take
            the place of its oldest ones. By torch, on the device that trains.
        renewal: with ``online``, how many new images come in a step, as a share of the batch.
    """

    dropped: float  #: share of the rendered images that were constant or simple, after :meth:`setup`
    renewed: int  #: number of images that have been replaced so far

    def __init__(
        self,
        source: ImageDataModule,
        size: int = 25_000,
        per_program: int = 10,
        renderer: Literal["torch", "opengl"] = "torch",
        render_seed: int = 0,
        flat: float = 0.9,
        colours: int = 4,
        programs: str = "",
        cache: str = "cache",
        fraction: float = 1.0,
        online: bool = False,
        renewal: float = 0.1,
    ) -> None:
        super().__init__(source, fraction)
        at_least(1, size=size, per_program=per_program, colours=colours)
        if not 0 < flat <= 1:
            raise ValueError(f"flat: expected a share above 0 and up to 1, got {flat}")
        if not 0 < renewal <= 1:
            raise ValueError(f"renewal: expected a share of the batch above 0 and up to 1, got {renewal}")
        if online and renderer != "torch":
            where = "which renders where the student trains"
            raise ValueError(f"online: expected renderer: torch, {where}, got {renderer}")
        if programs and renderer != "opengl":
            raise ValueError(f"programs: expected renderer: opengl, which reads GLSL, got {renderer}")
        self.programs = Path(programs).expanduser() if programs else None
        self.size, self.per_program, self.renderer, self.render_seed = size, per_program, renderer, render_seed
        self.flat, self.colours, self.cache = flat, colours, Path(cache).expanduser()
        self.online, self.renewal, self.renewed, self._owed = online, renewal, 0, 0.0

    def prepare_data(self) -> None:
        """Let the source download, and render once, on one process."""
        super().prepare_data()
        self._rendered()

    def setup(self, stage: str | None = None) -> None:
        """Refuse, with a ValueError, to be online where nobody renews the images."""
        module = getattr(self.trainer, "lightning_module", None)  # None: somebody looks at the pool
        if self.online and stage == "fit" and module is not None and not getattr(module, "renews", False):
            raise ValueError(
                f"online: expected ShaderKD, which renews the pool, got {type(module).__name__}: set online: false"
            )
        super().setup(stage)

    def collect(self) -> Tensor:
        """The pool, from the cache if it has been rendered before."""
        images, facts = self._rendered()
        self.dropped, self._next = facts["dropped"], int(facts["programs"])
        return torch.from_numpy(images)

    def stand_ins(self) -> ImageTensorDataset:
        """Notes that no image is from a later program yet."""
        pool = super().stand_ins()
        self._origin = torch.full((len(pool), 2), -1)  # program and draw of the images that are not the pool's first
        return pool

    def identity(self) -> dict[str, Any]:
        """Adds what makes the images."""
        online = {"renewal": self.renewal} if self.online else {}
        return {**super().identity(), "shaders": self._key()[:16], **online}

    def renew(self) -> Tensor:
        """Replace the pool's oldest images by those of new programs, as many as one step owes; called once a step.

        A program is rendered when as many images are owed as it gives. Processes render a program each and share the
        images, so that their pools are the same. Returns the positions ``(M,)`` of new images; mostly none.
        """
        trainer, pool = cast(Any, self.trainer), cast(ImageTensorDataset, self.train_set)
        world, device = trainer.world_size, trainer.strategy.root_device
        self._owed += self.renewal * self.batch_size * world
        changed = []
        while self._owed >= self.per_program * world:
            number = self._next + trainer.global_rank
            made = self._images(number, None, device)
            fit = ~simple(made, self.flat, self.colours)
            origin = torch.tensor([(number, draw) for draw in range(len(made))], device=device)
            if world > 1:
                gather = trainer.strategy.all_gather
                made, fit, origin = (gather(each).flatten(0, 1) for each in (made, fit, origin))
            made, origin = (each[fit].cpu()[: len(pool)] for each in (made, origin))
            rows = (self.renewed + torch.arange(len(made))) % len(pool)
            pool.images[rows], self._origin[rows] = made, origin
            self._next += world
            self._owed -= len(made)
            self.renewed += len(made)
            changed.append(rows)
        return torch.cat(changed).unique() if changed else torch.empty(0, dtype=torch.int64)

    def state_dict(self) -> dict[str, Any]:
        """Which images the pool holds now, not the images."""
        if not self.online:
            return {}
        return {"next": self._next, "owed": self._owed, "renewed": self.renewed, "origin": self._origin}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Render them again, on the device that trains: another one may round otherwise."""
        self._ready = False  # the pool may have moved on in this process
        self.setup()
        device = self.trainer.strategy.root_device  # type: ignore[union-attr]
        self._next, self._owed, self.renewed = state["next"], state["owed"], state["renewed"]
        self._origin, pool = state["origin"].clone(), cast(ImageTensorDataset, self.train_set)
        for number in set(self._origin[:, 0].tolist()) - {-1}:
            rows = (self._origin[:, 0] == number).nonzero()[:, 0]
            pool.images[rows] = self._images(number, None, device).cpu()[self._origin[rows, 1]]

    def _key(self) -> str:
        kinds = (self.size, self.per_program, self.renderer, self.render_seed, self.flat, self.colours)
        settings = ("with programs", *kinds, self.channels, self.image_size, _SPAN)
        digest = hashlib.sha256(repr(settings).encode())
        sources = sorted(Path(shaders.__file__).parent.glob("*.py"))  # another version writes other programs
        for source in [*sources, *self._files()]:
            digest.update(source.name.encode() + source.read_bytes())
        return digest.hexdigest()

    def _rendered(self) -> tuple[np.ndarray, dict[str, float]]:
        file = self.cache / f"shaders-{self._key()[:16]}.npy"
        return kept(file, file.with_suffix(".json"), self._render)

    def _files(self) -> list[Path]:
        files = program_files(self.programs) if self.programs else []
        if self.programs and not files:
            raise ValueError(f"programs: expected a folder with *.frag or *.glsl files, got {self.programs}")
        return files

    def _render(self) -> tuple[np.ndarray, dict[str, float]]:
        """The images; which share of all that were rendered was dropped, and how many programs there were."""
        images = torch.empty(self.size, self.channels, self.image_size, self.image_size, dtype=torch.uint8)
        had = number = dropped = 0
        files = deque(self._files())
        with OpenGLRenderer() if self.renderer == "opengl" and not files else nullcontext() as opengl:
            while had < self.size:
                if number > 20 + 20 * self.size:
                    some = f"{number} programs gave {had} images of {self.size}"
                    raise RuntimeError(f"{some}: lower colours, or raise flat")
                made = self._of_the_next(files, number) if self.programs else self._images(number, opengl)
                left_out = simple(made, self.flat, self.colours)
                made = made[~left_out][: self.size - had]
                images[had : had + len(made)] = made
                had, number, dropped = had + len(made), number + 1, dropped + int(left_out.sum())
        return images.numpy(), {"dropped": dropped / (number * self.per_program), "programs": number}

    def _of_the_next(self, files: deque[Path], number: int) -> Tensor:
        """Images of the user's program whose turn it is; those that give none lose their turn for good."""
        while files:
            file = files.popleft()
            try:
                made = render_file(file, self._times(number), self.image_size, channels=self.channels)
                if simple(made, self.flat, self.colours).all():
                    raise ShaderError("its images are simple")
            except ShaderError as error:
                rank_zero_warn(f"programs: {file} is left out: {error}")
                continue
            files.append(file)
            return made
        raise RuntimeError(f"programs: nothing in {self.programs} can be used; a warning says why for every file")

    def _times(self, number: int) -> list[float]:
        generator = torch.Generator().manual_seed(self.render_seed * 1_000_003 + number)
        return cast(list[float], (_SPAN * torch.rand(self.per_program, generator=generator)).tolist())

    def _images(self, number: int, opengl: OpenGLRenderer | None, device: torch.device | str = "cpu") -> Tensor:
        """All images of a program of the grammar, uint8 on the device; the simple ones, too."""
        program, times = Program.from_seed(self.render_seed * 1_000_003 + number), self._times(number)
        variants = range(self.per_program)
        shape: dict[str, Any] = {"size": self.image_size, "channels": self.channels, "variants": variants}
        if opengl is not None:
            return opengl.render(program, times, **shape)
        return quantised(program.render(times, **shape, device=device))


def simple(images: Tensor, flat: float = 0.9, colours: int = 4) -> Tensor:
    """Which images ``(N, C, H, W)``, uint8, are constant, or nearly so: bool ``(N,)``.

    More than a share ``flat`` of the pixels have one colour, or all fewer than ``colours``, at 16 levels per channel.
    """
    base = torch.tensor([16**k for k in range(images.shape[1])], device=images.device).view(1, -1, 1)
    code = ((images // 16).flatten(2).long() * base).sum(1)
    counts = torch.zeros(len(images), 16 ** images.shape[1], dtype=torch.int32, device=images.device)
    counts.scatter_add_(1, code, torch.ones_like(code, dtype=torch.int32))
    return (counts.amax(1) > flat * code.shape[1]) | ((counts > 0).sum(1) < colours)
