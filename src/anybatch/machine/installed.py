"""Which of the packages that matter to a step are installed, and in which version."""

from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("anybatch", "torch", "numpy", "triton", "timm", "pytorch_optimizer", "optax", "jax")


def versions() -> dict[str, str | None]:
    """Of each package, its version, or None where it is not installed."""
    return {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
