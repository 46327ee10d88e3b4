"""What a query ledger counts: costs, limits and totals, and their rows in its file."""

import json
import math
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import Any, NamedTuple

from kdlightning.accounting.meter import WAY_ON, QueryBudgetExceededError
from kdlightning.accounting.options import group_of

READING = (
    "access",
    "answer",
    "k",
    "keys",
    "labels",
    "outputs",
    "reading",
)  # of an identity: how replies are read, not what is asked
Units = tuple[int, int, int, int, int]
_NANO = 10**9  # prices are whole billionths in the file: sums are exact, and a limit is met exactly


def money(amount: float) -> str:
    """Units of a currency: with two decimals, or four significant digits where it is less than ten.

    Reports, which are read without torch, write it likewise.
    """
    return f"{amount:,.2f}" if amount >= 10 else f"{amount:.4g}"


class Cost(NamedTuple):
    """What a request costs: bytes sent and received, a price in any one currency, and tokens, where there are such."""

    bytes_up: int
    bytes_down: int = 0
    price: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0

    def units(self) -> Units:
        """As the file has it, in the order of ``UNITS``: whole numbers, the price in billionths of the currency.

        Raises:
            ValueError: negative or not finite.
        """
        if min(self) < 0 or not math.isfinite(self.price):
            raise ValueError(f"expected finite costs >= 0, got {self}")
        up, down, price, *tokens = self
        return int(up), int(down), round(price * _NANO), *map(int, tokens)  # type: ignore[return-value]


UNITS = Cost._fields  # the columns of a cost, in the tables of requests and of totals


class Limits(NamedTuple):
    """The most images, bytes (sent and received together) and money that may be paid; None for no limit."""

    queries: int | None = None
    bytes: int | None = None
    price: float | None = None


@dataclass(frozen=True)
class Budget:
    """The most that may be paid; what is left out has no limit.

    Args:
        queries: images.
        bytes: sent and received together; a ledger counts them for each run directory.
        price: money, in the currency of the prices; counted likewise.
    """

    queries: int | None = None
    bytes: int | None = None
    price: float | None = None


def budget_of(given: int | Budget | Mapping[str, Any] | None) -> Budget:
    """A budget, or that of so many images; a TypeError, or a ValueError, for what is none."""
    if given is None or (isinstance(given, int) and not isinstance(given, bool)):
        return Budget(given)
    if isinstance(given, str | float | bool):
        raise TypeError(f"budget: expected a whole number of images, or limits such as {{'price': 20}}, got {given!r}")
    return group_of(Budget, given, "budget")


class Totals(NamedTuple):
    """What a ledger counts. ``repeated`` cost nothing; every image of the four other counts was paid for."""

    unique: int = 0  # images whose answer is kept
    repeated: int = 0  # images answered from the ledger, or by another copy in the same call
    twice: int = 0  # images answered although an answer had come meanwhile: two processes asked at the same time
    in_flight: int = 0  # images sent whose fate is unknown: on their way now, or their process died
    lost: int = 0  # images that may have been answered, but no usable answer came; its reply may be kept
    bytes_up: int = 0
    bytes_down: int = 0
    price: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def paid(self) -> int:
        """Images that count as paid for."""
        return self.unique + self.twice + self.in_flight + self.lost

    def at_least(self, asked: int) -> tuple[int, int, int]:
        """Images paid for and bytes, where so many answers are kept elsewhere: another ledger's, if not this one's."""
        return self.paid + max(0, asked - self.paid - self.repeated), self.bytes_up, self.bytes_down


def account_of(count: Path, ledger: Connection, *, create: bool) -> str:
    """The account of the run whose meter is the file ``count``, by the name that stands beside it: it moves with it.

    Where none stands there, a run whose meter does goes on with the account of its place; another one begins a new
    account (``create``: its name is written down). Within no transaction.
    """
    file, place = count.with_name("queries.account"), str(count.resolve())
    with suppress(FileNotFoundError):
        return file.read_text()
    if count.exists():  # the name was lost, or the run is older than such names: accounts were places
        row = ledger.execute(
            "SELECT account FROM tallies WHERE account = ?1 OR substr(account, 1, length(?1) + 1) = ?1 || '#'", (place,)
        ).fetchone()
        name = place if row is None else str(row[0])
    else:
        name = f"{place}#{uuid.uuid4().hex[:8]}"
    if not create:
        return name
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.{uuid.uuid4().hex[:8]}")
    try:
        temporary.write_text(name)
        os.link(temporary, file)  # whole, and by the first of a run's processes alone
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    return file.read_text()


def identity_text(teacher: Mapping[str, str]) -> str:
    """A teacher's identity as the file has it: JSON with sorted keys."""
    return json.dumps(dict(teacher), sort_keys=True)


