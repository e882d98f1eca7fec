"""What it would cost elsewhere: clusters, step time, memory, examples to target."""

from anybatch.planner.cluster import Cluster
from anybatch.planner.clusters import CLUSTERS, find_cluster
from anybatch.planner.named import NAMED
from anybatch.planner.prediction import Prediction, predict
from anybatch.planner.workload import Workload

__all__ = ["CLUSTERS", "NAMED", "Cluster", "Prediction", "Workload", "find_cluster", "predict"]
