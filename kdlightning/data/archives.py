"""Bytes of files, also in a zip or a tar: no more than an image can have, and what is wrong is told in a word."""

import codecs
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
ARCHIVES = (".zip", *TARS)
MAX_BYTES = 2**28  # of an image file: what has more is not read
_METHODS = {9: "Deflate64", 93: "Zstandard", 98: "PPMd"}  # of zips, which not every Python unpacks
# what zipfile and tarfile raise for what is cut, empty or damaged
_DAMAGE = (
    EOFError, MemoryError, OSError, RuntimeError, ValueError, zipfile.BadZipFile, tarfile.TarError, zlib.error,
    lzma.LZMAError,
)  # fmt: skip


class UnreadableError(ValueError):
    """Why a file is no image to train on."""


class Archive:
    """A zip, or by its name a tar, which every process opens for itself.

    A handle that a worker inherits by fork would share its position in the file with every other worker's.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self._process = 0

    def sizes(self) -> dict[str, int]:
        """Names of the files, in order, with their bytes; of a zip's folders, too, which end in a slash."""
        self._open()
        return {name: self._size(info) for name, info in self._members.items()}

    @property
    def fault(self) -> str:
        """Why members are lacking, or all are; empty where the archive is whole."""
        self._open()
        return self._fault

    @contextmanager
    def open(self, member: str) -> Iterator[IO[bytes]]:
        """One file, to read from; an :class:`UnreadableError` where nobody can."""
        self._open()
        info, handle = self._members[member], self._handle
        if self._zipped and info.flag_bits & 1:
            raise UnreadableError("encrypted")
        try:
            with handle.open(info) if self._zipped else handle.extractfile(info) as stream:
                yield stream
        except NotImplementedError as error:
            method = _METHODS.get(info.compress_type, f"method {info.compress_type}")
            raise UnreadableError(f"packed by {method}, which Python cannot unpack: pack it anew") from error
        except UnreadableError:
            raise
        except _DAMAGE as error:
            raise UnreadableError(f"damaged in its archive: {error}") from error

    def read(self, member: str) -> bytes:
        """The bytes of one file; an :class:`UnreadableError` where there are too many, or nobody can."""
        self._open()
        if self._size(self._members[member]) > MAX_BYTES:
            raise UnreadableError("huge")
        with self.open(member) as stream:
            return stream.read()

    def _size(self, info: Any) -> int:  # noqa: ANN401 - what zipfile or tarfile tell of a member
        return int(info.file_size if self._zipped else info.size)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_process": 0}

    def _open(self) -> None:
        if self._process == os.getpid():
            return
        self._process, self._fault = os.getpid(), ""
        self._zipped = not self.path.lower().endswith(TARS)
        self._members: dict[str, Any] = {}
        self._handle: Any = None
        try:
            if self._zipped:
                self._handle = zipfile.ZipFile(self.path)
                self._members = {info.filename: info for info in self._handle.infolist()}
                return
            self._handle = tarfile.open(self.path)  # noqa: SIM115 - as long as this process lives
            for info in self._handle:
                if info.isfile():
                    self._members[info.name] = info
            # tarfile ends at a damaged header as at the empty one that ends a whole archive
            self._handle.fileobj.seek(self._handle.offset)
            if self._handle.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                self._fault = "cut off or damaged"
        except _DAMAGE as error:
            self._fault = f"cut off or damaged: {error or type(error).__name__}"


def read_file(path: Path) -> bytes:
    """The bytes of a file; an :class:`UnreadableError` where there are too many, or it cannot be read."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise UnreadableError("no regular file")
        if facts.st_size > MAX_BYTES:
            raise UnreadableError("huge")
        return path.read_bytes()
    except OSError as error:
        raise UnreadableError(error.strerror or "cannot be read") from error


def size_and_time(path: Path) -> tuple[int, int]:
    """A file's bytes, and when it was last written, in nanoseconds; zeros where nobody knows."""
    try:
        facts = path.stat()
    except OSError:
        return 0, 0
    return facts.st_size, facts.st_mtime_ns


def read_lines(content: bytes) -> list[str]:
    """The lines of a text that are not empty, in UTF-8 or UTF-16, with or without a byte order mark.

    Bytes that are no UTF-8 stay what they are, so that names of files are found by them.
    """
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16" if wide else "utf-8-sig", "replace" if wide else "surrogateescape")
    return [line.strip() for line in text.splitlines() if line.strip()]


def printable(name: str) -> str:
    """A file's name as it can be shown and written; bytes that are no UTF-8 are escaped."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
