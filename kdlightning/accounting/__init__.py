"""What is counted, paid and kept: meter, journal, ledger, limits. Knows no teacher."""

from kdlightning.accounting.accounts import Limits
from kdlightning.accounting.journal import AnswerJournal
from kdlightning.accounting.ledger import QueryLedger
from kdlightning.accounting.meter import QueryBudgetExceededError, QueryMeter
from kdlightning.accounting.terms import Terms

__all__ = ["AnswerJournal", "Limits", "QueryBudgetExceededError", "QueryLedger", "QueryMeter", "Terms"]