def teacher_number(connection: Connection, teacher: Mapping[str, str], *, create: bool = False) -> int:
    """The number of a teacher's row; -1, which no row has, where there is none."""
    identity = identity_text(teacher)
    row = connection.execute("SELECT id FROM teachers WHERE identity = ?", (identity,)).fetchone()
    if row is None and create:
        values = identity, endpoint_number(connection, teacher)
        row = connection.execute("INSERT INTO teachers (identity, asked) VALUES (?, ?) RETURNING id", values).fetchone()
    return -1 if row is None else int(row[0])


def endpoint_number(connection: Connection, teacher: Mapping[str, str], *, create: bool = True) -> int:
    """The number of whom a teacher asks what: of its identity without the names in ``READING``."""
    identity = identity_text({key: value for key, value in teacher.items() if key not in READING})
    row = connection.execute("SELECT id FROM endpoints WHERE identity = ?", (identity,)).fetchone()
    if row is None and create:
        row = connection.execute("INSERT INTO endpoints (identity) VALUES (?) RETURNING id", (identity,)).fetchone()
    return -1 if row is None else int(row[0])


def add(connection: Connection, teacher: int, account: str, **amounts: int) -> None:
    """Add to the totals of an account with a teacher; the price in billionths."""
    columns = ", ".join(f'"{name}"' for name in Totals._fields)
    sums = ", ".join(f'"{name}" = "{name}" + excluded."{name}"' for name in Totals._fields)
    values = ", ".join("?" * len(Totals._fields))
    connection.execute(
        f"INSERT INTO tallies (teacher, account, {columns}) VALUES (?, ?, {values}) "
        f"ON CONFLICT (teacher, account) DO UPDATE SET {sums}",
        (teacher, account, *(amounts.get(name, 0) for name in Totals._fields)),
    )


def totals(connection: Connection, where: str, *values: int | str) -> Totals:
    """The sum of the totals that an SQL condition selects."""
    sums = ", ".join(f'coalesce(sum("{name}"), 0)' for name in Totals._fields)
    found = Totals(*connection.execute(f"SELECT {sums} FROM tallies WHERE {where}", values).fetchone())
    return found._replace(price=found.price / _NANO)


def check_limits(file: Connection, account: str, limits: Limits, queries: int, cost: Units) -> None:
    """Refuse what an account may not pay: so many queries more, at a cost in the file's units.

    Within a transaction that adds it afterwards.

    Raises:
        QueryBudgetExceededError: with what was spent, what was asked for and the limit.
    """
    spent = totals(file, "account = ?", account)
    unknown = spent.in_flight + spent.lost
    for unit, scale, before, extra, most in (
        ("queries", 1, spent.paid, queries, limits.queries),
        ("bytes", 1, spent.bytes_up + spent.bytes_down, cost[0] + cost[1], limits.bytes),
        ("units of price", _NANO, round(spent.price * _NANO), cost[2], limits.price),
    ):
        limit = math.inf if most is None else round(most * scale)
        if before + extra > limit:
            told = [f"{value:,}" if scale == 1 else f"{value / scale:,.10g}" for value in (before, extra, limit)]
            lost = f" (with {unknown:,} images in flight or lost)" if unknown else ""
            raise QueryBudgetExceededError(
                f"{told[0]} {unit} have been spent{lost} and {told[1]} more were asked for, but the budget is "
                f"{told[2]}{WAY_ON}"
            )


def wrong_totals(connection: Connection) -> list[str]:
    """The totals that are not the sums of their requests and answers, one line each."""
    return [
        f"totals: account '{account}' of teacher {teacher} does not have the sums of its rows"
        for teacher, account in connection.execute(_WRONG_TOTALS)
    ]


_SUMS = ", ".join(f"sum({name}) AS sum_{name}" for name in UNITS)
_WRONG_TOTALS = f"""
SELECT teacher, account FROM tallies LEFT JOIN (
    SELECT teacher, account, {_SUMS},
        sum(queries * (state = 'answered')) AS answered, sum(queries * (state = 'in flight')) AS flying,
        sum(queries * (state = 'lost')) AS gone
    FROM requests GROUP BY teacher, account
) USING (teacher, account) LEFT JOIN (
    SELECT requests.teacher, account, count(*) AS kept FROM answers JOIN requests ON requests.id = request
    WHERE answers.teacher = requests.teacher AND answers.answer != X'' GROUP BY requests.teacher, account
) USING (teacher, account)
WHERE "unique" != coalesce(kept, 0) OR "unique" + twice != coalesce(answered, 0) OR in_flight != coalesce(flying, 0)
    OR lost != coalesce(gone, 0) OR {" OR ".join(f"{name} != coalesce(sum_{name}, 0)" for name in UNITS)}
"""
