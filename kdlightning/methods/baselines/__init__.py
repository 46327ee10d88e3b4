"""Methods that others are compared with, each a file with its own paper's reference and honest differences."""

from kdlightning.methods.baselines.activemixup import ActiveMixup
from kdlightning.methods.baselines.knockoff import KnockoffSelection

__all__ = ["ActiveMixup", "KnockoffSelection"]
