"""anybatch: batch size is a hardware decision, not a hyperparameter."""

from anybatch.optim import LAMB, LARS, Layerwise, param_groups
from anybatch.scaling import GradientNoiseScale, Reference, schedule

__all__ = ["LAMB", "LARS", "GradientNoiseScale", "Layerwise", "Reference", "param_groups", "schedule"]
