"""anybatch in other people's training loops: one thin file a library, imported only with that library.

trainer.py       Hugging Face Trainer: arguments from a reference, the optimizer, trust ratios and noise in its log
lightning.py     Lightning: the same for a module's configure_optimizers, and a callback
accelerate.py    Accelerate: batch and schedule of a loop of one's own, and what to log
timm.py          names for timm's create_optimizer_v2
torchtitan.py    an optimizer entry for torchtitan's configuration
trackers.py      Weights & Biases, MLflow and TensorBoard for `anybatch train --track`
settings.py      rate, warm-up and optimizer from a reference, and how they are logged
checks.py        what is said of a run, held to what runs
watching.py      what all of them log: trust ratios and the gradient noise scale of a loop that is not ours
"""
