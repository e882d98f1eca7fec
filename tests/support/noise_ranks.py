"""Two ranks, and four, that measure one noise scale; run by test_meter.py as: noise_ranks.py FOLDER."""

import json
import multiprocessing
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from anybatch import LAMB, GradientNoiseScale
from support.noise_problems import DIMENSION, LinearRegression, measure


def main(rank: int, size: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{size}", rank=rank, world_size=size)
    found = {"ddp": measure(DistributedDataParallel(LinearRegression(DIMENSION)), rank, size, 1)}
    sharded = LinearRegression(DIMENSION)
    fully_shard(sharded, mesh=init_device_mesh("cpu", (size,)))
    found["fsdp"] = measure(sharded, rank, size, 4)
    found["preconditioned"] = preconditioned(rank, size)
    if rank == 0:
        (folder / f"found-{size}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


def preconditioned(rank: int, size: int) -> list[float]:
    """Both noise scales of a sharded model under LAMB at a rate of 0, with all entries of v alike."""
    model = LinearRegression(DIMENSION)
    fully_shard(model, mesh=init_device_mesh("cpu", (size,)))
    optimizer = LAMB(model.named_parameters(), lr=0.0)
    noise = GradientNoiseScale(model, optimizer)
    random = torch.Generator().manual_seed(rank)
    for _ in range(20):
        for _ in range(2):
            (model(8, random) * size).backward()
            noise.micro_batch(8)
        noise.step()
        optimizer.step()
        optimizer.state[model.weight]["exp_avg_sq"].fill_(1.0)
        optimizer.zero_grad()
    return [noise.estimate().value, noise.estimate(preconditioned=True).value]


if __name__ == "__main__":
    # An orderly exit ends the daemons, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Forked after torch is imported, which is most of what a rank costs.
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=main, args=(rank, size, Path(sys.argv[1])), daemon=True)
        for size in (2, 4)
        for rank in range(size)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(max(abs(process.exitcode) for process in ranks))
