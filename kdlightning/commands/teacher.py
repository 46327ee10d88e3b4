"""``python -m kdlightning teacher try``: one image, to see a teacher's configuration at work before a run pays."""

import argparse
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from kdlightning.accounting import QueryBudgetExceededError
from kdlightning.commands.hints import class_of, explain, public_class
from kdlightning.commands.recipes import read_recipe
from kdlightning.data.archives import read_file
from kdlightning.data.decoding import decode_or_name
from kdlightning.functional.topk import TopK
from kdlightning.remote import RemoteTeacherError
from kdlightning.remote.connection import Request
from kdlightning.remote.credentials import blacken
from kdlightning.remote.networked import NetworkedTeacher
from kdlightning.teachers import BlackBoxTeacher, HardLabelTeacher, SoftLabelTeacher, TopKTeacher
from kdlightning.teachers.given import IN_JOBS

if TYPE_CHECKING:
    from kdlightning.remote.wire import Received

_DESCRIPTION = """\
Ask a teacher about one image and show what is sent, what comes, how it is read and what it costs. Secrets are masked.
The image is asked once, without retries, is paid, and goes into no ledger."""

_EPILOG = """\
FILE is YAML: the teacher itself (class_path, init_args), with `teacher:` before it, the configuration of a run, or a
recipe, such as `kdlightning new` writes.

example:
  kdlightning teacher try teacher.yaml photo.jpg --shape 3 32 32"""

_SIZE = 224  # where nobody tells
_BEST, _LONGEST = 5, 1500
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")


