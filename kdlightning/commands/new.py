"""``python -m kdlightning new``: a few questions, and a recipe for the user's own case."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.prompt import IntPrompt, Prompt

from kdlightning.commands.advice import Plan, recommend, write
from kdlightning.commands.case import Case, CaseError, look

_DESCRIPTION = """\
Write a recipe for your own case: the recommended method beside a cheap baseline, ready for `kdlightning estimate` and
`kdlightning run`. In a terminal, what is not given is asked. The teacher is asked nothing."""

_EPILOG = """\
examples:
  kdlightning new
  kdlightning new --teacher network --network runs/teacher/network --answers soft --images photos --labels yes \\
      --budget 1000 --student ResNet8
  kdlightning new --teacher api --url https://host/v2/models/NAME --key-env TEACHER_KEY --answers hard \\
      --images web:downloads --budget 5000 --student mobilenetv3_small_100 --classes 12
  kdlightning new --teacher api --url https://api.openai.com/v1 --answers words --model gpt-4o-mini --images photos \\
      --labels no --classes cat dog bird --budget 5000 --student ResNet8
  kdlightning new --teacher weights --network runs/teacher/network --images none --student LeNet5Half"""

# option: (question, choices, default); a kind of teacher or images decides whether it is asked
_QUESTIONS: dict[str, tuple[str, list[str] | None, str | None]] = {
    "teacher": ("Your teacher is behind an [b]api[/b], a saved [b]network[/b] that only answers, or one whose "
                "[b]weights[/b] may be opened", ["api", "network", "weights"], None),
    "url": ("The model's address, such as https://host:8000/v2/models/NAME, or that of any JSON API", None, None),
    "network": ("The directory that save_network (or a run) has written", None, None),
    "key_env": ("The environment variable with the API's key (never the key; empty for none)", None, ""),
    "answers": ("It answers [b]soft[/b] probabilities, [b]hard[/b] labels, [b]topk[/b], the scores of some classes, "
                "or, as a chat model, in [b]words[/b]", ["soft", "hard", "topk", "words"], None),
    "model": ("The chat model's name on that server, such as gpt-4o-mini", None, None),
    "images": ("Images: a folder or zip of the task's own, [b]web:DIR[/b] for a folder of others, or none", None, None),
    "labels": ("Do their class folders label them", ["yes", "no"], None),
    "budget": ("How many images may the teacher be asked", None, None),
    "student": ("The student: of `kdlightning networks`, such as ResNet8, or of timm or torchvision", None, None),
}  # fmt: skip


def main(argv: Sequence[str]) -> int:
    """Write a recipe; 2 if something is missing, does not fit, or would be overwritten."""
    options = _parser().parse_args(argv)
    console = Console(highlight=False)
    try:
        file = Path(options.file)
        if file.exists() and not options.overwrite:
            raise CaseError(f"{file} exists: give another --file, or --overwrite")
        plan, text = recipe(case_of(_answered(options, console)), str(file))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except BrokenPipeError:
        raise  # the program ends in silence
    except (CaseError, OSError) as error:
        sys.stderr.write(f"kdlightning new: {error}\n")
        return 2
    headline = f"[bold]{plan.title}[/bold], beside {plan.baseline.method}. {plan.why}"
    console.print("\n".join([headline, *plan.notes]))
    console.print(f"\nwrote {file}. Next:\n  kdlightning estimate {file}\n  kdlightning run {file}", soft_wrap=True)
    return 0


def recipe(case: Case, file: str) -> tuple[Plan, str]:
    """What is recommended for a case, and the recipe for it, which will be in ``file``.

    Raises:
        CaseError: something is missing or does not fit.
    """
    facts = look(case)
    plan = recommend(case, facts)
    return plan, write(case, facts, plan, file)


def case_of(told: dict[str, Any]) -> Case:
    """A case from options; the output is named after the images and the student.

    Raises:
        CaseError: an option is out of its range.
    """
    images, student = str(told["images"]), str(told["student"])
    kind = Path(images.removeprefix("web:")).resolve().stem if images != "none" else "no-images"
    name = re.sub(r"[^\w.-]+", "-", f"{kind}-{student}").lower()
    place = told["url"] if told["teacher"] == "api" else told["network"]
    return Case(
        told["teacher"], str(place), student, images, told["answers"] or "soft", told["labels"] in ("yes", True),
        told["budget"], told["key_env"] or None, _classes(told["classes"]), told["shape"] and tuple(told["shape"]),
        str(told["output"] or f"runs/{name}"), told.get("model"),
    )  # fmt: skip


def _classes(given: int | Sequence[str] | None) -> int | Sequence[str] | None:
    """K, or names: one word that is a number is K."""
    one = given[0] if not isinstance(given, int | str | None) and len(given) == 1 else ""
    return int(one) if one.isdigit() else given


def _answered(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The options, with what is missing asked for, unless nobody is there to ask."""
    told = vars(options)
    for name, (question, choices, default) in _QUESTIONS.items():
        if told[name] is not None or not _matters(name, told):
            continue
        if not sys.stdin.isatty():
            if default is not None:
                continue
            flag = f"--{name} {'|'.join(choices)}" if choices else f"--{name}"
            raise CaseError(f"{flag} is missing, and there is nobody to ask; `kdlightning new --help` tells more")
        kind: Any = IntPrompt if name == "budget" else Prompt
        ask = kind(question, console=console, choices=choices, show_default=False)
        told[name] = ask(default=... if default is None else default)
        while told[name] == "" != default:
            told[name] = ask()
    return told


def _matters(name: str, told: dict[str, Any]) -> bool:
    """Whether a question is one for this case."""
    black_box, api = told["teacher"] != "weights", told["teacher"] == "api"
    own = str(told["images"]) != "none" and not str(told["images"]).startswith("web:")
    wanted = {"url": api, "key_env": api, "network": not api, "answers": black_box, "budget": black_box, "labels": own}
    wanted["model"] = api and told["answers"] == "words"
    return bool(wanted.get(name, True))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="kdlightning new", description=_DESCRIPTION, epilog=_EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("--teacher", choices=("api", "network", "weights"), help="an API, a black box from a saved network, or open")
    add("--url", help="api: http(s)://HOST/v2/models/NAME (Open Inference Protocol), or any JSON API's address")
    add("--key-env", metavar="NAME", help="api: the environment variable with the key; the key is written nowhere")
    add("--network", metavar="DIR", help="network, weights: what save_network (or a run) has written")
    answers = "probabilities, top-1 labels, scores of some classes, or a chat model's words"
    add("--answers", choices=("soft", "hard", "topk", "words"), help=answers)
    add("--model", metavar="NAME", help="words: the chat model, as its server (--url, up to its version) names it")
    add("--images", metavar="DIR|none|web:DIR", help="the task's own, none, or any others, collected from elsewhere")
    add("--labels", choices=("yes", "no"), help="own images: whether class folders label them")
    add("--budget", type=int, metavar="N", help="the most images that the teacher may answer")
    add("--student", metavar="NAME", help="of kdlightning networks, timm or torchvision, or my_module.MyNet")
    classes = "how many, or their names, where neither class folders nor the teacher tell"
    add("--classes", nargs="+", metavar="K|NAME", help=classes)
    add("--shape", type=int, nargs=3, metavar=("C", "H", "W"), help="of images (default: by teacher, images, student)")
    add("--output", metavar="DIR", help="where runs go (default: runs/IMAGES-STUDENT)")
    add("--file", default="distil.yaml", help="the recipe (default: %(default)s)")
    add("--overwrite", action="store_true", help="replace a recipe that is there")
    return parser
