"""What a step frees stays with the process."""

import platform
import subprocess
import sys

import pytest

FREED = """
import os
import torch
from anybatch.recipes.freed_memory import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

if {keep}:
    keep_freed_memory()
before = resident()
tensors = [torch.ones(5_000_000) for _ in range(4)]
del tensors
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_freed_memory_is_kept() -> None:
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FREED.format(keep=keep)], capture_output=True, check=True).stdout)
        for keep in (True, False)
    )
    # The tensors are 80 MB.
    assert kept > 60e6 > given_back
