"""Which method for a case, as a recipe: README's table, and what docs/results.md has measured."""

import json
import textwrap
from typing import Any, NamedTuple

import jinja2
from torch import nn

from kdlightning.commands.case import Case, CaseError, Facts
from kdlightning.functional.boundary import most_boundary_queries

_STEPS = 2000  # of a student's training, roughly
_MIXED = 20  # the most answers for each own image, with mixtures
_FEW = 2000  # own images, up to which mixing pairs of them gives more to ask about
_CANDIDATES = 5  # of DB3KD's boundary search
_MOST = 20_000  # images that are made
_TESTED = 0.2  # share of own images that students are tested on, where none are set aside
_NOISES = 4000  # images of noise beside ZSDB3KD
_CHOOSING = ("ActiveMixup", "KnockoffSelection", "ZSDB3KDImages")  # phases that are methods of their own
_ANSWERED = "{output}/answers"


class Phase(NamedTuple):
    """A stage that asks: its name, its module, further arguments and data, as YAML."""

    name: str
    method: str
    arguments: str = ""
    data: str = '"{data}"'


class Fit(NamedTuple):
    """A stage that trains: its module, data, further arguments, and what tells it apart in a report."""

    method: str
    data: str = '"{data}"'
    arguments: str = ""
    variant: str = ""


def _on(kind: str, source: str = '"{data}"', path: str = _ANSWERED, more: str = "") -> str:
    return f'{{class_path: {kind}, init_args: {{source: {source}, path: "{path}"{more}}}}}'


_NOISE = '{{class_path: NoiseDataModule, init_args: {{source: "{{data}}", distribution: smooth, {}}}}}'
_SET, _IMAGES = _on("TransferSetDataModule"), _on("GeneratedDataModule")
_ANSWERS = Phase("answers", "TeacherAnswers")
_KD, _OPENS = Fit("KD", arguments=', teacher: "{teacher}"'), ', teacher: "{weights}"'
_LABELS_WHY = "The baseline is the same student from your labels alone, which asks nothing."
_SAME_WHY = "The baseline, ML, regresses on the logits of the same answers and asks nothing more."


class Plan(NamedTuple):
    """A recommended method beside a cheap baseline."""

    why: str
    student: Fit
    phases: tuple[Phase, ...] = ()  # what is asked before, for either
    baseline: Fit = Fit("ML", _SET)
    beside: str = _SAME_WHY
    size: int = 0  # of a pool that is made
    fraction: float = 1.0  # of a pool that is used
    num_samples: int = 0  # own images that are used, drawn by seed; 0 for all
    num_test: int = 0  # own images to test on
    epochs: int = 0
    batch_size: int = 64
    budget: int | None = None  # of the teacher, for each phase
    judge: str = ""  # whom a student is compared with when it is tested, as YAML; empty for nobody
    tested: bool = False  # whether the test images have labels
    notes: tuple[str, ...] = ()  # sentences for the reader of the recipe

    @property
    def title(self) -> str:
        """What is recommended, in names."""
        first = [phase.method for phase in self.phases if phase.method in _CHOOSING]
        return " and ".join([*first, self.student.method])


