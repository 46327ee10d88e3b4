"""What servers say in headers about their limits: how much is left, until when, and when to come back."""

import contextlib
import email.utils
import re
import time
from collections.abc import Mapping
from datetime import datetime

from kdlightning.accounting.pace import Room

_KINDS = ("requests", "tokens", "input-tokens", "output-tokens")
_FORMS = ("x-ratelimit-{what}-{kind}", "anthropic-ratelimit-{kind}-{what}")  # OpenAI's and many others'; Anthropic's
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def rooms(headers: Mapping[str, str], now: float) -> dict[str, Room]:
    """What a reply says of requests and tokens that are left, and when all of them will be there again.

    Names of headers are lower case. What has no number or no time is left out.
    """
    found = {}
    for kind in _KINDS:
        for form in _FORMS:
            left = headers.get(form.format(what="remaining", kind=kind), "")
            until = _moment(headers.get(form.format(what="reset", kind=kind), ""), now)
            if until is not None and re.fullmatch(r"-?\d{1,15}", left):
                found[kind.replace("-", "_")] = Room(int(left), until)
    return found


def retry_after(text: str | None) -> float | None:
    """Seconds of a Retry-After header: a number of them, or a date."""
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(text)
        return seconds if 0 <= seconds < 1e9 else None
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _moment(text: str, now: float) -> float | None:
    """When something is reset: in ``6m0s`` or ``59.7`` seconds, or at ``2026-11-28T12:00:00Z``; None if it is else."""
    text = text.strip()
    if text and not _PART.sub("", text):
        return now + sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
    with contextlib.suppress(ValueError):
        seconds = float(text)
        return (seconds if seconds > 1e9 else now + seconds) if 0 <= seconds < 1e11 else None  # some say since 1970
    with contextlib.suppress(ValueError):
        told = datetime.fromisoformat(text)
        return told.timestamp() if told.tzinfo else None
    return None