def main(argv: Sequence[str]) -> int:
    """Try a teacher; the exit code is 2 where it gave no answer that can be used."""
    parser = argparse.ArgumentParser(prog="kdlightning teacher", description="Look at a teacher.")
    trying = parser.add_subparsers(dest="command", required=True).add_parser(
        "try", help="ask about one image", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    trying.add_argument("file", type=Path, metavar="FILE", help="the teacher's configuration")
    trying.add_argument("image", type=Path, metavar="IMAGE", help="any image")
    shape = f"channels, height and width to send; by default as the teacher says, else 3 {_SIZE} {_SIZE}"
    trying.add_argument("--shape", type=int, nargs=3, metavar=("C", "H", "W"), help=shape)
    arguments = parser.parse_args(argv)
    try:
        teacher = _build(_settings(arguments.file))
        _try(teacher, arguments.image, arguments.shape)
    except BrokenPipeError:
        raise  # the program ends in silence
    except (ImportError, OSError, QueryBudgetExceededError, RemoteTeacherError, ValueError, yaml.YAMLError) as error:
        sys.stderr.write(f"kdlightning: error: {blacken(str(error))}\n")
        return 2
    return 0


def _settings(file: Path) -> dict[str, Any]:
    """The teacher in a configuration, to be asked once and to keep nothing."""
    given = yaml.safe_load(file.read_text(encoding="utf-8"))
    recipe = isinstance(given, dict) and "stages" in given
    places = [stage.config for stage in read_recipe(file)[1]] if recipe else [given]
    if (found := next(filter(None, map(_teacher_of, places)), None)) is None:
        where = "alone, as `teacher:`, in a run's model or in a recipe's"
        raise ValueError(f"{file}: expected a teacher's class_path and init_args, {where}")
    settings = {**found, "init_args": dict(found.get("init_args") or {})}
    kind = class_of(name := str(settings["class_path"]))
    if issubclass(kind, BlackBoxTeacher) and kind.in_jobs:
        raise ValueError(f"{file}: one image is asked at once, and a {kind.__name__} {IN_JOBS}")
    if issubclass(kind, NetworkedTeacher) and isinstance(public_class(name), type):
        patience = {**(settings["init_args"].get("patience") or {}), "attempts": 1}
        budget = settings["init_args"].get("budget")
        most = budget.get("queries") if isinstance(budget, dict) else budget  # the rest needs a ledger
        settings["init_args"] |= {"ledger": None, "budget": most, "offline": False, "patience": patience}
    return settings


def _teacher_of(given: Any) -> dict[str, Any] | None:  # noqa: ANN401 - what a file has, or a part of it
    for steps in ((), ("teacher",), ("model", "init_args", "teacher"), ("init_args", "teacher")):
        found = given
        for step in steps:
            found = found.get(step) if isinstance(found, dict) else None
        if isinstance(found, dict) and (steps or "teacher" not in found.get("init_args", {})) and "class_path" in found:
            return found
    return None


def _build(settings: dict[str, Any]) -> BlackBoxTeacher:
    """Build it as what it is: of a union every alternative would say why it is not meant."""
    found = class_of(str(settings["class_path"]))
    kinds = [kind for kind in (SoftLabelTeacher, TopKTeacher, HardLabelTeacher) if issubclass(found, kind)]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--teacher", type=kinds[0] if kinds else BlackBoxTeacher)
    try:
        teacher: BlackBoxTeacher = parser.instantiate(parser.parse_object({"teacher": settings})).teacher
    except (ArgumentError, ValueError) as error:
        raise ValueError(explain(str(error), parser)) from error
    if isinstance(teacher, NetworkedTeacher) and teacher.remembers:  # made by a function, which hides its options
        name = type(teacher).__name__
        raise ValueError(f"{settings['class_path']} makes a teacher with a ledger: give the {name} and its arguments")
    return teacher


def _try(teacher: BlackBoxTeacher, image: Path, shape: Sequence[int] | None) -> None:
    channels, height, width = shape or getattr(teacher, "image_shape", None) or (3, _SIZE, _SIZE)
    if height != width or height < 1 or channels not in (1, 3):
        raise ValueError(
            f"--shape: expected a square image, grey (1) or in colour (3), got {[channels, height, width]}"
        )
    pixels = decode_or_name(str(image), lambda: read_file(image), height, channels)
    _say("teacher", f"{type(teacher).__name__} {teacher.identity['network']}")
    _say("image", f"{image} as {channels} x {height} x {width}")
    if isinstance(teacher, NetworkedTeacher):
        teacher.listen(_show)
    began = time.monotonic()
    answer = teacher.query(pixels[None].float() / 255)
    seconds = time.monotonic() - began
    _say("read as", _meaning(answer, getattr(teacher, "labels", None) or {}, topk=teacher.access == "topk"))
    paid, cost = teacher.paid, teacher.cost
    tokens = f", {cost.input_tokens:,} tokens in, {cost.output_tokens:,} out" if any(cost[3:]) else ""
    _say(
        "cost",
        f"{paid.queries} image, {paid.bytes_up:,} bytes up, {paid.bytes_down:,} down, {seconds:.2f} s{tokens}"
        + (f", {cost.price:.10g} units of price" if cost.price else ""),
    )


def _show(request: Request, headers: dict[str, str], got: "Received") -> None:
    """Print an exchange, as it was, but for secrets and what is too long."""
    _say("sent", f"{request.method} {request.url}, {len(request.body or b''):,} bytes")
    for name, value in {**headers, **request.headers}.items():
        _say("", f"{name}: {value}")
    _say("", _readable(request.body or b""))
    _say("came", f"status {got.status}, {got.size:,} bytes")
    for name in ("content-type", "retry-after"):
        if name in got.headers:
            _say("", f"{name}: {got.headers[name]}")
    _say("", _readable(got.body))


def _readable(body: bytes) -> str:
    """A body as text: without secrets, binary tensors, and the middle of what is long."""
    head = _NO_TEXT.split(body.decode(errors="replace"), maxsplit=1)[0]
    binary = len(body) - len(head.encode())
    text = blacken(head)
    text = re.sub(r"[\w+/=-]{120,}", lambda found: f"{found[0][:24]}... ({len(found[0]):,} characters)", text)
    text = re.sub(r"(?:[-+.\deE]+[\[\],\s]+){24,}", lambda found: f"{found[0][:48]}... (numbers), ", text)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({len(text):,} characters)"
    return f"{text} ... (bytes: {binary:,})" if binary else text


def _meaning(answer: Tensor, labels: dict[str, int], *, topk: bool) -> str:
    """An answer in words, with the label texts where they are known."""
    names: dict[int, str] = {}
    for text, index in labels.items():
        names.setdefault(index, f" ({text})")
    if answer.ndim == 1:
        return f"class {int(answer)}{names.get(int(answer), '')}"
    if topk:
        known = TopK.of(answer)
        pairs, rest = zip(known.classes[0].tolist(), known.scores[0].tolist(), strict=True), known.rest.item()
        named = ((index, score) for index, score in pairs if index >= 0)
        listed = ", ".join(f"class {index}{names.get(index, '')} {score:.4g}" for index, score in named)
        return f"the best classes: {listed}; all others: {'unknown' if rest < 0 else f'{rest:.4g}'}"
    best = answer[0].topk(min(_BEST, answer.shape[1]))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    listed = ", ".join(f"class {index}{names.get(index, '')} {value:.4g}" for index, value in pairs)
    return f"probabilities of {answer.shape[1]} classes: {listed}{', ...' if answer.shape[1] > _BEST else ''}"


def _say(what: str, text: str) -> None:
    for number, line in enumerate(blacken(text).split("\n")):
        sys.stdout.write(f"{'' if number else what:8} {line}\n")
