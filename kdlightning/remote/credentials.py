"""Secrets: named in a configuration, read from the environment or a file, shown nowhere."""

import json
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

_REFERENCE = re.compile(r"\b(env|file):(\S+)")
_IN_ADDRESS = re.compile(r"(?<=[=/])(env|file):([^&/\s]+)")
_IN_REQUEST = re.compile(r"(?<!\S)(env|file):(\S+)$")
_NAMED = re.compile(
    r"auth(?!ors?\b|ored)|key|token(?!iz)|secret|passw|pwd|cookie|credential|signature|apim|bearer|jwt", re.I
)
_DOUBTFUL = re.compile(r"(?:^|[-_.])(?:pass|code|sig|sas|k|pw)(?:$|[-_.])", re.IGNORECASE)  # ?k=5 is no secret
_MADE = re.compile(  # as keys and tokens look, whatever they are called
    r"(?:sk|pk|rk|hf|gh[opsu]|xox[abp])[-_][-\w]{12,}|AKIA\w{12,}|AIza[-\w]{20,}|eyJ[-\w]{10,}\.[-\w.]+"
    r"|(?=[^0-9]*[0-9])(?=[^A-Za-z]*[A-Za-z])[A-Za-z0-9+/_]{28,}={0,2}"
)
_seen: set[str] = set()  # every form of every secret that this process has read


class Concealed(str):
    """A text with a secret in it; what is shown of an object that has it does not tell."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


def remember(secret: str) -> None:
    """Keep a secret out of everything that :func:`blacken` is shown from now on, in each form that texts give it."""
    if secret:
        _seen.update((secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret), quote(secret, safe="")))


def blacken(text: str) -> str:
    """A text without the secrets that were read. To be done before a text is cut: a part of a secret is one."""
    for secret in sorted(_seen, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


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
            raise ValueError(f"expected a key in the file {file}: {error}") from None
    else:
        return None
    if not (secret := secret.strip()):
        raise ValueError(f"expected a key in the {place} empty")
    remember(secret)
    if not secret.isascii() or not secret.isprintable():
        raise ValueError(f"the key in {environment or file} has characters that no HTTP header can carry")
    return secret


def fill_in(headers: dict[str, str], *, read: bool = True) -> tuple[dict[str, str], list[str]]:
    """The headers with the secret for every ``env:NAME`` and ``file:PATH``, and these; not to ``read``: only check.

    Raises:
        ValueError: there is nothing at one of these places, or a secret stands in the headers themselves.
    """
    for name, value in headers.items():
        _check_literal("the header", name, value, named=True, reference=_REFERENCE)
        if not re.fullmatch(r"[!#$%&'*+.^`|~\w-]+", name, re.ASCII) or not (value.isascii() and value.isprintable()):
            raise ValueError(f"the header {name!r} has characters that no HTTP header can carry")
    secrets: list[str] = []
    return {name: _filled(value, _REFERENCE, secrets) for name, value in headers.items() if read}, secrets


def fill_in_request(request: Any, *, read: bool = True) -> tuple[Any, list[str]]:  # noqa: ANN401 - any JSON value
    """The same for the texts of a request, each of which may end in ``env:NAME`` or ``file:PATH``."""
    secrets: list[str] = []

    def fill(value: Any, name: str) -> Any:  # noqa: ANN401
        if isinstance(value, dict):
            return {key: fill(inner, str(key)) for key, inner in value.items()}
        if isinstance(value, list):
            return [fill(inner, name) for inner in value]
        if not isinstance(value, str):
            return value
        named = len(value) >= 8 and " " not in value and "{" not in value  # a name such as "key" may mean a column
        _check_literal("the request's", name, value, named=named, reference=_IN_REQUEST)
        return _filled(value, _IN_REQUEST, secrets) if read else value

    return fill(request, ""), secrets


def fill_in_address(url: str) -> tuple[str, list[str]]:
    """The same for an address, whose parameters and parts of the path may be ``env:NAME``."""
    secrets: list[str] = []
    parts = urlsplit(url)

    def fill(text: str) -> str:
        return _IN_ADDRESS.sub(lambda match: quote(_secret_at(match, secrets), safe=""), text)

    filled = parts._replace(path=fill(parts.path), query=fill(f"={parts.query}")[1:]).geturl()
    return Concealed(filled), secrets


def bare(url: str) -> str:
    """An address without credentials, query and fragment, fit for messages."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else parts.path


def check_url(url: str, *, secret: bool) -> str:
    """An address without a slash at its end, if it discloses nothing; ``secret``: a key travels with the requests.

    Raises:
        ValueError: it is no http(s) address, has a secret in it, or would carry a key unencrypted.
    """
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        wrong = parts.scheme not in ("http", "https") or not parts.hostname or parts.fragment or parts.port == 0
    except ValueError:  # such as a port that is no number, or a host that is no name
        raise ValueError("expected an address such as https://host:8000, got one that cannot be read") from None
    if wrong:
        raise ValueError(f"expected an address such as https://host:8000, got {bare(url)!r}")
    if "@" in parts.netloc:
        raise ValueError(f"{bare(url)}: an address with credentials ends up in configurations; name the key's place")
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        _check_literal(f"{bare(url)}: the parameter", name, value, named=True, reference=_REFERENCE)
    if secret and parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
        raise ValueError(f"{bare(url)}: a key would travel unencrypted; use https, or a tunnel that ends at 127.0.0.1")
    return url.rstrip("/")


def _check_literal(where: str, name: str, value: str, *, named: bool, reference: re.Pattern[str]) -> None:
    """A ValueError, which does not show it, if a value is a secret and no reference to one."""
    if reference.search(value) or value.lower() in ("", "true", "false") or "{image}" in value:
        return
    doubtful = _DOUBTFUL.search(name) and not (value.isdigit() and len(value) <= 4)
    if (named and (_NAMED.search(name) or doubtful)) or _MADE.fullmatch(value.removeprefix("Bearer ")):
        raise ValueError(f"{where} {name} looks like a secret: write env:NAME or file:PATH in its place")


def _secret_at(match: re.Match[str], secrets: list[str]) -> str:
    kind, place = match.groups()
    secret = read_secret(place, None) if kind == "env" else read_secret(None, place)
    assert secret is not None
    secrets.append(secret)
    return secret


def _filled(text: str, reference: re.Pattern[str], secrets: list[str]) -> str:
    return reference.sub(lambda match: _secret_at(match, secrets), text)
