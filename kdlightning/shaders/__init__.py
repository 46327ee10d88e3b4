"""Shader programs without limit: a grammar whose every seed is a program, rendered by torch or by OpenGL."""

from kdlightning.shaders.canvas import OpenGLUnavailableError, ShaderError
from kdlightning.shaders.dialects import MODES, fragment_shader
from kdlightning.shaders.files import program_files, render_file
from kdlightning.shaders.opengl import OpenGLRenderer
from kdlightning.shaders.program import Program

__all__ = [
    "MODES",
    "OpenGLRenderer",
    "OpenGLUnavailableError",
    "Program",
    "ShaderError",
    "fragment_shader",
    "program_files",
    "render_file",
]
