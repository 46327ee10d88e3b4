"""What teachers behind a connection share: known images from the ledger, the rest in batches, every attempt paid."""

import hashlib
import os
import threading
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdlightning.accounting.accounts import Cost, Limits
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.accounting.ledger import Request as Reservation
from kdlightning.accounting.meter import QueryMeter
from kdlightning.accounting.terms import Terms
from kdlightning.remote.connection import Connection, RemoteTeacherError, Reply, Request
from kdlightning.remote.protocol import Array
from kdlightning.teachers.blackbox import BlackBoxTeacher


class NetworkedTeacher(BlackBoxTeacher):
    """A teacher on a server. A subclass says how images are written, sent and their answers read.

    Images that the ledger knows are answered from it and cost nothing. The rest is sent in batches, several at a time;
    each attempt is counted before it is sent, and each answer is in the ledger before it is used. An attempt that may
    have been answered stays counted.

    It cannot be pickled, and a copy is the same teacher: what holds a key is not multiplied.
    """

    _connection: Connection | None

    def _set_up(
        self,
        identity: dict[str, str],
        connection: Connection | None,
        *,
        num_classes: int | None,
        max_batch: int,
        concurrency: int,
        budget: int | None,
        limits: Limits,
        ledger: str | None,
        price: float,
    ) -> None:
        """Take the place of the constructor, once it is known who answers.

        Args:
            identity: who answers, and how images are written for it; no secret.
            connection: to the server; None to answer from the ledger alone.
            num_classes: K, where it is known.
            max_batch: the most images in a request.
            concurrency: the most requests under way.
            budget: the most images that may be paid.
            limits: the most bytes and money, kept by the ledger.
            ledger: path of the query ledger; None for none.
            price: of one image.

        Raises:
            ValueError: numbers that make no sense, or limits without the ledger that keeps them.
        """
        if max_batch < 1 or concurrency < 1 or not price >= 0:
            raise ValueError(
                f"expected max_batch and concurrency of at least 1 and a price of at least 0, got {max_batch}, "
                f"{concurrency} and {price}"
            )
        if ledger is None and (limits != Limits() or connection is None):
            raise ValueError("limits of bytes or price, and answers without a server, need a ledger")
        digest = hashlib.sha256(repr(sorted(identity.items())).encode()).hexdigest()
        self._identity, self._fingerprint = identity, lambda: digest
        self._connection, self._price = connection, price
        self._max_batch, self._concurrency = max_batch, concurrency
        self._meter, self._classes = QueryMeter(budget), num_classes or 0
        self._ledger = None if ledger is None else QueryLedger(ledger, limits, readonly=connection is None)
        self._lock = threading.Lock()  # the meter's own keeps out processes, not threads
        self._pool: tuple[int, ThreadPoolExecutor] | None = None

    def share(self, path: str | Path) -> None:
        """Count in this file from now on; what the ledger limits holds for all that count there."""
        if self._ledger is not None and not self.shared:
            self._ledger.account = str(Path(path).resolve())
        super().share(path)

    def terms(self, shape: Sequence[int], count: str | Path) -> Terms:
        """What images will cost, by this teacher's settings and its ledger; asks nothing, writes nothing.

        How long an image is may depend on its pixels: a black one is taken for the shortest, noise for the longest.

        Args:
            shape: of an image, ``(C, H, W)``.
            count: the file that :meth:`share` will be given.
        """
        terms = super().terms(shape, count)._replace(price=self._price, bytes_down=None)
        if self._connection is None:
            terms = terms._replace(offline=True)
        else:
            black, noise = torch.zeros(1, *shape), torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
            short, long = self._size(black, 1), self._size(noise, 1)
            more = self._size(black, 2) - short if self._max_batch > 1 else short
            terms = terms._replace(bytes_up=(float(more), float(long)))
        if self._ledger is None:
            return terms
        account = str(Path(count).resolve())
        with QueryLedger(self._ledger.path, account=account, readonly=True) as book:
            spent, told = book.spent, book.totals(self.identity)
        answered = told.unique + told.twice
        return terms._replace(
            bytes_down=told.bytes_down / answered if answered else None,
            known=told.unique,
            limits=Limits(self.budget, self._ledger.limits.bytes, self._ledger.limits.price),
            spent=Limits(terms.spent.queries, spent.bytes_up + spent.bytes_down, spent.price),
        )

    def _size(self, image: Tensor, number: int) -> int:
        """Bytes of a request for so many copies of an image ``(1, C, H, W)``."""
        return len(self._request(self._encode(image) * number, tuple(image.shape[1:])).body or b"")

    def close(self) -> None:
        """Close connections and ledger. Another query opens what it needs again, except connections."""
        if self._pool is not None and self._pool[0] == os.getpid():
            self._pool[1].shutdown()
        self._pool = None
        if self._connection is not None:
            self._connection.close()
        if self._ledger is not None:
            self._ledger.close()

    def __deepcopy__(self, memo: dict[int, Any]) -> "NetworkedTeacher":
        return self

    def __reduce__(self) -> str:
        raise TypeError(f"a {type(self).__name__} cannot be pickled: it may hold a key; make one in each process")

    @abstractmethod
    def _encode(self, images: Tensor) -> list[bytes]:
        """The bytes that stand for each image ``(C, H, W)`` in a request; the ledger knows images by them.

        Raises:
            ValueError: the server does not take such images. Nothing is charged.
        """

    @abstractmethod
    def _request(self, images: Sequence[bytes], shape: tuple[int, ...]) -> Request:
        """A request for some encoded images, each of this shape ``(C, H, W)``."""

    @abstractmethod
    def _read(self, reply: Reply, number: int) -> Array:
        """The answers ``(N, K)`` float32 or ``(N,)`` int64 in a reply to this number of images.

        Raises:
            ProtocolError: they are not what was agreed.
        """

    def _answer(self, images: Tensor) -> Tensor:
        shape = tuple(images.shape[1:])
        encoded = self._encode(images.detach().cpu())
        if self._ledger is None:
            answer = np.concatenate(self._ask_all(encoded, shape))
        else:
            known = self._ledger.lookup(self.identity, encoded)
            missing = list(dict.fromkeys(one for one, found in zip(encoded, known, strict=True) if found is None))
            fresh = dict(zip(missing, (row for part in self._ask_all(missing, shape) for row in part), strict=True))
            answer = np.stack(
                [fresh[one] if found is None else found for one, found in zip(encoded, known, strict=True)]
            )
        if answer.ndim == 2:
            self._classes = self._classes or answer.shape[1]
        return torch.from_numpy(answer).to(images.device)

    def _ask_all(self, images: list[bytes], shape: tuple[int, ...]) -> list[Array]:
        """The answers of images, batch by batch. If one fails, those under way are still waited for and kept."""
        if not images:
            return []
        if self._connection is None:
            raise RemoteTeacherError(
                f"{len(images)} images are not in the ledger and no server is asked (offline); the run that filled the "
                "ledger asked other images"
            )
        self._check_budget(len(images))
        batches = [images[at : at + self._max_batch] for at in range(0, len(images), self._max_batch)]
        if len(batches) == 1 or self._concurrency == 1:
            return [self._ask_batch(batch, shape) for batch in batches]
        futures = [self._workers().submit(self._ask_batch, batch, shape) for batch in batches]
        try:
            done = wait(futures, return_when=FIRST_EXCEPTION).done
            _raise_first(done)
        except BaseException:
            self._connection.stopped.set()
            for future in futures:
                future.cancel()
            wait(futures)
            self._connection.stopped.clear()
            raise
        return [future.result() for future in futures]

    def _ask_batch(self, images: Sequence[bytes], shape: tuple[int, ...]) -> Array:
        assert self._connection is not None
        request = self._request(images, shape)
        booking = _Attempts(self, images, len(request.body or b""))
        return self._connection.send(request, lambda reply: self._read(reply, len(images)), booking)

    def _check_budget(self, queries: int) -> None:
        """Refuse a query that cannot be answered whole, before a part of it is paid."""
        if self.budget is not None and self.paid.queries + queries > self.budget:
            self._charge(queries, 0, 0)  # refuses, with the figures
            self._charge(-queries, 0, 0)  # unless another process has been given back its own meanwhile

    def _charge(self, queries: int, bytes_up: int, bytes_down: int) -> None:
        with self._lock:
            self._meter.charge(queries, bytes_up, bytes_down)

    def _workers(self) -> ThreadPoolExecutor:
        """The threads that send; a fork has none of its parent's."""
        if self._pool is None or self._pool[0] != os.getpid():
            self._pool = os.getpid(), ThreadPoolExecutor(self._concurrency, thread_name_prefix="teacher")
        return self._pool[1]


