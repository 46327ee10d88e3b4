"""What is said where the disk does not take what has to be kept."""

from pathlib import Path


class UnwrittenError(OSError):
    """A file could not be written: which, why and what to do. ``errno`` is that of the reason."""

    def __init__(self, path: str | Path, reason: BaseException) -> None:
        super().__init__(
            f"{path} could not be written ({getattr(reason, 'strerror', None) or reason}). Free space on the disk, or "
            "give it back its permissions, and run the same command again: what is written is kept"
        )
        self.errno = getattr(reason, "errno", None)
