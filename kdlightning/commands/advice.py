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
    """A stage that trains: its module, further arguments, data, and what tells it apart in a report."""

    method: str
    data: str = '"{data}"'
    arguments: str = ""
    variant: str = ""


class Plan(NamedTuple):
    """A recommended method beside a cheap baseline.

    Attributes:
        why: two or three sentences.
        student: the recommended method.
        baseline: what it has to beat.
        phases: what is asked before, for either.
        size: of a pool that is made.
        fraction: of a pool that is used.
        num_test: own images to test on.
        epochs: of the students.
        batch_size: theirs.
        budget: of the teacher, for each phase.
        judge: whom a student is compared with when it is tested, as YAML; empty for nobody.
        tested: whether the test images have labels.
        notes: sentences for the reader of the recipe.
    """

    why: str
    student: Fit
    baseline: Fit
    phases: tuple[Phase, ...] = ()
    size: int = 0
    fraction: float = 1.0
    num_test: int = 0
    epochs: int = 0
    batch_size: int = 64
    budget: int | None = None
    judge: str = ""
    tested: bool = False
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What is recommended, in names."""
        first = [phase.method for phase in self.phases if phase.method in _CHOOSING]
        return " and ".join([*first, self.student.method])


def _on(kind: str, source: str = "{data}", path: str = _ANSWERED) -> str:
    return f'{{class_path: {kind}, init_args: {{source: "{source}", path: "{path}"}}}}'


_SET, _IMAGES = _on("TransferSetDataModule"), _on("GeneratedDataModule")
_ANSWERS = Phase("answers", "TeacherAnswers")
_SOFTENED = ", temperature: 4"
_ASKS, _OPENS = ', teacher: "{teacher}"', ', teacher: "{weights}"'
_LABELS = Fit("Supervised")
_LABELS_WHY = "The baseline is the same student from your labels alone, which asks nothing."
_SAME_WHY = "The baseline, ML, regresses on the logits of the same answers and asks nothing more."


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
    facts = facts._replace(number=number)
    if own:
        plan = _own(case, facts, budget, epochs)
    else:
        plan = _web(case, facts, budget) if facts.source == "web" else _none(facts, budget)
    judge = f"{{class_path: HardLabelTeacher, init_args: {{network: {json.dumps(case.place)}}}}}"
    judge = judge if facts.protocol == "local" else '"{judge}"' if asked_to_test else ""
    return plan._replace(
        num_test=num_test, epochs=epochs, batch_size=batch_size, budget=budget, judge=judge, tested=labelled,
        notes=(*facts.notes, *_notes(case, own=own, asked_to_test=asked_to_test)),
    )  # fmt: skip


def _notes(case: Case, *, own: bool, asked_to_test: bool) -> list[str]:
    notes = []
    if case.answers == "topk" and case.teacher != "weights":
        notes.append(
            "The package has no teacher that answers the scores of some classes only: HTTPSoftLabelTeacher wants all K "
            "of them. So this recipe takes the top class of each answer. If the API can be asked for all classes, say "
            "--answers soft: probabilities teach more."
        )
    if own and case.teacher == "api":
        notes.append(
            "The images are sent to the API. For images that must not leave the house there is MEKD, which sends "
            "generated ones: experiments/digits/mekd/recipe.yaml."
        )
    if asked_to_test:
        notes.append("Students are tested by asking the teacher, too: what that takes is left free in the budget.")
    return notes


def _own(case: Case, facts: Facts, budget: int | None, epochs: int) -> Plan:
    """Own images, labelled or not."""
    number, soft = facts.number, facts.access == "Soft"
    kd = Fit("KD", arguments=_ASKS)
    beside = (_LABELS, _LABELS_WHY) if case.labels else (Fit("ML", _SET), _SAME_WHY)
    if soft and (budget is None or budget >= number * (epochs + 1)):
        free = "with its weights here, asking costs nothing" if budget is None else "the budget allows it"
        why = (
            f"The teacher's probabilities are there and {free}, so KD asks about every augmented view of every image "
            "in every epoch: of all methods measured on own images, its students agree most with their teacher."
        )
        if case.labels:
            return Plan(f"{why} {_LABELS_WHY}", kd, _LABELS)
        once = Fit("AnsweredKD", _on("TransferSetDataModule", path="{output}/baseline-answers"), _SOFTENED)
        ask = Phase("baseline-answers", "TeacherAnswers")
        return Plan(f"{why} The baseline asks about each image only once.", kd, once, (ask,))
    assert budget is not None
    pairs = number * ((number - 1) // 2)
    pair = most_boundary_queries(_CANDIDATES, facts.channels * facts.image_size**2)
    if not soft and budget >= number * (1 + (facts.num_classes - 1) * pair):
        why = (
            "The teacher answers labels only, and the budget is large: DB3KD measures how far each image is from the "
            "decision boundaries and makes soft labels of it. Measured on MNIST, soft labels helped against labels "
            "alone, but distances from one question an image (robustness: sd) helped as much as these."
        )
        labels = Phase("answers", "DB3KDLabels", _db3kd(facts, "bd"))
        return _db3kd_plan(why, labels, "bd", case, beside)
    if number <= _FEW and budget >= 2 * number and pairs >= number:
        queries = min(budget, _MIXED * number, number + min(pairs, 100_000))
        why = (
            f"You have few images ({number:,} to train on) and more answers than images: ActiveMixup asks about all of "
            "them, then about mixtures of two of which the student is least sure. Under one budget on MNIST it was the "
            "best of the methods that ask for answers."
        )
        ask = Phase("answers", "ActiveMixup", f', queries: {queries}, student: "{{student}}"')
        other = beside if case.labels else (Fit("ML", _IMAGES), _SAME_WHY)
        return Plan(f"{why} {other[1]}", Fit("AnsweredKD", _IMAGES, variant="Active Mixup"), other[0], (ask,))
    if budget < number:
        why = (
            f"The budget pays for {budget:,} of {number:,} images: KnockoffSelection draws them at random, each asked "
            "once, and AnsweredKD learns from the answers. Its adaptive strategy chose no better where it was measured."
        )
        ask = Phase("answers", "KnockoffSelection", f", queries: {budget}")
        other = beside if case.labels else (Fit("ML", _IMAGES), _SAME_WHY)
        student = Fit("AnsweredKD", _IMAGES, _SOFTENED if soft else "", "random selection")
        return Plan(f"{why} {other[1]}", student, other[0], (ask,))
    if soft:
        why = (
            "The teacher answers probabilities and the budget pays for each image once: TeacherAnswers asks, and "
            "AnsweredKD, Hinton's distillation, learns from the answers; no other method that asks once was better."
        )
        return Plan(f"{why} {beside[1]}", Fit("AnsweredKD", _SET, _SOFTENED), beside[0], (_ANSWERS,))
    why = (
        "The teacher answers labels only, and the budget pays for each image once: DB3KD makes soft labels of the "
        "distances between images of different classes (sd), which helped against labels alone as much as distances "
        "for hundreds of questions an image."
    )
    labels = Phase("answers", "DB3KDLabels", _db3kd(facts, "sd"))
    return _db3kd_plan(why, labels, "sd", case, beside)


def _db3kd(facts: Facts, robustness: str, candidates: int = _CANDIDATES) -> str:
    return f", num_classes: {facts.num_classes}, robustness: {robustness}, candidates: {candidates}"


def _db3kd_plan(why: str, ask: Phase, variant: str, case: Case, beside: tuple[Fit, str]) -> Plan:
    student = Fit("DB3KD", _SET, "" if case.labels else ", cross_entropy: teacher", variant)
    if case.labels:
        return Plan(f"{why} {beside[1]}", student, beside[0], (ask,))
    bare = f"{_SET.removesuffix('}}')}, column: label}}}}"
    return Plan(
        f"{why} The baseline learns the bare labels of the same answers.", student,
        Fit("AnsweredKD", bare, variant="bare labels"), (ask,),
    )  # fmt: skip


def _web(case: Case, facts: Facts, budget: int | None) -> Plan:
    """A pool from elsewhere."""
    if budget is None and _has_features(facts.network):
        why = (
            "You have the teacher's weights and images from elsewhere: KD3 keeps, in every epoch, those of which "
            "teacher and student are sure, and gives the student the teacher's own classifier. What showed in our "
            "runs was that classifier: selections did not differ. The baseline is KD on the whole pool."
        )
        return Plan(why, Fit("KD3", arguments=_OPENS), Fit("KD", arguments=_ASKS))
    if budget is None:
        why = (
            "You have the teacher's weights and images from elsewhere, but the teacher shows no features to KD3: DFND "
            "trains on the half of the pool that the teacher is surest of. In our runs neither was clearly better than "
            "KD on a random half, so the baseline is KD on the whole pool."
        )
        return Plan(why, Fit("DFND", arguments=_OPENS), Fit("KD", arguments=_ASKS))
    soft = _SOFTENED if facts.access == "Soft" else ""
    if 3 * budget <= facts.number:  # up to half of the files may be unusable
        fraction = round(min(1.0, 4 * budget / facts.number), 4)
        tests = round(facts.held_out * fraction * facts.number) if case.teacher == "api" else 0
        why = (
            f"The pool is larger than the budget: KnockoffSelection draws {budget - tests:,} images at random, each "
            "asked once, and AnsweredKD learns from the answers. Its adaptive strategy chose no better where it was "
            "measured."
        )
        ask = Phase("answers", "KnockoffSelection", f", queries: {budget - tests}")
        student = Fit("AnsweredKD", _IMAGES, soft, "random selection")
        return Plan(f"{why} {_SAME_WHY}", student, Fit("ML", _IMAGES), (ask,), fraction=fraction)
    fraction = round(min(1.0, budget / facts.number), 4)
    share = "each image of the pool" if fraction == 1 else f"{fraction:.0%} of the pool, drawn at random, each image"
    why = (
        f"The budget pays for {share} once: TeacherAnswers asks, and AnsweredKD learns from the answers. Where images "
        "were chosen more cleverly, it did not help in our runs."
    )
    return Plan(f"{why} {_SAME_WHY}", Fit("AnsweredKD", _SET, soft), Fit("ML", _SET), (_ANSWERS,), fraction=fraction)


def _none(facts: Facts, budget: int | None) -> Plan:
    """No images: rendered ones, noise, or images that walk away from the teacher's boundaries."""
    size = 4000 if budget is None else max(1, min(_MOST, budget // 2))
    noise = '{{class_path: NoiseDataModule, init_args: {{source: "{{data}}", distribution: smooth, {}}}}}'
    ask = Phase("baseline-noise", "TeacherAnswers", data=noise.format(f"size: {size}"))
    beside = Fit("AnsweredKD", noise.format('path: "{output}/baseline-noise"'), variant="noise")
    beside_why = f"The baseline learns what the teacher says of {size:,} images of smooth noise."
    if budget is None:
        why = (
            "You have the teacher's weights and no images: ShaderKD renders images that show nothing and pushes them "
            "to the teacher's decision boundaries. It was ahead of noise wherever it was measured, and behind every "
            "method that has images: a few hundred of your own are worth more."
        )
        attack = ", epsilon: 64, step: 24, iterations: 6, deeper_epsilon: 16" if facts.channels == 1 else ""
        return Plan(f"{why} {beside_why}", Fit("ShaderKD", arguments=_OPENS + attack), beside, (ask,), size)
    images = (budget - 60_000 - _NOISES) // (1200 + 100 * (facts.num_classes - 1))
    if facts.access == "Hard" and images >= 1000:
        images = min(images, _MOST)
        made = '{{class_path: {}, init_args: {{source: "{{data}}", {}}}}}'
        walked = made.format("SyntheticDataModule", 'path: "{output}/images"')
        why = (
            f"The teacher answers labels only, and there are no images, but a large budget: ZSDB3KD makes {images:,} "
            "images by walking away from the teacher's decision boundaries and labels them by their distances. It was "
            "ahead of noise, from which it starts, by thousands of times the questions."
        )
        phases = (
            Phase("images", "ZSDB3KDImages", ", iterations: 8", noise.format(f"size: {images}")),
            Phase("answers", "DB3KDLabels", _db3kd(facts, "bd"), walked),
            ask._replace(data=noise.format(f"size: {_NOISES}")),
        )
        learnt = f'{{class_path: TransferSetDataModule, init_args: {{source: {walked}, path: "{_ANSWERED}"}}}}'
        student = Fit("DB3KD", learnt, ", cross_entropy: teacher", "zero-shot")
        beside_why = f"The baseline learns what the teacher says of {_NOISES:,} images of smooth noise."
        return Plan(f"{why} {beside_why}", student, beside, phases, 4000)
    why = (
        f"There are no images and the teacher only answers: {size:,} rendered images that show nothing are asked once "
        "each, and AnsweredKD learns from the answers. Expect much less than from images of the task: a few hundred "
        "of your own are worth more."
    )
    soft = _SOFTENED if facts.access == "Soft" else ""
    return Plan(f"{why} {beside_why}", Fit("AnsweredKD", _SET, soft, "shader images"), beside, (_ANSWERS, ask), size)


def _has_features(network: Any) -> bool:  # noqa: ANN401 - any classifier
    """Whether KD3 can read a teacher's features and take over its classifier."""
    try:
        return isinstance(network.get_classifier(), nn.Linear) and callable(network.forward_features)
    except (AttributeError, TypeError):
        return False


def write(case: Case, facts: Facts, plan: Plan, file: str) -> str:
    """The recipe as YAML with comments.

    Args:
        case: what was told.
        facts: what was seen.
        plan: what is recommended.
        file: its name, for the commands in its comment.
    """
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
