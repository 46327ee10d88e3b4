"""The rows of answers and replies in a ledger's file: how they are written, found and settled."""

import os
import socket
import struct
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from sqlite3 import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdlightning.accounting import accounts
from kdlightning.accounting.accounts import UNITS, Units
from kdlightning.accounting.spool import Settlement

Answer = NDArray[Any]
UNREAD = b""  # in place of an answer: this teacher could not read the reply that is kept
NONE = b"|i1\x00"  # how a packed answer begins that is none, but only its outcome: an int8 without dimensions
_REPLY = 256 << 10  # compressed bytes of a reply, for each of its images, that are worth keeping


def begin(connection: Connection, teacher: int, account: str, number: int, cost: Units) -> int:
    """Count so many images as in flight, at this cost; the number of their request. Within a transaction."""
    row = connection.execute(
        f"INSERT INTO requests (teacher, account, owner, state, queries, {', '.join(UNITS)}, sent) "
        "VALUES (?, ?, ?, 'in flight', ?, ?, ?, ?, ?, ?, ?)",
        (teacher, account, owner(), number, *cost, time.time()),
    ).lastrowid
    accounts.add(connection, teacher, account, in_flight=number, **dict(zip(UNITS, cost, strict=True)))
    assert row is not None
    return row


def owner() -> str:
    """This process, as other hosts know it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def settle(connection: Connection, what: Settlement) -> bool:
    """Take a request out of flight, replace its reserved cost by the true one, keep what came; False if it is not.

    Within a transaction.
    """
    row = connection.execute(
        f"SELECT requests.teacher, asked, account, {', '.join(UNITS)} FROM requests "
        "JOIN teachers ON teachers.id = requests.teacher WHERE requests.id = ? AND state = 'in flight'",
        (what.request,),
    ).fetchone()
    if row is None:
        return False
    teacher, endpoint, account, *reserved = row
    true = reserved if what.cost is None else what.cost
    connection.execute(
        f"UPDATE requests SET state = ?, {', '.join(f'{unit} = ?' for unit in UNITS)}, settled = ? WHERE id = ?",
        (what.state, *true, time.time(), what.request),
    )
    number = len(what.images)
    counts = {"in_flight": -number}
    counts |= {unit: new - old for unit, new, old in zip(UNITS, true, reserved, strict=True)}
    if what.reply is not None:
        _keep(connection, endpoint, what, what.reply)
    if what.state == "answered":
        pairs = zip(what.images, what.answers, strict=True)
        new = insert(connection, teacher, ((image, what.request, data) for image, data in pairs))
        counts |= {"unique": new, "twice": number - new}
        claimed = [(endpoint, image) for image in what.images]
        connection.executemany("DELETE FROM claims WHERE endpoint = ? AND image = ?", claimed)
    elif what.state == "lost":
        counts["lost"] = number
        if what.reply is not None:
            insert(connection, teacher, ((image, what.request, UNREAD) for image in what.images))
    accounts.add(connection, teacher, account, **counts)
    return True


def insert(connection: Connection, teacher: int, rows: Iterable[tuple[bytes, int, bytes]]) -> int:
    """Image, request and answer, for a teacher who has none of the image; how many are new.

    One that says that there was no answer gives way to a later one, and is not counted anew.
    """
    values = [(teacher, image, request, checksum_of(image, data), data) for image, request, data in rows]
    new = connection.executemany(
        "INSERT INTO answers (teacher, image, request, checksum, answer) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT (teacher, image) DO UPDATE SET request = excluded.request, checksum = excluded.checksum, "
        "answer = excluded.answer WHERE answers.answer = X''",
        values,
    ).rowcount
    if new < len(values):
        connection.executemany(
            f"UPDATE answers SET checksum = ?4, answer = ?5 WHERE teacher = ?1 AND image = ?2 AND request != ?3 "
            f"AND ?5 != X'' AND {no_answer('answer')}",
            values,
        )
    return new


def free(connection: Connection, endpoint: int, teacher: int, images: Iterable[bytes], *, again: bool) -> list[bytes]:
    """Those of the images that have no answer for a teacher, no reply that it might read, and are in no batch job.

    ``again``: also those of whose questions is known that there was no answer.
    """
    queued = "SELECT 0 FROM queued WHERE endpoint = ? AND image = ?"
    open_ = f"answer = X'' OR {no_answer('answer')}" if again else "answer = X''"
    told = f"SELECT {open_} FROM answers WHERE teacher = ? AND image = ?"
    kept = "SELECT 0 FROM kept WHERE endpoint = ? AND image = ?"
    found = {
        key: connection.execute(queued, (endpoint, key)).fetchone()
        or connection.execute(told, (teacher, key)).fetchone()
        or connection.execute(kept, (endpoint, key)).fetchone()
        for key in images
    }
    return [key for key, row in found.items() if row is None or row[0]]


def in_jobs(connection: Connection, teacher: Mapping[str, str], images: Iterable[bytes]) -> list[str]:
    """The batch jobs that images are in: their names, or the tags of those whose name is not known."""
    endpoint = accounts.endpoint_number(connection, teacher, create=False)
    ask = "SELECT coalesce(name, tag) FROM queued JOIN jobs ON jobs.id = job WHERE queued.endpoint = ? AND image = ?"
    found = (connection.execute(ask, (endpoint, key)).fetchone() for key in images)
    return sorted({str(row[0]) for row in found if row is not None})


def unsettled(connection: Connection) -> list[str]:
    """The requests and the batch jobs that nobody has settled, one line each."""
    told = []
    for what, ask in _UNSETTLED.items():
        for number, images, by, at in connection.execute(ask):
            told.append(f"{what} {number}: images {images:,}, sent by {by} at {at} UTC")
    return told


_UNSETTLED = {
    "request": "SELECT id, queries, owner, datetime(sent, 'unixepoch') FROM requests WHERE state = 'in flight' "
    "AND id NOT IN (SELECT request FROM queued)",
    "batch job": "SELECT coalesce(name, tag), count(*), requests.owner, datetime(begun, 'unixepoch') FROM queued "
    "JOIN jobs ON jobs.id = job JOIN requests ON requests.id = request GROUP BY jobs.id",
}


def unanswered(connection: Connection, teacher: int) -> int:
    """Images of which a teacher was asked and gave no answer."""
    query = f"SELECT count(*) FROM answers WHERE teacher = ? AND {no_answer('answer')}"
    return int(connection.execute(query, (teacher,)).fetchone()[0])


def no_answer(column: str) -> str:
    """SQL: whether a packed answer is none."""
    return f"substr({column}, 1, {len(NONE)}) = X'{NONE.hex()}'"


def replies(
    connection: Connection, teacher: Mapping[str, str], images: Sequence[bytes]
) -> list[tuple[int, set[bytes], bytes, int, bytes]]:
    """The replies that are kept for images: request, which images it is for, the hashes of all, checksum, the reply."""
    endpoint = accounts.endpoint_number(connection, teacher, create=False)
    ask = "SELECT request FROM kept WHERE endpoint = ? AND image = ?"
    wanted: dict[int, set[bytes]] = {}
    for image in images:
        for (request,) in connection.execute(ask, (endpoint, image)):
            wanted.setdefault(request, set()).add(image)
    ask = "SELECT images, checksum, reply FROM replies WHERE request = ?"
    lost = b"", -1, b""  # of a damaged file; is not intact
    return [(key, some, *(connection.execute(ask, (key,)).fetchone() or lost)) for key, some in wanted.items()]


def known(connection: Connection, teacher: Mapping[str, str]) -> int:
    """Images with an answer for a teacher, or with a reply that it has not tried to read."""
    endpoint = accounts.endpoint_number(connection, teacher, create=False)
    (number,) = connection.execute(
        "SELECT (SELECT count(*) FROM answers WHERE teacher = :teacher AND answer != X'') + (SELECT count(*) FROM kept "
        "WHERE endpoint = :endpoint AND image NOT IN (SELECT image FROM answers WHERE teacher = :teacher))",
        {"teacher": accounts.teacher_number(connection, teacher), "endpoint": endpoint},
    ).fetchone()
    return int(number)


def usage(connection: Connection, endpoint: int) -> list[tuple[int, int, int, int]]:
    """Answered requests with tokens: how many had as many images, input and output tokens."""
    ask = (
        "SELECT count(*), queries, input_tokens, output_tokens FROM requests JOIN teachers ON teachers.id = teacher "
        "WHERE asked = ? AND state = 'answered' AND input_tokens + output_tokens > 0 GROUP BY 2, 3, 4"
    )
    return connection.execute(ask, (endpoint,)).fetchall()


def compress(reply: bytes | None, images: int) -> bytes | None:
    """A reply to so many images as it is kept; None where it is too long for that."""
    packed = None if reply is None else zlib.compress(reply, 1)
    return None if packed is None or len(packed) > _REPLY * images else packed


def _keep(connection: Connection, endpoint: int, what: Settlement, reply: bytes) -> None:
    """A reply, for those of its images that have none which was read."""
    images = b"".join(what.images)
    values = what.request, checksum_of(images, reply), images, reply
    connection.execute("INSERT INTO replies (request, checksum, images, reply) VALUES (?, ?, ?, ?)", values)
    connection.executemany(
        "INSERT INTO kept (endpoint, image, request) VALUES (?, ?, ?) "
        "ON CONFLICT DO UPDATE SET request = excluded.request "
        "WHERE (SELECT state FROM requests WHERE id = kept.request) = 'lost' "
        f"OR EXISTS (SELECT 1 FROM answers WHERE answers.image = kept.image AND {no_answer('answers.answer')} "
        "AND teacher = (SELECT teacher FROM requests WHERE id = excluded.request))",
        [(endpoint, image, what.request) for image in what.images],
    )


def checksum_of(image: bytes, data: bytes) -> int:
    """CRC-32 over the image's hash too: an answer that stands at another image is found as well."""
    return zlib.crc32(data, zlib.crc32(image))


def intact(image: Any, data: Any, checksum: Any) -> bool:  # noqa: ANN401 - of a file that may be damaged
    """Whether a row has the checksum that it was recorded with."""
    return isinstance(image, bytes) and isinstance(data, bytes) and checksum_of(image, data) == checksum


def name(image: object) -> str:
    """An image's hash in a message; a damaged file may have anything there."""
    return image.hex()[:16] if isinstance(image, bytes) else repr(image)[:16]


def pack(answer: Answer) -> bytes:
    """Three letters of dtype, a byte of dimensions, 4 bytes per side, then the values; all little-endian.

    A ValueError where it is not bool, integers or floats.
    """
    array = np.asarray(answer)
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > 8:
        raise ValueError(f"expected answers of bool, integers or floats of at most 64 bits, got {array.dtype}")
    array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return array.dtype.str.encode() + struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape) + array.tobytes()


def unpack(data: bytes) -> Answer:
    """What was packed, read-only."""
    dimensions = data[3]
    shape = struct.unpack_from(f"<{dimensions}I", data, 4)
    return np.frombuffer(data, np.dtype(data[:3].decode()), offset=4 + 4 * dimensions).reshape(shape)
