"""Beside a ledger that cannot be written at this moment: what became of requests, one small file each, until it can."""

import base64
import gzip
import json
import os
import uuid
import zlib
from pathlib import Path
from typing import NamedTuple

from kdlightning.accounting.accounts import UNITS, Units

DAMAGED = ".damaged"  # suffix of a file that a disk has spoilt


class Settlement(NamedTuple):
    """What became of a request, as the ledger's file has it."""

    request: int
    state: str  # answered, lost, released
    images: tuple[bytes, ...]  # by SHA-256
    cost: Units | None  # None: as reserved
    answers: tuple[bytes, ...] = ()
    reply: bytes | None = None  # compressed


class Spool:
    """The files; gzip's checksum tells damaged ones.

    Args:
        ledger: path of the ledger; the files are in the directory of its name and ``-spool``.
    """

    def __init__(self, ledger: Path) -> None:
        self.directory = ledger.with_name(f"{ledger.name}-spool")

    def put(self, settlement: Settlement) -> None:
        """Write down, whole and on the disk when this returns; an OSError where that is not possible."""
        texts = {"images": _texts(settlement.images), "answers": _texts(settlement.answers),
                 "reply": None if settlement.reply is None else _texts([settlement.reply])[0]}  # fmt: skip
        data = gzip.compress(json.dumps({**settlement._asdict(), **texts}).encode(), 1)
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self.directory / f"{settlement.request}-{uuid.uuid4().hex[:8]}"
        temporary = file.with_suffix(".tmp")
        try:
            with temporary.open("wb") as opened:
                opened.write(data)
                opened.flush()
                os.fsync(opened.fileno())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)

    def files(self) -> list[Path]:
        """The whole ones that wait, in the order of their requests."""
        if not self.directory.is_dir():
            return []
        found = [file for file in self.directory.iterdir() if not file.suffix]
        return sorted(found, key=lambda file: (len(file.name), file.name))

    @staticmethod
    def read(file: Path) -> Settlement | None:
        """What a file says; None where it is damaged."""
        try:
            told = json.loads(gzip.decompress(file.read_bytes()))
            images, answers = (tuple(base64.b64decode(text) for text in told[key]) for key in ("images", "answers"))
            reply = None if told["reply"] is None else base64.b64decode(told["reply"])
            cost = None if told["cost"] is None else (*told["cost"], 0, 0)[: len(UNITS)]  # older files: no tokens
            return Settlement(told["request"], told["state"], images, cost, answers, reply)
        except (EOFError, KeyError, OSError, TypeError, ValueError, zlib.error):
            return None


def _texts(values: tuple[bytes, ...] | list[bytes]) -> list[str]:
    return [base64.b64encode(value).decode() for value in values]
