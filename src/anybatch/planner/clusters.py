"""Clusters by name, and the observed shares of their peaks."""

from collections.abc import Mapping
from pathlib import Path

from anybatch import accelerators
from anybatch.accelerators import Accelerator
from anybatch.errors import InputError
from anybatch.names import nearest
from anybatch.planner.calibration import measure_this_machine
from anybatch.planner.cluster import Cluster, Link, Mfu
from anybatch.planner.cluster_file import changed, read_toml, shown

_PRICES = "specialty clouds' on-demand rates in 2026, middle of the range that mercatus-ai.com lists"
_PCIE = Link(bytes_per_s=32e9, latency_s=10e-6, efficiency=0.5)
_ETHERNET_10G = Link(bytes_per_s=0.2e9, latency_s=30e-6)
_HDR_SHARED = Link(bytes_per_s=6e9, latency_s=10e-6)

# benchmarks/planner_against_the_world.py prints the fitted shares. Submissions of BERT compute in FP8 and skip
# padding, which no run of the engine does. So its bf16 shares on Hopper are assumed from the A100's, a little lower,
# as the memory's bandwidth grew less than the speed of products; on other accelerators in proportion to the FP8
# submissions.
_MLPERF = "fitted to MLPerf Training v4.0 on one node"
_FP8 = _MLPERF + ", FP8"
_HOPPER = Mfu(0.4, "assumed for compiled bf16: the A100's 45 %, less for memory that is slower for its peak", False)
_A100 = {
    "transformer": Mfu(0.45, "NVIDIA DeepLearningExamples, BERT-large in fp16 on one card"),
    "convolution": Mfu(0.193, "NVIDIA DeepLearningExamples, ResNet-50 in fp16 on one card"),
}
_TPU_V3 = {
    "transformer": Mfu(0.345, "fitted to the LAMB paper's rows on 16 to 64 chips"),
    "convolution": Mfu(0.2, "assumed", measured=False),
}
_H100 = {"transformer": _HOPPER, "transformer-fp8": Mfu(0.282, _FP8), "convolution": Mfu(0.196, _MLPERF)}
_H200 = {
    "transformer": _HOPPER,
    "transformer-fp8": Mfu(0.284, "MLPerf Training v4.0, BERT on one node of eight: 7,990 sequences/s, FP8"),
    "convolution": Mfu(0.216, _MLPERF),
}
_H100_PCIE = {
    "transformer": Mfu(0.25, "assumed: the H100-SXM's, in proportion to their FP8 submissions", measured=False),
    "transformer-fp8": Mfu(0.177, _FP8),
    "convolution": Mfu(0.166, _MLPERF),
}
_L40S = {"transformer": Mfu(0.202, _MLPERF + ", whose precision is not published"), "convolution": Mfu(0.1365, _MLPERF)}
_RTX_4090 = {
    "transformer": Mfu(0.4, "assumed: a little below the L40S, which has the same chip", measured=False),
    "convolution": Mfu(0.16, _MLPERF + ", tinygrad"),
}
_RX_7900_XTX = {
    "transformer": Mfu(0.2, "assumed", measured=False),
    "convolution": Mfu(0.156, _MLPERF + ", tinygrad"),
}


# 340 TB/s of all-reduce bandwidth a pod of 1,024 chips (cloud.google.com/tpu/docs/v3). A step's all-reduce follows its
# backward pass. The jitter is fitted with the share, to the paper's rows of up to 64 chips.
_TORUS = Link(bytes_per_s=332e9, latency_s=2e-6, topology="torus")
_TPU_V3_POD = Cluster(
    name="tpu-v3-pod",
    title="TPUv3 pod, a two-dimensional torus of up to 1,024 chips",
    accelerator=accelerators.TPU_V3,
    devices_a_node=1024,
    most_devices=1024,
    inside=_TORUS,
    between=_TORUS,
    mfu=_TPU_V3,
    overlap=0.0,
    jitter=0.06,
    host_bytes_per_s=1e12,
)


def _nvlink_node(
    name: str,
    accelerator: Accelerator,
    mfu: Mapping[str, Mfu],
    nvlink: float,
    network: float,
    price: float,
) -> Cluster:
    return Cluster(
        name=name,
        title=f"nodes of 8 {accelerator.name}, NVLink inside, one InfiniBand link a device between",
        accelerator=accelerator,
        devices_a_node=8,
        most_devices=16_384,
        inside=Link(bytes_per_s=nvlink, latency_s=3e-6),
        between=Link(bytes_per_s=network, latency_s=10e-6),
        mfu=mfu,
        price=price,
        price_source=_PRICES,
    )


def _pcie_node(
    name: str, accelerator: Accelerator, mfu: Mapping[str, Mfu], devices: int, between: Link, most_nodes: int
) -> Cluster:
    return Cluster(
        name=name,
        title=f"nodes of {devices} {accelerator.name} on PCIe",
        accelerator=accelerator,
        devices_a_node=devices,
        most_devices=devices * most_nodes,
        inside=_PCIE,
        between=between,
        mfu=mfu,
    )


CLUSTERS: dict[str, Cluster] = {
    cluster.name: cluster
    for cluster in (
        _TPU_V3_POD,
        _nvlink_node("a100-node", accelerators.A100, _A100, 300e9, 25e9, 1.3),
        _nvlink_node("h100-node", accelerators.H100, _H100, 450e9, 50e9, 3.0),
        _nvlink_node("h200-node", accelerators.H200, _H200, 450e9, 50e9, 4.0),
        _pcie_node("h100-pcie-node", accelerators.H100_PCIE, _H100_PCIE, 8, _HDR_SHARED, 128),
        _pcie_node("l40s-node", accelerators.L40S, _L40S, 8, _HDR_SHARED, 128),
        _pcie_node("rtx4090-box", accelerators.RTX_4090, _RTX_4090, 6, _ETHERNET_10G, 8),
        _pcie_node("rx7900xtx-box", accelerators.RX_7900_XTX, _RX_7900_XTX, 6, _ETHERNET_10G, 8),
    )
}
NAMES = (*CLUSTERS, "this-machine")


def find_cluster(name: str) -> Cluster:
    """Returns the cluster called `name`, or the one that a TOML file of this name describes by differences.

    Raises:
        InputError: there is none, with the nearest names or all names; or a fault in the file.
    """
    if name.endswith(".toml"):
        values = read_toml(Path(name))
        like = values.pop("like", None)
        # Another file could lead back to this one.
        if not isinstance(like, str) or like.endswith(".toml"):
            raise InputError(f"{name}: like = {shown(like)}: name the cluster that it starts from, {', '.join(NAMES)}")
        return changed(find_cluster(like), values, Path(name))
    if name == "this-machine":
        return measure_this_machine()
    if name not in CLUSTERS:
        raise InputError(f"no cluster is called {shown(name)}; nearest: {nearest(name, NAMES)}")
    return CLUSTERS[name]
