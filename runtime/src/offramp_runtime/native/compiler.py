"""Compiling C on this machine."""

import os
import platform
import shlex
import shutil
import subprocess
from pathlib import Path

from offramp_runtime.errors import ConfigError
from offramp_runtime.machine import cpu_features
from offramp_runtime.native.blocks import Vectors
from offramp_runtime.precision import Precision

_ARM = ("aarch64", "arm64")


def why_not(precision: Precision) -> ConfigError | None:
    """What to raise where this CPU cannot compute so."""
    needed = {"bf16": "avx512_bf16", "int8": "avx512_vnni"}.get(precision)
    if needed is None or needed in cpu_features():
        return None
    return ConfigError(
        f"precision {precision} in runtime 'native' needs a CPU with {needed}, which this one lacks; take another"
    )


def why_no_compiler() -> ConfigError | None:
    """What to raise where there is no C compiler."""
    if _compiler() is not None:
        return None
    named = os.environ.get("CC")
    looked = f"CC names {named}, which is not there" if named else "there is neither cc, gcc nor clang"
    return ConfigError(
        f"runtime 'native' needs a C compiler, and {looked}; install gcc or clang, or take another runtime"
    )


def _compiler() -> list[str] | None:
    """``$CC`` with its arguments, or what the system has."""
    named = shlex.split(os.environ.get("CC", ""))
    for command in [named] if named else [["cc"], ["gcc"], ["clang"]]:
        if found := shutil.which(command[0]):
            return [found, *command[1:]]
    return None


def vectors(precision: Precision) -> Vectors:
    """Of this CPU; some registers are left to the compiler, which otherwise moves sums in and out of memory."""
    if precision != "fp32":
        return Vectors(16, 20, packed=2 if precision == "bf16" else 1)
    if platform.machine() in _ARM:
        return Vectors(4, 28)
    if "avx512f" in cpu_features():
        return Vectors(16, 28)
    return Vectors(8, 15) if {"avx2", "fma"} <= cpu_features() else Vectors(4, 15)


def compile_library(text: str, library: Path) -> None:
    """Make a shared library of C.

    Raises:
        ConfigError: there is no compiler, or it does not take what GCC and Clang take.
    """
    if (reason := why_no_compiler()) is not None:
        raise reason
    compiler = _compiler() or []
    source = library.with_suffix(".c")
    source.write_text(text)
    own = "-mcpu=native" if platform.machine() in _ARM else "-march=native"
    kind = ["-O3", own, "-shared", "-fPIC", "-pthread", "-Werror=implicit-function-declaration"]
    command = [*compiler, *kind, "-o", str(library), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        first = next((line for line in said if "error" in line), said[0])
        raise ConfigError(f"{compiler[0]} cannot compile what runtime 'native' made ({first}); name another in CC")
