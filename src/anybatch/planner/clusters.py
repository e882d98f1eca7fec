"""Clusters by name."""

import difflib
from collections.abc import Callable
from pathlib import Path

from anybatch.errors import InputError
from anybatch.planner import accelerators
from anybatch.planner.accelerators import Accelerator
from anybatch.planner.cluster import Cluster
from anybatch.planner.cluster_file import changed, read_toml, shown
from anybatch.planner.collectives import Link
from anybatch.planner.measure import measure_this_machine

_PRICES = "specialty clouds' on-demand rates in 2026, middle of the range that mercatus-ai.com lists"
_PCIE = Link(bytes_per_s=32e9, latency_s=10e-6, achieved=0.5)
_ETHERNET_10G = Link(bytes_per_s=0.2e9, latency_s=30e-6)


def _tpu_v3_pod() -> Cluster:
    # 340 TB/s of all-reduce bandwidth a pod of 1,024 chips (cloud.google.com/tpu/docs/v3). A step's all-reduce
    # follows its backward pass. The jitter is fitted with the achieved share, to the paper's rows of up to 64 chips.
    torus = Link(bytes_per_s=332e9, latency_s=2e-6, topology="torus")
    return Cluster(
        name="tpu-v3-pod",
        title="TPUv3 pod, a two-dimensional torus of up to 1,024 chips",
        accelerator=accelerators.TPU_V3,
        devices_a_node=1024,
        most_devices=1024,
        inside=torus,
        between=torus,
        overlap=0.0,
        jitter=0.06,
        host_bytes_per_s=1e12,
    )


def _nvlink_node(
    name: str, accelerator: Accelerator, nvlink: float, network: float, price: float | None = None
) -> Cluster:
    return Cluster(
        name=name,
        title=f"nodes of 8 {accelerator.name}, NVLink inside, one InfiniBand link a device between",
        accelerator=accelerator,
        devices_a_node=8,
        most_devices=16_384,
        inside=Link(bytes_per_s=nvlink, latency_s=3e-6),
        between=Link(bytes_per_s=network, latency_s=10e-6),
        price=price,
        price_source=_PRICES if price else "",
    )


def _pcie_node(name: str, accelerator: Accelerator, devices: int, between: Link, most_nodes: int) -> Cluster:
    return Cluster(
        name=name,
        title=f"nodes of {devices} {accelerator.name} on PCIe",
        accelerator=accelerator,
        devices_a_node=devices,
        most_devices=devices * most_nodes,
        inside=_PCIE,
        between=between,
    )


_HDR_SHARED = Link(bytes_per_s=6e9, latency_s=10e-6)

CLUSTERS: dict[str, Callable[[], Cluster]] = {
    "tpu-v3-pod": _tpu_v3_pod,
    "a100-node": lambda: _nvlink_node("a100-node", accelerators.A100, 300e9, 25e9, price=1.3),
    "h100-node": lambda: _nvlink_node("h100-node", accelerators.H100, 450e9, 50e9, price=3.0),
    "h200-node": lambda: _nvlink_node("h200-node", accelerators.H200, 450e9, 50e9, price=4.0),
    "h100-pcie-node": lambda: _pcie_node("h100-pcie-node", accelerators.H100_PCIE, 8, _HDR_SHARED, 128),
    "l40s-node": lambda: _pcie_node("l40s-node", accelerators.L40S, 8, _HDR_SHARED, 128),
    "rtx4090-box": lambda: _pcie_node("rtx4090-box", accelerators.RTX_4090, 6, _ETHERNET_10G, 8),
    "rx7900xtx-box": lambda: _pcie_node("rx7900xtx-box", accelerators.RX_7900_XTX, 6, _ETHERNET_10G, 8),
    "this-machine": measure_this_machine,
}


def find_cluster(name: str) -> Cluster:
    """The cluster called `name`, or that a TOML file of this name describes by how it differs from one of them.

    Raises:
        InputError: there is none, with the nearest names or all; or what is wrong with the file.
    """
    if name.endswith(".toml"):
        values = read_toml(Path(name))
        like = values.pop("like", None)
        # Another file could lead back to this one.
        if not isinstance(like, str) or like.endswith(".toml"):
            raise InputError(
                f"{name}: like = {shown(like)}: name the cluster that it starts from, {', '.join(CLUSTERS)}"
            )
        return changed(find_cluster(like), values, Path(name))
    if name not in CLUSTERS:
        near = difflib.get_close_matches(name, CLUSTERS, n=3, cutoff=0.4) or list(CLUSTERS)
        raise InputError(f"no cluster is called {shown(name)}; nearest: {', '.join(near)}")
    return CLUSTERS[name]()
