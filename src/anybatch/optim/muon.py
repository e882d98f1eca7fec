"""Muon for the matrices of hidden layers, AdamW for everything else: one optimizer."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

_BETAS = (0.9, 0.999)


class MuonAdamW(Optimizer):
    """`torch.optim.Muon` for the groups whose "optimizer" is "muon", `torch.optim.AdamW` for those with "adamw".

    One learning rate serves both: Muon's step is scaled to the root mean square of AdamW's ("match_rms_adamw").

    Args:
        params: groups with the key "optimizer", such as `muon_groups` gives.
        lr, weight_decay: as in AdamW; a group may override them.
        momentum, nesterov: Muon's.
        betas, eps: AdamW's.

    State: momentum_buffer of Muon's parameters; exp_avg, exp_avg_sq and step of AdamW's.

    Raises:
        ValueError: a group names another optimizer or none, or a Muon group holds a parameter that is no matrix.

    Source: Jordan et al. 2024 (kellerjordan.github.io/posts/muon); Liu et al. 2025, arXiv 2502.16982, for the scale.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = _BETAS,
        momentum: float = 0.95,
        nesterov: bool = True,
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        groups = [dict(group) for group in params]
        for index, group in enumerate(groups):
            if group.get("optimizer") not in ("muon", "adamw"):
                raise ValueError(f"group {index}: optimizer={group.get('optimizer')!r} is not one of muon, adamw")
        own: dict[str, dict[str, Any]] = {
            "muon": {"momentum": momentum, "nesterov": nesterov, "adjust_lr_fn": "match_rms_adamw"},
            "adamw": {"betas": betas, "eps": eps},
        }
        classes = {"muon": torch.optim.Muon, "adamw": torch.optim.AdamW}
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})
        self._by_name: dict[str, Optimizer] = {}
        for name, make in classes.items():
            mine = [group for group in self.param_groups if group["optimizer"] == name]
            if not mine:
                continue
            # The constructor gets the dictionaries themselves, checks them and fills in what they lack.
            self._by_name[name] = make(mine, lr=lr, weight_decay=weight_decay, **own[name])
            for group, filled in zip(mine, self._by_name[name].param_groups, strict=True):
                group.update(filled)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes one step of both optimizers."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for name, optimizer in self._by_name.items():
            # Loading replaces groups and state, so each step uses those that this optimizer has now.
            optimizer.param_groups = [group for group in self.param_groups if group["optimizer"] == name]
            optimizer.state = self.state
            optimizer.step()
        return loss


def muon_groups(model: nn.Module, groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns `groups` of (name, parameter) pairs, each split into Muon's parameters and AdamW's.

    Muon takes the matrices of hidden layers: parameters of two dimensions that are decayed, except the weights of
    embeddings, what is tied to them, and the model's last linear layer.

    Raises:
        ValueError: the model has no such matrix.
    """
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)]
    apart = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    apart |= {linear[-1].weight} if linear else set()
    parted = []
    for group in groups:
        matrices = [pair for pair in group["params"] if pair[1].ndim == 2 and pair[1] not in apart and group["adapt"]]
        chosen = {parameter for _, parameter in matrices}
        rest = [pair for pair in group["params"] if pair[1] not in chosen]
        for name, members in (("muon", matrices), ("adamw", rest)):
            if members:
                parted.append({**group, "params": members, "optimizer": name})
    if not any(group["optimizer"] == "muon" for group in parted):
        raise ValueError("the model has no matrix of a hidden layer for Muon; choose adamw")
    return parted
