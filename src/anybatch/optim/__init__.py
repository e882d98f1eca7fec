"""How a step is taken: LAMB, LARS, and the paper's strategy over any optimizer. Torch tensors only."""

from anybatch.optim.dialects import Dialect, dialect
from anybatch.optim.groups import param_groups
from anybatch.optim.lamb import LAMB
from anybatch.optim.lars import LARS
from anybatch.optim.layerwise import Layerwise
from anybatch.optim.strategy import TrustRatio

__all__ = ["LAMB", "LARS", "Dialect", "Layerwise", "TrustRatio", "dialect", "param_groups"]
