"""Parameter groups made by others, with the settings that a layer-wise optimizer needs."""

from collections.abc import Iterable
from typing import Any

from torch import nn


def adapting(params: Iterable[Any]) -> list[dict[str, Any]]:
    """Returns groups that adapt matrices, and not parameters of fewer than two dimensions, as `param_groups` does.

    Groups that have `adapt` do not change, nor does any other key of a group.

    Args:
        params: parameters, (name, parameter) pairs, or groups of either.
    """
    given = list(params)
    groups = given if given and isinstance(given[0], dict) else [{"params": given}]
    found: list[dict[str, Any]] = []
    for group in groups:
        if "adapt" in group:
            found.append(group)
            continue
        members = [group["params"]] if isinstance(group["params"], nn.Parameter) else list(group["params"])
        for adapt in (True, False):
            part = [each for each in members if (_parameter(each).ndim >= 2) == adapt]
            if part:
                found.append({**group, "params": part, "adapt": adapt})
    return found


def _parameter(member: Any) -> nn.Parameter:
    return member[1] if isinstance(member, tuple) else member  # type: ignore[no-any-return]
