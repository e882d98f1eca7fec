"""Which packages are installed: those that matter to a step, and those that the extras bring."""

import re
from importlib.metadata import PackageNotFoundError, requires

from anybatch.environment import version_of

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+).*extra == ['\"]([a-z]+)['\"]")

PACKAGES = ("anybatch", "torch", "numpy", "triton", "timm", "pytorch_optimizer", "optax", "jax")


def versions() -> dict[str, str | None]:
    """Of each package, its version, or None where it is not installed."""
    return {name: version_of(name) for name in PACKAGES}


def missing() -> dict[str, list[str]]:
    """Of each extra of the package, what of it is not installed; nothing where the package itself is not installed."""
    try:
        declared = requires("anybatch") or []
    except PackageNotFoundError:
        return {}
    found: dict[str, list[str]] = {}
    for match in filter(None, map(_REQUIREMENT.match, declared)):
        package, extra = match.groups()
        found.setdefault(extra, []).extend([] if version_of(package) else [package])
    return found
