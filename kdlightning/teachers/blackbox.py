"""The teacher as its client sees it: images in, answers out, every image counted before it is answered."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, final

import torch
from torch import Tensor, nn

from kdlightning.accounting.accounts import Cost, Limits
from kdlightning.accounting.meter import QueryMeter
from kdlightning.accounting.terms import Prices, Terms
from kdlightning.functional.topk import TopK
from kdlightning.networks.pretrained import fingerprint, load_network, name_of
from kdlightning.networks.rehearsal import freeze, rehearse_teacher
from kdlightning.networks.statistics import count_parameters
from kdlightning.teachers.answers import AnswerError, check_logits
from kdlightning.teachers.outcomes import answered
from kdlightning.types import Answers, Bounds

ONE_SIZE = "give teacher_size as an edge length, such as 224, in place of original"


class BlackBoxTeacher(ABC):
    """A classifier that only answers. No parameters, no gradients, no logits, no features; not callable.

    A deep copy is the same teacher, and it cannot be pickled: what counts, and may hold a key, is not multiplied.
    This class hides a local network; a teacher behind a connection is a subclass that overrides :meth:`_answer`.

    Args:
        network: directory (or Hugging Face id) of a saved network, or the network itself.
        budget: the most images it may answer, for all processes of a run together; None for no limit.

    Raises:
        FileNotFoundError: there is no saved network at that place.
    """

    access: ClassVar[str]
    bounds: ClassVar[Bounds] = Bounds(0.0, 1.0)
    size: int | None = None  #: parameters of the network, where it is on this machine
    odd_answers: ClassVar[bool] = False  #: whether an image may get no answer: not from a network of this process
    any_size: ClassVar[bool] = False  #: whether it takes images of different sizes together
    in_jobs: ClassVar[bool] = False  #: whether it answers in batch jobs, hours after it is asked
    class_names: Sequence[str] | None = None  #: of its K classes, in order, where they are known
    _rehearse: Callable[[Sequence[int], torch.device | str], int] | None = None  # of a network in this process

    def __init__(self, network: str | Path | nn.Module, budget: int | None = None) -> None:
        local = network if isinstance(network, nn.Module) else load_network(network)
        source = type(network).__name__ if isinstance(network, nn.Module) else str(network)
        self._identity = {"network": source, "name": name_of(local), "access": self.access}
        self._ask, self._rehearse, self._fingerprint = _enclose(local)
        self.size = count_parameters(local)
        self.class_names = getattr(local, "class_names", None)
        self._meter = QueryMeter(budget)
        self._classes = int(getattr(local, "num_classes", 0))

    @property
    def num_classes(self) -> int | None:
        """K, as far as it is known without asking."""
        return self._classes or None

    def expect(self, classes: int, of: str) -> None:
        """Hold the answers to the number of classes ``of`` something, from the first answer on.

        Raises:
            ValueError: the teacher is known to have another number.
        """
        if self._classes not in (0, classes):
            raise ValueError(f"the teacher has {self._classes} classes, but {of} has {classes}")
        self._classes = classes

    @property
    def budget(self) -> int | None:
        """The most images it may answer; None for no limit."""
        return self._meter.budget

    @property
    def paid(self) -> Answers:
        """Images answered and bytes exchanged so far, by all processes that share the budget."""
        return self._meter.total

    @property
    def cost(self) -> Cost:
        """The same in bytes, money and tokens."""
        return Cost(*self.paid[1:])

    @property
    def waiting(self) -> float:
        """Seconds that a question waits for the rate limit of a server; 0 where none does."""
        return 0.0

    @property
    def identity(self) -> dict[str, str]:
        """Who answers: where the network came from, its class, its access and the fingerprint of its weights."""
        return {**self._identity, "fingerprint": self._fingerprint()}

    def read_otherwise(self, fingerprint: str) -> bool:
        """Whether the teacher of this fingerprint was asked just so and its replies are kept, to be read again."""
        return False

    @final
    def query(self, images: Tensor) -> Tensor:
        """Answer images, every one of them.

        Args:
            images: pixels ``(N, C, H, W)``, float in [0, 1].

        Returns:
            What the access discloses, see the subclass; float32 or int64, never part of an autograd graph.

        Raises:
            ValueError: pixels outside [0, 1] or not finite, or not a batch of images. Nothing is charged.
            QueryBudgetExceededError: before the answer that the budget does not allow. Nothing is charged.
            AnswerError: an answer that is none: of another number of classes, NaN. It was charged.
            RemoteTeacherError: a teacher elsewhere cannot be asked, or gave some image no answer. It was charged.
        """
        answer = self.ask(images)
        if self.odd_answers and not answered(answer).all():
            raise self._unanswered(answer)
        return answer

    @final
    def ask(self, images: Tensor | list[Tensor]) -> Tensor:
        """Like :meth:`query`, for who can do without some answers: a row without one is negative throughout.

        A local network answers every image. See :mod:`kdlightning.teachers.outcomes`; what may be raised is the same.
        Images ``(C, H, W)`` that differ in size are a list, for a teacher that takes them (``any_size``).
        """
        if isinstance(images, list):
            return self._answer_each([self._askable(image[None]) for image in images])
        return self._answer(self._askable(images))

    def _askable(self, images: Tensor) -> Tensor:
        """A batch of images whose pixels may be asked; a ValueError for anything else."""
        if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
            remedy = "give a torch.Tensor"
            if isinstance(images, Tensor):
                one = "one image is a batch of one: images[None]"
                remedy = one if images.ndim == 3 else "convert uint8 images by dividing by 255"
            got = f"{getattr(images, 'dtype', type(images).__name__)} {tuple(getattr(images, 'shape', ()))}; {remedy}"
            raise ValueError(f"expected float pixels of shape (N, C, H, W), got {got}")
        if not len(images):
            raise ValueError("expected at least one image, got an empty batch")
        low, high = (float(value) for value in torch.aminmax(images.detach()))
        if not (low >= self.bounds.lower and high <= self.bounds.upper):
            told = f"expected pixels in [{self.bounds.lower:g}, {self.bounds.upper:g}], got [{low:g}, {high:g}]"
            advice = "normalisation belongs inside the network, and clamping is the caller's decision"
            raise ValueError(f"{told}: {advice}")
        return images

    def _answer(self, images: Tensor) -> Tensor:
        """Charge checked pixels, then answer them; a teacher elsewhere overrides it: it may have to ask again."""
        self.rehearse(images.shape[1:], images.device)
        self._meter.charge(len(images), images.numel() * images.element_size(), len(images) * self._answer_bytes())
        # no_grad, not inference_mode: an inference tensor cannot be saved for backward as a KD target
        with torch.no_grad():
            return self._disclose(check_logits(self._ask(images.detach()), len(images), self._classes))

    def _answer_each(self, images: list[Tensor]) -> Tensor:
        """Answer checked images ``(1, C, H, W)`` that may differ in size; a ValueError of a teacher that cannot."""
        raise ValueError(f"a {type(self).__name__} takes images of one size: {ONE_SIZE}")

    def _unanswered(self, answer: Tensor) -> Exception:
        """What `query` raises where some rows are no answers; a teacher that can say more of them overrides it."""
        lacking = int((~answered(answer)).sum())
        return AnswerError(f"{lacking} of {len(answer)} images got no answer, and what is asked here needs every one")

    def rehearse(self, shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        """Try a network of this process on two images ``(C, H, W)``, once, uncounted. A teacher elsewhere is not asked.

        A ValueError if it does not take them or does not answer logits: see :mod:`kdlightning.networks.rehearsal`.
        """
        if self._rehearse is not None:
            self._classes, self._rehearse = self._rehearse(shape, device), None

    def apart(self) -> Self | None:
        """The same teacher with a count of its own, for evaluation; None where its answers may have to be paid."""
        if type(self)._answer is not BlackBoxTeacher._answer:
            return None
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        twin._meter = QueryMeter()
        return twin

    def share(self, path: str | Path) -> None:
        """Count in this file from now on, together with every other process that shares it."""
        self._meter.share(path)

    def resume(self, asked: int | None, earlier: Answers, shape: Sequence[int]) -> None:
        """Go on, after :meth:`share`, with work that keeps all answers on disk: what a kill cut off counts once.

        A local network has answered nobody whose answer was not kept. Each kept answer is followed by :meth:`settle`.

        Args:
            asked: images whose answers the disk holds; None in all processes but the first.
            earlier: what an earlier phase has paid, which counts towards the same budget.
            shape: of an image, ``(C, H, W)``.
        """
        if asked is None:
            self._meter.resume(None)
            return
        own = (asked, asked * 4 * math.prod(shape), asked * self._answer_bytes())
        self._meter.resume(Answers(*map(sum, zip(earlier, own, strict=True))))

    def ahead(self, images: Callable[[], Iterable[Tensor | list[Tensor]]], told: Callable[[], object]) -> None:  # noqa: B027
        """Be asked, where that is done in batch jobs, about all images before each batch of them is asked for.

        ``images``, batches as for :meth:`ask`, may be gone through several times; ``told`` is called now and then while
        answers are waited for.
        """

    @property
    def status(self) -> str:
        """What it waits for, in words; empty where it does not."""
        return ""

    @property
    def remembers(self) -> bool:
        """Whether it may know answers, which then cost nothing: one with a ledger."""
        return False

    def settle(self) -> None:
        """All answers so far are kept."""
        self._meter.settle()

    def interrupt(self, stop: bool) -> None:  # noqa: B027 - a local network has no requests
        """Begin no further request, where answers come from a server, though a query is under way; or do so again."""

    @property
    def shared(self) -> bool:
        """Whether the count lives in a file that other processes can share."""
        return self._meter.shared

    def terms(self, shape: Sequence[int], count: str | Path) -> Terms:
        """What images ``(C, H, W)`` will cost, if :meth:`share` is given the file ``count``; asks nothing."""
        size, spent = float(4 * math.prod(shape)), self._meter.counted(count)
        limits, both = Limits(self.budget), Limits(spent.queries, spent.bytes_up + spent.bytes_down)
        return Terms(Prices.fixed(0.0), (size, size), float(self._answer_bytes()) or None, None, limits, both)

    def state_dict(self) -> dict[str, int]:
        """The count, for a checkpoint."""
        return dict(self.paid._asdict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting from a checkpoint's count, or from a higher one that is known already."""
        self._meter.raise_to(Answers(**state))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> str:
        name = type(self).__name__
        raise TypeError(
            f"a {name} cannot be pickled: its count, and a key that it may hold, stay in one process; make one in each "
            "process, as strategy='ddp' does and ddp_spawn does not"
        )

    @abstractmethod
    def _disclose(self, logits: Tensor) -> Tensor:
        """Reduce logits ``(N, K)`` to what this access answers."""

    @abstractmethod
    def _answer_bytes(self) -> int:
        """Bytes of one image's answer."""


