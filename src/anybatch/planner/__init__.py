"""What it would cost elsewhere: clusters, step time, memory, examples to target."""

from anybatch.planner.cluster import Cluster
from anybatch.planner.clusters import CLUSTERS, find_cluster
from anybatch.planner.prediction import Prediction, predict
from anybatch.planner.published import PUBLISHED
from anybatch.planner.workload import Workload, workload_of

__all__ = ["CLUSTERS", "PUBLISHED", "Cluster", "Prediction", "Workload", "find_cluster", "predict", "workload_of"]
