"""How much changes with the batch: learning rate, warm-up, steps, and which batch is worth it.

Pure functions, and one class that reads gradients.
"""

from anybatch.scaling.meter import GradientNoiseScale
from anybatch.scaling.noise import NoiseScale, examples_at, noise_scale, split_norms
from anybatch.scaling.presets import Rule, half_life_rule, linear, linear_rule, sde_rule, sqrt_rule, square_root
from anybatch.scaling.rules import Reference, Scaled
from anybatch.scaling.schedule import schedule

__all__ = [
    "GradientNoiseScale",
    "NoiseScale",
    "Reference",
    "Rule",
    "Scaled",
    "examples_at",
    "half_life_rule",
    "linear",
    "linear_rule",
    "noise_scale",
    "schedule",
    "sde_rule",
    "split_norms",
    "sqrt_rule",
    "square_root",
]
