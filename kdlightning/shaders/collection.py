"""A directory of a user's own shader programs, rendered in another process that may fail or hang."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kdlightning.shaders import canvas
from kdlightning.shaders.canvas import OpenGLUnavailableError
from kdlightning.shaders.dialects import MODES, Mode, fragment_shader
from kdlightning.shaders.opengl import from_canvas
from kdlightning.shaders.program import checked_times

SUFFIXES = (".glsl", ".frag")
_START_LIMIT = 120.0  # seconds for the process to find a driver


class UserProgram(NamedTuple):
    """One file.

    Attributes:
        file: its path below the directory.
        mode: the dialect that its name says it is in.
        text: what it holds.
    """

    file: str
    mode: Mode
    text: str


class ProgramFailure(NamedTuple):
    """A file without images, and why."""

    file: str
    reason: str


class ProgramImages(NamedTuple):
    """What could be rendered, and what not.

    Attributes:
        images: uint8 ``(R, T, C, H, W)``: of each of ``files``, at each time.
        files: of the programs with images, in the order given.
        failures: the others.
    """

    images: Tensor
    files: list[str]
    failures: list[ProgramFailure]


def load_programs(directory: str | Path) -> tuple[list[UserProgram], list[ProgramFailure]]:
    """The shader programs in a directory and below, sorted by path, and the files that cannot be read as one.

    The name says the dialect (see `kdlightning.shaders.dialects`): ``waves.geekest_300.glsl`` is in TwiGL's geekest
    mode for GLSL ES 3.00; ``waves.glsl``, without a mode, has Shadertoy's ``mainImage``. ``.frag`` is as good as
    ``.glsl``; other files are not looked at.

    Raises:
        NotADirectoryError: if there is no such directory.
    """
    root = Path(directory)
    if not root.is_dir():
        raise NotADirectoryError(f"expected a directory of shader programs, got {root}")
    programs, failures = [], []
    for path in sorted(path for path in root.rglob("*") if path.suffix in SUFFIXES and path.is_file()):
        file = path.relative_to(root).as_posix()
        _, dot, written = path.stem.rpartition(".")
        mode = next((mode for mode in MODES if mode == written), None) if dot else "image"
        if mode is None:
            reason = f"unknown mode '{written}' in the name; there are {', '.join(MODES)}, or none for mainImage"
            failures.append(ProgramFailure(file, reason))
            continue
        try:
            programs.append(UserProgram(file, mode, path.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            failures.append(ProgramFailure(file, f"cannot be read: {error}"))
    return programs, failures


def render_programs(
    programs: Sequence[UserProgram],
    times: Sequence[float] | Tensor,
    size: int,
    *,
    channels: int = 3,
    time_limit: float = 10.0,
) -> ProgramImages:
    """Images of users' programs through OpenGL, each program at each time.

    A program that does not compile, takes too long or brings the driver down is listed and does not stop the others.

    Args:
        programs: from `load_programs`.
        times: seconds ``(T,)``.
        size: height and width.
        channels: 3 for colour, 1 for its luma.
        time_limit: seconds that all images of one program may take, compilation included.

    Raises:
        OpenGLUnavailableError: if there is no OpenGL on this machine.
        ValueError: if the size or channels do not fit.
    """
    seconds = checked_times(times, size, channels, None).tolist()
    images: list[Tensor] = []
    files: list[str] = []
    failures: list[ProgramFailure] = []
    with _Renderer(time_limit) as renderer:
        for program in programs:
            try:
                shader = fragment_shader(program.text, program.mode)
                images.append(from_canvas(renderer.draw(shader, seconds, size), channels))
                files.append(program.file)
            except (ValueError, _RenderError) as error:
                failures.append(ProgramFailure(program.file, str(error)))
    empty = torch.empty(0, len(seconds), channels, size, size, dtype=torch.uint8)
    return ProgramImages(torch.stack(images) if images else empty, files, failures)


class _RenderError(RuntimeError):
    """Why a program has no images."""


class _Renderer:
    """A process with a `canvas.Canvas`, ended when it hangs, and started again for the next program."""

    def __init__(self, time_limit: float) -> None:
        self._time_limit = time_limit
        self._process: subprocess.Popen[bytes] | None = None

    def draw(self, shader: str, seconds: list[float], size: int) -> Tensor:
        """Images uint8 ``(T, H, W, 3)``.

        Raises:
            _RenderError: if there are none.
        """
        if self._process is None:
            self._start()
        try:
            self._connection.send((shader, seconds, size))
            if not self._connection.poll(self._time_limit):
                self._stop()
                raise _RenderError(f"took longer than {self._time_limit:g} s")
            answer = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise _RenderError(f"ended the process that rendered it, with code {self._stop()}") from error
        if isinstance(answer, str):
            raise _RenderError(answer)
        return torch.from_numpy(answer)

    def _start(self) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        # -P: the script's own folder is not searched for modules
        command = [sys.executable, "-P", canvas.__file__, str(theirs.fileno()), str(self._time_limit)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL
            )
        try:
            problem = self._connection.recv() if self._connection.poll(_START_LIMIT) else "the renderer did not start"
        except EOFError:
            problem = "the renderer ended as it started"
        if problem:
            self._stop()
            raise OpenGLUnavailableError(problem)

    def _stop(self) -> int | None:
        """End the process; its return code."""
        if self._process is None:
            return None
        self._connection.close()
        try:
            code = self._process.wait(0.2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._process = None
        return code

    def __enter__(self) -> "_Renderer":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
