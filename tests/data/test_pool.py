"""Results in order, failures in order, and no process left behind."""

import os
import time
from collections.abc import Iterator

import pytest

from anybatch.data.pool import map_in_order
from anybatch.errors import InputError


def slow_for_the_first(number: int) -> tuple[int, int]:
    time.sleep(0.2 if number == 0 else 0)
    return number, os.getpid()


def fail_at_five(number: int) -> int:
    if number == 5:
        raise InputError("number 5")
    return number


def die_at_five(number: int) -> int:
    if number == 5:
        os._exit(1)
    return number


@pytest.mark.parametrize("processes", [1, 3])
def test_results_come_in_order_and_few_items_are_taken_ahead(processes: int) -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 40:
            taken += 1
            yield taken - 1

    for place, (number, process) in enumerate(map_in_order(slow_for_the_first, items(), processes)):
        assert number == place
        assert (process == os.getpid()) == (processes == 1)
        assert taken <= place + 2 * processes + 2
    assert taken == 40


def test_of_large_items_few_are_under_way() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(12):
            taken += 1
            yield number

    for place, _ in enumerate(map_in_order(slow_for_the_first, items(), 4, lambda number: 50 << 20)):
        assert taken <= place + 1 + 2 + 1, "two of 50 MiB are under way, and one more is at hand"
    # Larger than all that may be under way, one goes alone.
    assert [number for number, _ in map_in_order(slow_for_the_first, range(3), 2, lambda number: 1 << 30)] == [0, 1, 2]


@pytest.mark.parametrize("processes", [1, 2])
def test_the_first_failure_is_raised_after_what_came_before(processes: int) -> None:
    results = map_in_order(fail_at_five, iter(range(20)), processes)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="number 5"):
        next(results)


def test_a_killed_process_is_named() -> None:
    with pytest.raises(ChildProcessError, match="a worker process was killed"):
        list(map_in_order(die_at_five, iter(range(20)), 2))
