"""The commands that start a planned run."""

from anybatch.planner.cluster import Cluster
from anybatch.planner.prediction import Prediction
from anybatch.planner.workload import Workload
from anybatch.recipes.change import as_options


def commands(workload: Workload, cluster: Cluster, chosen: Prediction, settings: tuple[str, ...] = ()) -> list[str]:
    """What to type on the machine, or on each of several; none where there is no recipe, or no PyTorch launcher.

    Args:
        settings: FIELD=VALUE that the recipe was planned with.
    """
    if workload.recipe is None or cluster.name.startswith("tpu"):
        return []
    layouts = [phase.layout for phase in chosen.phases]
    # One micro-batch size and one layout serve all phases: the ones that fit everywhere.
    micro_batch_size = min(layout.micro_batch_size for layout in layouts)
    train = (
        f"anybatch train {workload.recipe} --batch-size {chosen.batch_size} "
        f"--set engine.micro_batch_size={micro_batch_size}"
    )
    if any(layout.fsdp for layout in layouts):
        train += " --set engine.parallel=fsdp"
    if any(layout.checkpointing for layout in layouts):
        train += " --set engine.activation_checkpointing=true"
    train += as_options(settings)
    train += f" --run runs/{workload.recipe}-b{chosen.batch_size}"
    if chosen.num_devices == 1:
        return [train]
    nodes = cluster.nodes(chosen.num_devices)
    if nodes == 1:
        return [f"torchrun --standalone --nproc-per-node={chosen.num_devices} -m -- {train}"]
    return [
        f"torchrun --nnodes={nodes} --nproc-per-node={cluster.devices_a_node} --node-rank=$NODE_RANK "
        f"--master-addr=$MASTER_ADDR --master-port=29500 -m -- {train}"
    ]
