"""Compiles the fused CPU kernels where a compiler is at hand; the rest is in pyproject.toml.

Without one the package installs all the same, and its optimizers take the plain path: `_cpu.failed` says why.
"""

import hashlib
from pathlib import Path
from textwrap import shorten

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

KERNELS = Path("src/anybatch/optim/kernels")
FLAGS = ["-std=gnu11", "-O3", "-fno-fast-math", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]


class BuildKernels(build_ext):
    """Tries once, and writes down what went wrong."""

    def build_extension(self, ext: Extension) -> None:
        failed = self._failed()
        try:
            super().build_extension(ext)
            failed.unlink(missing_ok=True)
        except Exception as error:  # whatever a compiler does wrong is no reason to have no optimizers
            failed.parent.mkdir(parents=True, exist_ok=True)
            why = f"{shorten(str(error), 120)} (the build's output has the compiler's own words)"
            failed.write_text(f"{why}\n", encoding="utf-8")
            self.warn(f"the fused CPU kernels were not compiled: {why}; the optimizers will take the plain path")

    def copy_extensions_to_source(self) -> None:
        """For an editable installation: the library, or the reason, goes beside the source."""
        super().copy_extensions_to_source()
        there = KERNELS / "_cpu.failed"
        there.unlink(missing_ok=True)
        if self._failed().exists():
            self.copy_file(str(self._failed()), str(there))

    def _failed(self) -> Path:
        return Path(self.build_lib) / "anybatch/optim/kernels/_cpu.failed"


class AnyPython(bdist_wheel):
    """The library is opened by ctypes and knows nothing of Python: one wheel a platform serves every version."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


source = (KERNELS / "cpu.c").read_bytes()
setup(
    ext_modules=[
        Extension(
            "anybatch.optim.kernels._cpu",
            [str(KERNELS / "cpu.c")],
            define_macros=[("SOURCE", f'"{hashlib.sha256(source).hexdigest()[:16]}"')],
            extra_compile_args=[*FLAGS, "-fvisibility=hidden", "-pthread"],
            extra_link_args=["-pthread"],
            libraries=["m"],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": AnyPython},
)
