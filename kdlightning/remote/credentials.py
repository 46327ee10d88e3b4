"""Secrets: named in a configuration, read from the environment or a file, shown nowhere."""

import os
import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

_REFERENCE = re.compile(r"\b(env|file):(\S+)")
_SECRET = re.compile(r"auth|key|token|secret|password|cookie|credential|signature", re.IGNORECASE)


def read_secret(environment: str | None = None, file: str | None = None) -> str | None:
    """A secret from an environment variable, or from a file that holds nothing else; None if no place is named.

    Raises:
        ValueError: two places are named, or there is nothing at the one that is.
    """
    if environment is not None and file is not None:
        raise ValueError("a key is read from an environment variable or from a file; two places are named")
    if environment is not None:
        secret, place = os.environ.get(environment, ""), f"environment variable {environment}, which is not set or"
    elif file is not None:
        try:
            secret, place = Path(file).expanduser().read_text(encoding="utf-8"), f"file {file}, which is"
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"expected a key in the file {file}: {error}") from error
    else:
        return None
    if not (secret := secret.strip()):
        raise ValueError(f"expected a key in the {place} empty")
    if not secret.isascii() or not secret.isprintable():
        raise ValueError(f"the key in {environment or file} has characters that no HTTP header can carry")
    return secret


def fill_in(headers: dict[str, str], *, read: bool = True) -> tuple[dict[str, str], list[str]]:
    """The headers with the secret for every ``env:NAME`` and ``file:PATH``, and these; not to ``read``: only check.

    Raises:
        ValueError: there is nothing at one of these places, or a secret stands in the headers themselves.
    """
    secrets: list[str] = []
    if told := [name for name, value in headers.items() if _SECRET.search(name) and not _REFERENCE.search(value)]:
        raise ValueError(f"the header {told[0]} looks like a secret: write env:NAME or file:PATH in its place")

    def replace(match: re.Match[str]) -> str:
        kind, place = match.groups()
        secret = read_secret(place, None) if kind == "env" else read_secret(None, place)
        assert secret is not None
        secrets.append(secret)
        return secret

    return {name: _REFERENCE.sub(replace, value) for name, value in headers.items() if read}, secrets


def bare(url: str) -> str:
    """An address without credentials, query and fragment, fit for messages."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else parts.path


def check_url(url: str, *, secret: bool) -> str:
    """An address without a slash at its end, if it discloses nothing; ``secret``: a key travels with the requests.

    Raises:
        ValueError: it is no http(s) address, has a secret in it, or would carry a key unencrypted.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment:
        raise ValueError(f"expected an address such as https://host:8000, got {bare(url)!r}")
    if "@" in parts.netloc:
        raise ValueError(f"{bare(url)}: an address with credentials ends up in configurations; name the key's place")
    if found := [name for name, _ in parse_qsl(parts.query, keep_blank_values=True) if _SECRET.search(name)]:
        raise ValueError(f"{bare(url)}: the parameter {found[0]} looks like a secret; send it in `headers` (env:NAME)")
    if secret and parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError(f"{bare(url)}: a key would travel unencrypted; use https, or a tunnel that ends at 127.0.0.1")
    return url.rstrip("/")
