"""How a run runs: the loop, its checkpoints and its records; knows neither BERT nor LAMB."""

from anybatch.engine.checkpoint import load_newest
from anybatch.engine.evaluate import Evaluation, evaluate
from anybatch.engine.execution import Execution, Fsdp
from anybatch.engine.interruption import stop_requests
from anybatch.engine.job import Batch, Examples, Job, Phase
from anybatch.engine.loop import train
from anybatch.engine.ranks import Ranks, join_ranks
from anybatch.engine.supervisor import supervise
from anybatch.progress import Progress, SilentProgress, Task, progress_display

__all__ = [
    "Batch",
    "Evaluation",
    "Examples",
    "Execution",
    "Fsdp",
    "Job",
    "Phase",
    "Progress",
    "Ranks",
    "SilentProgress",
    "Task",
    "evaluate",
    "join_ranks",
    "load_newest",
    "progress_display",
    "stop_requests",
    "supervise",
    "train",
]
