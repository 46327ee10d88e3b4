"""What a disk that cannot be written is to the user: one sentence, wherever in a library it was found."""

import errno

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FILES = (errno.ENOTDIR, errno.EEXIST)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_WORDS = ("No space left on device", "PytorchStreamWriter failed writing", "os error 28")  # where the number is lost


def told(error: BaseException) -> str | None:
    """A sentence for an error that a full disk, or one that may not be written, has caused; None for others."""
    if type(error).__module__.startswith("kdlightning"):
        return None  # has its own
    number = error.errno if isinstance(error, OSError) else None
    file = f" ({name})" if (name := getattr(error, "filename2", None) or getattr(error, "filename", None)) else ""
    if number in _FULL or any(words in str(error) for words in _WORDS):
        return f"the disk is full{file}; free space and run the same command again: what was written whole is kept"
    if number in _FILES:
        return f"a file is in the way{file}: expected a directory, or nothing, there; choose another place"
    if number in _CLOSED:
        return f"{error.strerror}{file}; choose a place that this user may write to"  # type: ignore[attr-defined]
    return None
