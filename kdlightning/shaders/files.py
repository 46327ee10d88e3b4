"""A user's own shader programs, in files, each rendered in a process of its own that may fail or hang."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from kdlightning.shaders import canvas
from kdlightning.shaders.canvas import OpenGLUnavailableError, ShaderError
from kdlightning.shaders.dialects import MODES, fragment_shader
from kdlightning.shaders.opengl import from_canvas
from kdlightning.shaders.program import checked_times


def program_files(folder: Path) -> list[Path]:
    """The files named ``*.frag`` and ``*.glsl`` in a folder and below, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix in (".frag", ".glsl") and path.is_file())


def read_program(path: Path) -> str:
    """The complete fragment shader of a file.

    The name says the dialect (see `kdlightning.shaders.dialects`): ``waves.geekest_300.glsl`` is in TwiGL's geekest
    mode for GLSL ES 3.00; ``waves.glsl``, without a mode, has Shadertoy's ``mainImage``. A ShaderError if it cannot be
    read, there is no such dialect, or the text is not in it.
    """
    _, dot, written = path.stem.rpartition(".")
    mode = next((mode for mode in MODES if mode == (written if dot else "image")), None)
    if mode is None:
        raise ShaderError(f"unknown mode '{written}' in the name; there are {', '.join(MODES)}, or none for mainImage")
    try:
        return fragment_shader(path.read_text(encoding="utf-8"), mode)
    except (OSError, UnicodeDecodeError) as error:
        raise ShaderError(f"cannot be read: {error}") from error


def render_file(
    path: Path, times: Sequence[float] | Tensor, size: int, *, channels: int = 3, time_limit: float = 20.0
) -> Tensor:
    """Images of one file, by OpenGL: uint8 ``(N, channels, size, size)``.

    Args:
        path: see `read_program`.
        times: seconds ``(N,)``, one image each.
        size: height and width.
        channels: 3 for colour, 1 for its luma.
        time_limit: seconds that all of it may take, compilation and the start of the process included.

    Raises:
        OpenGLUnavailableError: if there is no OpenGL on this machine.
        ShaderError: if it does not compile, takes too long, or brings the driver down.
    """
    seconds = checked_times(times, size, channels, None).tolist()
    asked = {"shader": read_program(path), "seconds": seconds, "size": size, "limit": time_limit}
    done = subprocess.run(
        [sys.executable, "-P", canvas.__file__],  # -P: the script's own folder is not searched for modules
        input=json.dumps(asked).encode(), stdout=subprocess.PIPE, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )  # fmt: skip
    if done.returncode == canvas.UNAVAILABLE:
        raise OpenGLUnavailableError(done.stdout.decode())
    if done.returncode == canvas.REFUSED:
        raise ShaderError(done.stdout.decode())
    if done.returncode == -signal.SIGALRM:
        raise ShaderError(f"took longer than {time_limit:g} s")
    if done.returncode:
        raise ShaderError(f"ended the process that rendered it, with code {done.returncode}")
    return from_canvas(np.frombuffer(done.stdout, np.uint8).reshape(len(seconds), size, size, 3), channels)
