"""A run over two hosts: two network namespaces that a virtual cable joins, with torchrun in each."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from anybatch.data.prepare import prepare
from anybatch.recipes import change, find_recipe, train_recipe
from anybatch.runs import Run

pytestmark = pytest.mark.slow

TEXT = " ".join("one two three four five six seven eight nine ten." for _ in range(8))


@pytest.fixture
def hosts() -> Iterator[list[tuple[str, str, str]]]:
    """(namespace, network interface, address) of two hosts."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need iproute2's ip")
    number = os.getpid()
    found = [
        (f"anybatch{number}{side}", f"ab{number}{side}", f"10.213.7.{place}") for place, side in ((1, "a"), (2, "b"))
    ]
    cable = ["ip", "link", "add", found[0][1], "type", "veth", "peer", "name", found[1][1]]
    try:
        for space, _, _ in found:
            made = subprocess.run(["ip", "netns", "add", space], capture_output=True, text=True, check=False)
            if made.returncode:
                pytest.skip(f"network namespaces cannot be made here: {made.stderr.strip()}")
        made = subprocess.run(cable, capture_output=True, text=True, check=False)
        if made.returncode:
            pytest.skip(f"virtual cables cannot be made here: {made.stderr.strip()}")
        for space, interface, address in found:
            for command in (
                ["ip", "link", "set", interface, "netns", space],
                ["ip", "-n", space, "addr", "add", f"{address}/24", "dev", interface],
                ["ip", "-n", space, "link", "set", interface, "up"],
                ["ip", "-n", space, "link", "set", "lo", "up"],
            ):
                subprocess.run(command, check=True, capture_output=True)
        yield found
    finally:
        for space, _, _ in found:
            subprocess.run(["ip", "netns", "delete", space], capture_output=True, check=False)


def test_two_hosts_train_the_model_of_one(hosts: list[tuple[str, str, str]], tmp_path: Path) -> None:
    prepare(lambda: [TEXT for n in range(80)], tmp_path / "shards", vocabulary_size=300)
    settings = [f"data.path={tmp_path / 'shards'}", "reference.num_examples=150", "phases.0.batch_size=15",
                "engine.num_evals=1", "data.num_held_out=16", "engine.parallel=fsdp"]  # fmt: skip
    train = ["train", "bert-demo", f"--run={tmp_path / 'two'}", *(f"--set={setting}" for setting in settings)]
    ranks = []
    for number, (space, interface, _) in enumerate(hosts):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1",
                    f"--node-rank={number}", f"--master-addr={hosts[0][2]}", "--master-port=29507"]  # fmt: skip
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": interface, "OMP_NUM_THREADS": "1"}
        command = ["timeout", "-k", "5", "200", "ip", "netns", "exec", space, *torchrun, "-m", "--", "anybatch", *train]
        ranks.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=tmp_path
            )
        )
    try:
        printed = [rank.communicate(timeout=220)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], printed
    two = Run(tmp_path / "two")
    assert json.loads(two.status_file.read_text())["outcome"] == "finished"
    assert two.metrics("start")[0]["ranks"] == 2

    train_recipe(change(find_recipe("bert-demo"), [*settings[:-1], "engine.parallel=auto"]), tmp_path / "one")
    one = Run(tmp_path / "one")
    found, expected = (
        np.concatenate([value.ravel() for _, value in sorted(load_file(run.model / "model.safetensors").items())])
        for run in (two, one)
    )
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 1e-5
    checksums = [[event["examples_checksum"] for event in run.metrics("train")] for run in (two, one)]
    assert checksums[0] == checksums[1]
