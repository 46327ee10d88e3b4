"""Shader programs without limit: a grammar whose every seed is a program, rendered by torch or by OpenGL."""

from kdlightning.shaders.canvas import OpenGLUnavailableError, ShaderError
from kdlightning.shaders.files import program_files, render_file
from kdlightning.shaders.opengl import OpenGLRenderer
from kdlightning.shaders.program import Program

__all__ = ["OpenGLRenderer", "OpenGLUnavailableError", "Program", "ShaderError", "program_files", "render_file"]
