"""Methods that others are compared with, each a file with its own paper's reference and honest differences."""

from kdlightning.methods.baselines.activemixup import ActiveMixup
from kdlightning.methods.baselines.al import AL
from kdlightning.methods.baselines.can import CAN
from kdlightning.methods.baselines.cdl import CDL
from kdlightning.methods.baselines.dafl import DAFL
from kdlightning.methods.baselines.dfnd import DFND
from kdlightning.methods.baselines.dkd import DKD
from kdlightning.methods.baselines.knockoff import KnockoffSelection
from kdlightning.methods.baselines.ml import ML

__all__ = ["AL", "CAN", "CDL", "DAFL", "DFND", "DKD", "ML", "ActiveMixup", "KnockoffSelection"]
