"""Time on the device and on the host apart, kernels by name, and the places where the host waits for the device."""

import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

# Longer than the host takes to launch what is timed: some 10 ms.
SLEEP_CYCLES = 20_000_000


def settle(device: torch.device) -> None:
    """Waits for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_ms(call: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds between the first and the last kernel of `call`; on a CPU, of `call`.

    The device sleeps until the host has launched everything, so that Python is not timed.
    """
    if device.type != "cuda":
        return host_ms(call, device)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    settle(device)
    torch.cuda._sleep(SLEEP_CYCLES)
    start.record()
    call()
    end.record()
    settle(device)
    return start.elapsed_time(end)


def host_ms(call: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds until `call` returns, on an idle device; a call that waits for the device includes that."""
    settle(device)
    started = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - started)


def whole_ms(call: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds until the device has done what `call` launched, on an idle device."""
    settle(device)
    started = time.perf_counter()
    call()
    settle(device)
    return 1e3 * (time.perf_counter() - started)


def median_ms(clock: Callable[..., float], call: Callable[[], Any], device: torch.device, samples: int) -> float:
    """The median of `samples`, after one that does not count."""
    clock(call, device)
    return statistics.median(clock(call, device) for _ in range(samples))


def kernels(call: Callable[[], Any], device: torch.device) -> list[tuple[str, float]]:
    """Each kernel that `call` launches, with its microseconds, in order; on a CPU each of torch's operations."""
    from torch.profiler import ProfilerActivity, profile

    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    settle(device)
    with profile(activities=[activity], acc_events=True) as watched:
        call()
        settle(device)
    kind = torch.autograd.DeviceType.CUDA if device.type == "cuda" else torch.autograd.DeviceType.CPU
    found = [event for event in watched.events() if event.device_type == kind]
    return [(event.name, event.time_range.elapsed_us()) for event in found if not event.name.startswith("Mem")]


def syncs(call: Callable[[], Any], device: torch.device) -> Counter[str]:
    """How often the host waits for the device in `call`, by the line that does; nothing on a CPU."""
    if device.type != "cuda":
        call()
        return Counter()
    settle(device)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waits = [message for message in heard if "called a synchronizing" in str(message.message)]
    return Counter("/".join(Path(message.filename).parts[-2:]) + f":{message.lineno}" for message in waits)
