"""How much changes with the batch: learning rate, warm-up, steps. Pure functions, without torch or NumPy."""

from anybatch.scaling.rules import Reference, Scaled, linear, square_root
from anybatch.scaling.schedule import schedule

__all__ = ["Reference", "Scaled", "linear", "schedule", "square_root"]
