"""What becomes of the presets' arguments: labels a question, a variable's name a header, an access a reading."""

from kdlightning.remote.reading import Outputs
from kdlightning.remote.words import index_of

Labels = list[str] | dict[str, int]


def choices(labels: Labels) -> list[str]:
    """One text of each class, in the order of the classes: the first that is no regular expression.

    Raises:
        ValueError: a class has none.
    """
    first: dict[int, str] = {}
    index = index_of(labels)
    for text, number in index.items():
        if not (len(text) > 2 and text[0] == text[-1] == "/"):
            first.setdefault(number, text)
    if lacking := sorted(set(index.values()) - first.keys()):
        wanted = "labels: expected a text that is no regular expression for each class"
        raise ValueError(f"{wanted}, got none for {lacking}")
    return [first[number] for number in sorted(first)]


def question(labels: Labels, prompt: str | None) -> str:
    """The prompt; by default, a question that names one text of each class."""
    if prompt is not None:
        return prompt
    *most, last = choices(labels)
    return f"Which of these does the image show: {', '.join(most)} or {last}? Answer with one of them and nothing else."


def keyed(header: str, scheme: str, given: str | None, usual: str, *, own: bool) -> dict[str, str]:
    """The header with a key: from the variable that is given, or from the usual one at the vendor's own address."""
    name = given or (usual if own else None)
    return {} if name is None else {header: f"{scheme}env:{name}"}


def scored(access: str, *, multilabel: bool = False) -> Outputs:
    """How scores by label are read: as a distribution, as one score for each class, or the best label of them."""
    if access == "hard":
        return "text"
    return "sigmoids" if multilabel else "probabilities"
