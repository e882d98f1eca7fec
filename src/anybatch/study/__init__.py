"""What we found: comparisons of optimizers over batch sizes, at equal tuning budgets, and the theory, measured."""

from anybatch.study.declaration import Entrant, Outcome, Study, Trial

__all__ = ["Entrant", "Outcome", "Study", "Trial"]
