"""Who was asked what: the identities of teachers behind a connection, in a ledger."""

import hashlib

from kdlightning.accounting.accounts import READING, identity_text
from kdlightning.accounting.ledger import QueryLedger


def known_teacher(ledger: QueryLedger, wanted: dict[str, str]) -> dict[str, str]:
    """The identity of the one teacher in a ledger of whom this was asked, whoever read the answers before."""
    fitting = [who for who in ledger.teachers() if asked(wanted).items() <= who.items()]
    same = [who for who in fitting if wanted.items() <= who.items()]
    found = list({identity_text(asked(who)): asked(who) for who in same or fitting}.values())
    if len(found) != 1:
        versions = sorted(who.get("version", "") for who in found)
        advice = f"set `version` to one of {versions}" if found else "was it filled under another url or known_as?"
        raise ValueError(f"{ledger.path}: expected one teacher with {wanted}, got {len(found)}; {advice}")
    return {**found[0], **wanted}


def asked(who: dict[str, str]) -> dict[str, str]:
    """Of an identity what is asked of whom, not how replies are read."""
    return {key: value for key, value in who.items() if key not in READING}


def digest(who: dict[str, str]) -> str:
    """A name for an identity."""
    return hashlib.sha256(repr(sorted(who.items())).encode()).hexdigest()
