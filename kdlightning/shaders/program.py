"""A shader program: one expression graph, evaluated by torch, or written as GLSL for `OpenGLRenderer`."""

import random
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from kdlightning.shaders import noise
from kdlightning.shaders.draw import Range
from kdlightning.shaders.grammar import sentence
from kdlightning.shaders.graph import Colour, Node, schedule
from kdlightning.shaders.operations import OPERATIONS, Value

LUMA = (0.299, 0.587, 0.114)
# Pixels evaluated at once: intermediate results stay in the cache of a core, or fill a GPU.
_CHUNK = {"cpu": 2**15, "cuda": 2**20}


class Program:
    """A function from a place, a time and some parameters to a colour.

    Args:
        colour: the graph. Its parameters are positions in ``ranges``; what lies outside [0, 1] is clamped.
        ranges: where each parameter comes from.
        seed: tells the parameters of one program from another's.
    """

    def __init__(self, colour: Colour, ranges: Sequence[Range] = (), seed: int = 0) -> None:
        self._nodes = schedule(colour)
        self._roots = colour
        used = sorted({int(each.value) for each in self._nodes if each.operation == "parameter"})
        self._position = {old: new for new, old in enumerate(used)}
        self.ranges = tuple(ranges[old] for old in used)  #: of the parameters in use, in the order of `parameters`
        self.seed = seed

    @classmethod
    def from_seed(cls, seed: int) -> "Program":
        """The program of a seed, any whole number."""
        colour, draw = sentence(seed)
        return cls(colour, draw.ranges, seed)

    def parameters(self, variants: Sequence[int]) -> Tensor:
        """The numbers in the program, drawn for each variant from (seed, variant): float32 ``(V, P)``."""
        shares = [random.Random(f"parameters {self.seed} {variant}").random for variant in variants]
        rows = [[span.at(share()) for span in self.ranges] for share in shares]
        return torch.tensor(rows, dtype=torch.float32).view(len(rows), len(self.ranges))

    @torch.no_grad()
    def render(
        self,
        times: Sequence[float] | Tensor,
        size: int,
        *,
        channels: int = 3,
        variants: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Images of this program, by torch.

        Args:
            times: seconds ``(N,)``, one image each.
            size: height and width.
            channels: 3 for colour, 1 for its luma.
            variants: ``N`` whole numbers, each another draw of the program's numbers from their ranges; None for
                variant 0 in every image, which is faster, since what does not move is computed once.
            device: where to compute.

        Returns:
            float32 ``(N, channels, size, size)`` in [0, 1], on the device; an image depends on the program, its time,
            its variant and the size, not on the other images. A ValueError of what `checked_times` refuses.
        """
        seconds = checked_times(times, size, channels, variants).to(device)
        numbers = self.parameters([0] if variants is None else variants).to(device)
        images = torch.empty(len(seconds), 3, size, size, device=device)
        chunk = max(1, _CHUNK.get(images.device.type, 2**20) // size**2)
        for start in range(0, len(seconds), chunk):
            rows = slice(start, start + chunk)
            own = numbers if len(numbers) == 1 else numbers[rows]
            for channel, values in enumerate(self._evaluate(seconds[rows], own, size)):
                images[rows, channel] = values.clamp(0, 1)
        return images if channels == 3 else to_luma(images)

    def _evaluate(self, seconds: Tensor, numbers: Tensor, size: int) -> list[Tensor]:
        """The graph's three roots, of shapes that broadcast to ``(N, size, size)``; results are freed when used up."""
        axis = (2 * torch.arange(size, device=seconds.device) + 1 - size) / size
        columns = {"x": axis.view(1, 1, -1), "y": axis.flip(0).view(1, -1, 1), "time": seconds.view(-1, 1, 1)}
        values: dict[Node, Value] = {}
        for each, finished in self._plan:
            if each.operation in columns:
                values[each] = columns[each.operation]
            elif each.operation == "parameter":
                values[each] = numbers[:, self._position[int(each.value)]].view(-1, 1, 1)
            elif each.operation == "constant":
                values[each] = torch.full((1, 1, 1), each.value, device=seconds.device)
            else:
                values[each] = OPERATIONS[each.operation].evaluate(*(values[one] for one in each.arguments))
            for one in finished:
                del values[one]
        return [root for each in self._roots if isinstance(root := values[each], Tensor)]

    @cached_property
    def _plan(self) -> list[tuple[Node, list[Node]]]:
        """The nodes in order, each with those that nobody reads after it."""
        last = {argument: each for each in self._nodes for argument in each.arguments if argument not in self._roots}
        finished: dict[Node, list[Node]] = {each: [] for each in self._nodes}
        for argument, reader in last.items():
            finished[reader].append(argument)
        return [*finished.items()]

    @cached_property
    def glsl(self) -> str:
        """A complete fragment shader (GLSL 3.30).

        Its uniforms are ``vec2 resolution`` (pixels, square), ``float time`` (seconds) and ``float parameters[P]``
        (a row of `parameters`), its result ``vec4 colour``.
        """
        declared = f"uniform float parameters[{len(self.ranges)}];\n" if self.ranges else ""
        lines: list[str] = []
        names: dict[Node, str] = {}
        for each in self._nodes:
            if each.operation == "parameter":
                names[each] = f"parameters[{self._position[int(each.value)]}]"
            elif each.operation == "constant":
                names[each] = f"{each.value!r}" if each.value >= 0 else f"({each.value!r})"
            elif not each.arguments:
                names[each] = each.operation
            else:
                operation = OPERATIONS[each.operation]
                names[each] = f"v{len(lines)}"
                expression = operation.glsl.format(*(names[one] for one in each.arguments))
                lines.append(f"    {operation.kind} {names[each]} = {expression};\n")
        return (
            "#version 330 core\nuniform vec2 resolution;\nuniform float time;\n"
            f"{declared}out vec4 colour;\n{noise.GLSL}\nvoid main() {{\n"
            "    float x = (2.0 * gl_FragCoord.x - resolution.x) / resolution.x;\n"
            "    float y = (2.0 * gl_FragCoord.y - resolution.y) / resolution.y;\n"
            f"{''.join(lines)}"
            f"    colour = vec4({', '.join(names[root] for root in self._roots)}, 1.0);\n}}\n"
        )


def checked_times(times: Sequence[float] | Tensor, size: int, channels: int, variants: Sequence[int] | None) -> Tensor:
    """The seconds of the images, float32 ``(N,)``, once everything else fits: a ValueError says what does not."""
    seconds = torch.as_tensor(times, dtype=torch.float32).flatten()
    if size < 1 or channels not in (1, 3):
        raise ValueError(f"expected a positive size and 1 or 3 channels, got {size} and {channels}")
    if variants is not None and len(variants) != len(seconds):
        raise ValueError(f"expected as many variants as times, got {len(variants)} and {len(seconds)}")
    return seconds


def to_luma(images: Tensor) -> Tensor:
    """Brightness ``(N, 1, H, W)`` of colours ``(N, 3, H, W)``."""
    weight = torch.tensor(LUMA, device=images.device).view(3, 1, 1)
    return (images * weight).sum(1, keepdim=True)


def quantised(pixels: Tensor) -> Tensor:
    """Floats in [0, 1] as the nearest uint8."""
    return pixels.mul(255).round().to(torch.uint8)