class SoftLabelTeacher(BlackBoxTeacher):
    """Answers class probabilities ``(N, K)``, float32, rows sum to 1."""

    access = "soft"

    def _disclose(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(dim=1)

    def _answer_bytes(self) -> int:
        return 4 * self._classes


class HardLabelTeacher(BlackBoxTeacher):
    """Answers the top-1 class index ``(N,)``, int64."""

    access = "hard"

    def _disclose(self, logits: Tensor) -> Tensor:
        return logits.argmax(dim=1)

    def _answer_bytes(self) -> int:
        return 8


class TopKTeacher(BlackBoxTeacher):
    """Answers the k best classes, their probabilities and the mass of all others.

    An answer is a row of one tensor ``(N, 2k + 1)``, float32, which :meth:`~kdlightning.functional.topk.TopK.of` takes
    apart. ``TopKTeacher(network, 1)`` answers labels with their confidence.

    Args:
        network: directory (or Hugging Face id) of a saved network, or the network itself.
        k: how many classes; all, if there are fewer.
        budget: the most images it may answer, for all processes of a run together; None for no limit.

    Raises:
        ValueError: k is below 1.
        FileNotFoundError: there is no saved network at that place.
    """

    access = "topk"

    def __init__(self, network: str | Path | nn.Module, k: int, budget: int | None = None) -> None:
        super().__init__(network, budget)
        self.k = at_least_one(k)
        self._identity["k"] = str(k)

    def _disclose(self, logits: Tensor) -> Tensor:
        return TopK.best(logits.float().softmax(dim=1), self.k).rows()

    def _answer_bytes(self) -> int:
        return 4 * (2 * min(self.k, self._classes or self.k) + 1)


def at_least_one(k: int) -> int:
    """The number of classes of an answer; a ValueError if it is none."""
    if k < 1:
        raise ValueError(f"k: expected at least one class in an answer, got {k}")
    return k


def _enclose(
    network: nn.Module,
) -> tuple[Callable[[Tensor], Tensor], Callable[[Sequence[int], torch.device | str], int], Callable[[], str]]:
    """Freeze a network and hide it: what asks it, what rehearses it, what tells its fingerprint."""
    stored = freeze(network)
    place: torch.device | None = None

    def ask(images: Tensor) -> Tensor:
        nonlocal place
        if place != images.device:
            network.to(images.device)
            place = images.device
        logits: Tensor = network(images.float())
        return logits

    # channels_last is the faster layout for convolutions on CPU and GPU alike
    def rehearse(shape: Sequence[int], device: torch.device | str) -> int:
        return rehearse_teacher(network, shape, device, channels_last=True)

    return ask, rehearse, lambda: stored or fingerprint(network)
