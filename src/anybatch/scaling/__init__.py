"""How much changes with the batch: learning rate, warm-up, steps, and which batch is worth it.

Pure functions, and the one class that looks at gradients.
"""

from anybatch.scaling.meter import GradientNoiseScale
from anybatch.scaling.noise import NoiseScale, examples_at, noise_scale, split_norms
from anybatch.scaling.rules import Reference, Scaled, linear, square_root
from anybatch.scaling.schedule import schedule

__all__ = [
    "GradientNoiseScale",
    "NoiseScale",
    "Reference",
    "Scaled",
    "examples_at",
    "linear",
    "noise_scale",
    "schedule",
    "split_norms",
    "square_root",
]
