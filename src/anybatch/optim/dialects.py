"""Named presets that reproduce other implementations exactly."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from anybatch.optim.lamb import LAMB
from anybatch.optim.lars import LARS


@dataclass(frozen=True)
class Dialect:
    """Keywords of ours with which a step is that of another implementation.

    Attributes:
        name: the name given to `dialect`.
        keywords: everything that the optimizer needs besides params and lr.
        adapts_undecayed: whether a group without weight decay has trust ratios; if not, it takes the base step.
        source: the code that was read or run.
    """

    name: str
    keywords: dict[str, Any]
    adapts_undecayed: bool
    source: str

    def groups(self, params: Iterable[Any]) -> list[dict[str, Any]]:
        """Returns the parameters as groups whose `adapt` is set as that implementation adapts them.

        Args:
            params: parameters, (name, parameter) pairs, or groups of either, as an optimizer takes them. A group
                without `weight_decay` has that of `keywords`. The groups passed in are not changed.
        """
        items = list(params)
        groups = items if items and isinstance(items[0], dict) else [{"params": items}]
        default = self.keywords.get("weight_decay", 0.0)
        return [
            {**group, "adapt": self.adapts_undecayed or group.get("weight_decay", default) != 0} for group in groups
        ]


_ADAM = {"betas": (0.9, 0.999), "eps": 1e-6, "bias_correction": True, "max_grad_norm": None}
_SGD = {"momentum": 0.9, "trust_coefficient": 0.001, "joint_norm": False, "eps": 0.0, "nesterov": False}

_DIALECTS: dict[type, tuple[Dialect, ...]] = {
    LAMB: (
        Dialect("paper", {**_ADAM, "weight_decay": 0.01}, True, "You et al. 2020, Algorithm 2"),
        Dialect(
            "apex",
            {**_ADAM, "weight_decay": 0.01, "max_grad_norm": 1.0},
            False,
            "apex.optimizers.FusedLAMB, with its use_nvlamb=False",
        ),
        Dialect("timm", {**_ADAM, "weight_decay": 0.01, "max_grad_norm": 1.0}, False, "timm.optim.Lamb 1.0.31"),
        Dialect("optax", {**_ADAM, "weight_decay": 0.0}, True, "optax.lamb 0.2.8"),
        Dialect(
            "nvidia-bert",
            {**_ADAM, "weight_decay": 0.01, "max_grad_norm": 1.0, "nonfinite": "skip"},
            False,
            "NVIDIA DeepLearningExamples, PyTorch/LanguageModeling/BERT, FusedLAMBAMP",
        ),
        Dialect(
            "resnet-author",
            {**_ADAM, "weight_decay": 1.5, "bias_correction": False, "max_grad_norm": 1.0},
            False,
            "fastalgo/imagenet_resnet50_lamb, optimization.py and run.sh",
        ),
    ),
    LARS: (
        Dialect("lamb-paper", {"form": "lamb-paper", "momentum": 0.9}, True, "You et al. 2020, Algorithm 1"),
        Dialect(
            "lars-2017",
            {**_SGD, "form": "lars-2017", "weight_decay": 0.0005},
            True,
            "You et al. 2017, Algorithm 1, and the authors' code in NVCaffe",
        ),
        Dialect(
            "optax", {**_SGD, "form": "lars-2017", "weight_decay": 0.0, "joint_norm": True}, True, "optax.lars 0.2.8"
        ),
        Dialect(
            "timm",
            {**_SGD, "form": "lr-outside", "weight_decay": 0.0, "momentum": 0.0, "eps": 1e-8},
            False,
            "timm.optim.Lars 1.0.31",
        ),
    ),
}


def dialect(name: str, optimizer: type[LAMB] | type[LARS], **overrides: Any) -> Dialect:
    """Returns the keywords and the treatment of groups with which `optimizer` does what another implementation does.

    Defaults are those of the other implementation, so its users set here only what they set there.

    Args:
        name: for LAMB "paper", "apex", "timm", "optax", "nvidia-bert", "resnet-author"; for LARS "lamb-paper",
            "lars-2017", "optax", "timm".
        optimizer: the class LAMB or LARS.
        overrides: keywords that replace the dialect's, such as weight_decay=0.02.

    Raises:
        ValueError: no dialect of that name, or an optimizer that has none.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(4, 2)
        >>> timm = dialect("timm", LAMB, weight_decay=0.02)
        >>> groups = [
        ...     {"params": [model.weight]},
        ...     {"params": [model.bias], "weight_decay": 0.0},
        ... ]
        >>> optimizer = LAMB(timm.groups(groups), lr=5e-3, **timm.keywords)
        >>> [group["adapt"] for group in optimizer.param_groups]
        [True, False]
        >>> optimizer.max_grad_norm
        1.0
    """
    if optimizer not in _DIALECTS:
        known = " and ".join(cls.__name__ for cls in _DIALECTS)
        raise ValueError(f"optimizer={optimizer!r} has no dialects; {known} have")
    for each in _DIALECTS[optimizer]:
        if each.name == name:
            return Dialect(each.name, {**each.keywords, **overrides}, each.adapts_undecayed, each.source)
    known = ", ".join(repr(each.name) for each in _DIALECTS[optimizer])
    raise ValueError(f"name={name!r} is not a dialect of {optimizer.__name__}, which are {known}")