def recommend(case: Case, facts: Facts) -> Plan:
    """The plan for a case.

    Raises:
        CaseError: the budget is too small for anything.
    """
    own, labelled = facts.source == "own", case.labels and facts.source == "own"
    budget, asked_to_test = case.budget, case.teacher == "api" and not labelled
    num_test = round(_TESTED * facts.number) if own and not facts.test else 0
    if own and asked_to_test and budget is not None:
        num_test = min(num_test, max(1, budget // 5))
        budget -= num_test
    number = facts.number - num_test
    number -= round(facts.num_val * number) if labelled and not facts.val else 0
    if budget is not None and budget < max(10, facts.num_classes):
        raise CaseError(f"--budget: {case.budget} answers are too few to learn {facts.num_classes} classes from")
    rows = number if own else facts.number or 4000
    if budget is not None:
        rows = min(budget, _MIXED * number) if own and number <= _FEW else min(budget, rows)
    batch_size = 64 if rows >= 500 else 32
    epochs = min(100, max(10, _STEPS * batch_size // rows))
    if own and facts.protocol == "chat":
        table = _chat(facts, number, budget or 0, "photograph")
    elif own:
        table = _own(facts, number, budget, epochs, labelled=labelled)
    elif facts.protocol == "chat":
        table = _chat(facts, facts.number, budget or 0, "image of the pool")
    else:
        table = _web(case, facts, budget) if facts.source == "web" else _none(facts, budget)
    plan = next(plan for fits, plan in table if fits)
    if labelled:
        asked = tuple(phase for phase in plan.phases if not phase.name.startswith("baseline"))
        plan = plan._replace(phases=asked, baseline=Fit("Supervised"), beside=_LABELS_WHY)
    judge = f"{{class_path: HardLabelTeacher, init_args: {{network: {json.dumps(case.place)}}}}}"
    told = {
        "k is the most classes that an answer names; what becomes of the mass of the others is the option rest of the "
        "methods. If the API can be asked for all classes, say --answers soft: probabilities teach more.": facts.access
        == "TopK",
        "Any server of OpenAI's chat protocol is asked so; for other vendors another class stands at `teacher`: "
        "docs/teachers.md. With a price of tokens there, the budget holds money, too.": facts.protocol == "chat",
        "The images are sent to the API. For images that must not leave the house there is MEKD, which sends generated "
        "ones: experiments/digits/mekd/recipe.yaml.": own and case.teacher == "api",
        "Students are tested by asking the teacher, too: what that takes is left free in the budget.": asked_to_test,
    }
    return plan._replace(
        why=f"{plan.why} {plan.beside}".strip(), num_test=num_test, epochs=epochs, batch_size=batch_size, budget=budget,
        judge=judge if facts.protocol == "local" else '"{judge}"' if asked_to_test else "", tested=labelled,
        notes=(*facts.notes, *(note for note, fits in told.items() if fits)),
    )  # fmt: skip


def _own(facts: Facts, number: int, budget: int | None, epochs: int, *, labelled: bool) -> list[tuple[bool, Plan]]:
    """For own images; the first that fits. Without a budget that is always the first row."""
    soft, asks = facts.access != "Hard", budget or 0
    pairs = number * ((number - 1) // 2)
    pair = most_boundary_queries(_CANDIDATES, facts.channels * facts.image_size**2)
    free = "with its weights here, asking costs nothing" if budget is None else "the budget allows it"
    once = _on("TransferSetDataModule", path="{output}/baseline-answers")
    hard = "" if labelled else ", cross_entropy: teacher"
    bare = Fit("AnsweredKD", _on("TransferSetDataModule", more=", column: label"), variant="bare labels")
    bare_why = "The baseline learns the bare labels of the same answers."
    queries = min(asks, _MIXED * number, number + min(pairs, 100_000))
    return [
        (soft and (budget is None or budget >= number * (epochs + 1)), Plan(
            f"The teacher's probabilities are there and {free}, so KD asks about every augmented view of every image "
            "in every epoch: of all methods measured on own images, its students agree most with their teacher.",
            _KD, (Phase("baseline-answers", "TeacherAnswers"),), Fit("AnsweredKD", once, _softened(facts)),
            "The baseline asks about each image only once.",
        )),
        (not soft and number <= _FEW and asks >= number * (1 + (facts.num_classes - 1) * pair), Plan(
            "The teacher answers labels only, you have few images and the budget is large: DB3KD measures how far each "
            "image is from the decision boundaries and makes soft labels of it. Try robustness: sd first, which asks "
            "about each image once: where it was measured, its soft labels helped as much as these.",
            Fit("DB3KD", _SET, hard, "bd"), (_db3kd(facts, "bd"),), bare, bare_why,
        )),
        (number <= _FEW and asks >= 2 * number and pairs >= number, Plan(
            f"You have few images ({number:,} to train on) and more answers than images: ActiveMixup asks about all of "
            "them, then about mixtures of two of which the student is least sure. Under one budget on MNIST it was the "
            "best of the methods that ask for answers.", Fit("AnsweredKD", _IMAGES, variant="Active Mixup"),
            (Phase("answers", "ActiveMixup", f', queries: {queries}, student: "{{student}}"'),), Fit("ML", _IMAGES),
        )),
        (asks < number, _selection(
            facts, asks, f"The budget pays for {asks:,} of {number:,} images: KnockoffSelection draws them at random",
        )),
        (soft, Plan(
            "The teacher answers probabilities and the budget pays for each image once: TeacherAnswers asks, and "
            "AnsweredKD, Hinton's distillation, learns from the answers; no other method that asks once was better.",
            Fit("AnsweredKD", _SET, _softened(facts)), (_ANSWERS,),
        )),
        (True, Plan(
            "The teacher answers labels only: each image is asked once, and DB3KD makes soft labels of the "
            "distances between images of different classes (sd), which helped against labels alone as much as "
            "distances for hundreds of questions an image.",
            Fit("DB3KD", _SET, hard, "sd"), (_db3kd(facts, "sd"),), bare, bare_why,
        )),
    ]  # fmt: skip


def _chat(facts: Facts, number: int, budget: int, image: str) -> list[tuple[bool, Plan]]:
    """For a chat model: it is shown each image once, at a size of its own, and need not answer."""
    share = f"{budget:,} images, drawn at random, are" if budget < number else f"each {image} is"
    return [(True, Plan(
        f"The teacher is a chat model that answers in words and may decline: {share} shown to it once by "
        "TeacherAnswers, and AnsweredKD learns the labels that it has said.",
        Fit("AnsweredKD", _SET), (_ANSWERS,), num_samples=budget if budget < number else 0,
        fraction=round(min(1.0, budget / max(1, facts.number)), 4),
    ))]  # fmt: skip


def _web(case: Case, facts: Facts, budget: int | None) -> list[tuple[bool, Plan]]:
    """For a pool from elsewhere."""
    asks, free = budget or 0, budget is None
    some, every = (round(min(1.0, times * asks / facts.number), 4) for times in (4, 1))  # up to half may be unusable
    drawn = asks - (round(facts.held_out * some * facts.number) if case.teacher == "api" else 0)
    share = "each image of the pool" if every == 1 else f"{every:.0%} of the pool, drawn at random, each image"
    return [
        (free and _has_features(facts.network), Plan(
            "You have the teacher's weights and images from elsewhere: KD3 keeps, in every epoch, those of which "
            "teacher and student are sure, and gives the student the teacher's own classifier. What showed in our "
            "runs was that classifier: selections did not differ. The baseline is KD on the whole pool.",
            Fit("KD3", arguments=_OPENS), (), _KD, "",
        )),
        (free, Plan(
            "You have the teacher's weights and images from elsewhere, but the teacher shows no features to KD3: DFND "
            "trains on the half of the pool that the teacher is surest of. In our runs neither was clearly better than "
            "KD on a random half, so the baseline is KD on the whole pool.",
            Fit("DFND", arguments=_OPENS), (), _KD, "",
        )),
        (3 * asks <= facts.number, _selection(
            facts, drawn, f"The pool is larger than the budget: KnockoffSelection draws {drawn:,} images at random",
        )._replace(fraction=some)),
        (True, Plan(
            f"The budget pays for {share} once: TeacherAnswers asks, and AnsweredKD learns from the answers. Where "
            "images were chosen more cleverly, it did not help in our runs.",
            Fit("AnsweredKD", _SET, _softened(facts)), (_ANSWERS,), fraction=every,
        )),
    ]  # fmt: skip


def _none(facts: Facts, budget: int | None) -> list[tuple[bool, Plan]]:
    """For no images: rendered ones, noise, or images that walk away from the teacher's boundaries."""
    size = 4000 if budget is None else max(1, min(_MOST, budget // 2))
    affordable = ((budget or 0) - 60_000 - _NOISES) // (1200 + 100 * (facts.num_classes - 1))
    images = min(affordable, _MOST)
    walked = '{class_path: SyntheticDataModule, init_args: {source: "{data}", path: "{output}/images"}}'
    noise = Fit("AnsweredKD", _NOISE.format('path: "{output}/baseline-noise"'), variant="noise")
    asked, asked_few = (
        Phase("baseline-noise", "TeacherAnswers", data=_NOISE.format(f"size: {number}")) for number in (size, _NOISES)
    )
    beside = "The baseline learns what the teacher says of {:,} images of smooth noise."
    attack = ", epsilon: 64, step: 4, iterations: 24, deeper_epsilon: 16" if facts.channels == 1 else ""
    return [
        (budget is None, Plan(
            "You have the teacher's weights and no images: ShaderKD renders images that show nothing and pushes them "
            "to the teacher's decision boundaries. It was ahead of noise wherever it was measured, and behind every "
            "method that has images: a few hundred of your own are worth more.",
            Fit("ShaderKD", arguments=_OPENS + attack), (asked,), noise, beside.format(size), size,
        )),
        (facts.access == "Hard" and affordable >= 1000, Plan(
            f"The teacher answers labels only, and there are no images, but a large budget: ZSDB3KD makes {images:,} "
            "images by walking away from the teacher's decision boundaries and labels them by their distances. It was "
            "ahead of noise, from which it starts, by thousands of times the questions.",
            Fit("DB3KD", _on("TransferSetDataModule", walked), ", cross_entropy: teacher", "zero-shot"),
            (Phase("images", "ZSDB3KDImages", ", iterations: 8", _NOISE.format(f"size: {images}")),
             _db3kd(facts, "bd", walked), asked_few), noise, beside.format(_NOISES), 4000,
        )),
        (True, Plan(
            f"There are no images and the teacher only answers: {size:,} rendered images that show nothing are asked "
            "once each, and AnsweredKD learns from the answers. Expect much less than from images of the task: a few "
            "hundred of your own are worth more.", Fit("AnsweredKD", _SET, _softened(facts), "shader images"),
            (_ANSWERS, asked), noise, beside.format(size), size,
        )),
    ]  # fmt: skip


def _softened(facts: Facts) -> str:
    return ", temperature: 4" if facts.access != "Hard" else ""


def _db3kd(facts: Facts, robustness: str, data: str = '"{data}"') -> Phase:
    options = f", num_classes: {facts.num_classes}, robustness: {robustness}, candidates: {_CANDIDATES}"
    return Phase("answers", "DB3KDLabels", options, data)


def _selection(facts: Facts, queries: int, why: str) -> Plan:
    return Plan(
        f"{why}, each asked once, and AnsweredKD learns from the answers. Its adaptive strategy chose no better where "
        "it was measured.", Fit("AnsweredKD", _IMAGES, _softened(facts), "random selection"),
        (Phase("answers", "KnockoffSelection", f", queries: {queries}"),), Fit("ML", _IMAGES),
    )  # fmt: skip


def _has_features(network: Any) -> bool:  # noqa: ANN401 - any classifier
    """Whether KD3 can read a teacher's features and take over its classifier."""
    try:
        return isinstance(network.get_classifier(), nn.Linear) and callable(network.forward_features)
    except (AttributeError, TypeError):
        return False


def write(case: Case, facts: Facts, plan: Plan, file: str) -> str:
    """The recipe as YAML with comments; ``file``, its name, is for the commands in them."""
    environment = jinja2.Environment(
        block_start_string="[%", block_end_string="%]", variable_start_string="[[", variable_end_string="]]",
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False,
        loader=jinja2.PackageLoader("kdlightning.commands"),
    )  # fmt: skip
    environment.filters["quoted"] = lambda value: json.dumps(value, ensure_ascii=False)
    environment.filters["comment"] = lambda text: textwrap.fill(
        text, 118, initial_indent="# ", subsequent_indent="# ", break_long_words=False, break_on_hyphens=False
    )
    return environment.get_template("recipe.yaml").render(case=case, facts=facts, plan=plan, file=file)
