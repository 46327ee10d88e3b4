"""What is counted, paid and kept: meter, journal, ledger, limits, locks. Knows no teacher."""

from kdlightning.accounting.accounts import Budget, Limits
from kdlightning.accounting.journal import AnswerJournal
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.accounting.lock import DirectoryInUseError, DirectoryLock
from kdlightning.accounting.meter import QueryBudgetExceededError, QueryMeter
from kdlightning.accounting.pace import Pace
from kdlightning.accounting.tariff import Tariff
from kdlightning.accounting.terms import Terms

__all__ = [
    "AnswerJournal",
    "Budget",
    "DirectoryInUseError",
    "DirectoryLock",
    "Limits",
    "Pace",
    "QueryBudgetExceededError",
    "QueryLedger",
    "QueryMeter",
    "Tariff",
    "Terms",
]
