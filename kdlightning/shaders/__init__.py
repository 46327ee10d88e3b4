"""Shader programs without limit: a grammar whose every seed is a program, rendered by torch or by OpenGL."""

from kdlightning.shaders.canvas import OpenGLUnavailableError, ShaderCompileError
from kdlightning.shaders.collection import (
    ProgramFailure,
    ProgramImages,
    UserProgram,
    load_programs,
    render_programs,
)
from kdlightning.shaders.dialects import MODES, fragment_shader
from kdlightning.shaders.opengl import OpenGLRenderer
from kdlightning.shaders.pool import render_pool
from kdlightning.shaders.program import Program

__all__ = [
    "MODES",
    "OpenGLRenderer",
    "OpenGLUnavailableError",
    "Program",
    "ProgramFailure",
    "ProgramImages",
    "ShaderCompileError",
    "UserProgram",
    "fragment_shader",
    "load_programs",
    "render_pool",
    "render_programs",
]