class _Attempts:
    """Pays for the attempts of one request: at the meter, and in the ledger if there is one."""

    def __init__(self, teacher: NetworkedTeacher, images: Sequence[bytes], size: int) -> None:
        self._teacher, self._images, self._size = teacher, images, size
        self._reservation: Reservation | None = None

    def begin(self) -> None:
        number, ledger = len(self._images), self._teacher._ledger
        self._teacher._charge(number, self._size, 0)
        if ledger is not None:
            try:
                self._reservation = ledger.reserve(self._teacher.identity, self._images, self._cost())
            except BaseException:
                self._teacher._charge(-number, -self._size, 0)
                raise

    def answered(self, answer: Array, size: int) -> None:
        self._teacher._charge(0, 0, size)
        if self._teacher._ledger is not None and self._reservation is not None:
            self._teacher._ledger.record(self._reservation, answer, self._cost(size))

    def lost(self) -> None:
        if self._teacher._ledger is not None and self._reservation is not None:
            self._teacher._ledger.write_off(self._reservation)

    def refused(self) -> None:
        self._teacher._charge(-len(self._images), -self._size, 0)
        if self._teacher._ledger is not None and self._reservation is not None:
            self._teacher._ledger.release(self._reservation)

    def _cost(self, bytes_down: int = 0) -> Cost:
        return Cost(self._size, bytes_down, self._teacher._price * len(self._images))


def _raise_first(futures: set["Future[Array]"]) -> None:
    for future in futures:
        future.result()


def describe_labels(index: dict[str, int] | None) -> dict[str, str]:
    """Its part of an identity: answers under other labels are other answers."""
    return {} if index is None else {"labels": hashlib.sha256(repr(sorted(index.items())).encode()).hexdigest()[:16]}


def known_teacher(ledger: str | None, wanted: dict[str, str]) -> dict[str, str]:
    """The identity of the one teacher in a ledger that has these properties, without its fingerprint.

    Raises:
        ValueError: no ledger, no such teacher, or several.
    """
    if ledger is None:
        raise ValueError("answers without a server (offline) need a ledger")
    with QueryLedger(ledger, readonly=True) as book:
        found = [who for who in book.teachers() if wanted.items() <= who.items()]
    if len(found) != 1:
        versions = sorted(who.get("version", "") for who in found)
        raise ValueError(
            f"{ledger}: expected one teacher with {wanted}, got {len(found)}"
            + (f"; set `version` to one of {versions}" if found else "; was it filled under another url or known_as?")
        )
    return {key: value for key, value in found[0].items() if key != "fingerprint"}
