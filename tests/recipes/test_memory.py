"""What a step frees serves the next one."""

import platform
import subprocess
import sys

import pytest

ROUNDS = """
import resource
import torch
from anybatch.recipes.memory import keep_freed_memory

if {keep}:
    keep_freed_memory()
for number in range(12):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensors = [torch.ones(5_000_000) for _ in range(4)]
    del tensors
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_freed_memory_is_not_mapped_again() -> None:
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", ROUNDS.format(keep=keep)], capture_output=True, check=True).stdout)
        for keep in (True, False)
    )
    # 10 rounds of 80 MB are 195,000 pages, or 400 where pages are huge.
    assert kept < 2_000
    assert kept < given_back / 2
