"""OpenVINO itself, and what its CPU can do."""

import sys
import threading
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

from offramp_runtime.errors import ConfigError, MissingExtraError

if TYPE_CHECKING:
    from openvino import Core


def core() -> "Core":
    """OpenVINO itself, one for the process.

    Each ``Core`` gives the thread that makes it a stack for signal handlers and frees it when it goes, whether or not it is
    still the one in use: with two of them, the next Ctrl-C can end the process with a segmentation fault.

    Raises:
        MissingExtraError: openvino is not installed.
    """
    with _MAKING:
        return _made_core()


_MAKING = threading.Lock()


@cache
def _made_core() -> "Core":
    if find_spec("openvino") is None:
        raise MissingExtraError(
            "runtime 'openvino' needs openvino, which is not installed; install it: pip install 'offramp-runtime[openvino]'"
        )
    _import_silently()
    from openvino import Core

    return Core()


def _import_silently() -> None:
    """Import openvino so that it does not report its import to its makers over the network, as it otherwise does."""
    reporter = "openvino_telemetry"
    if reporter in sys.modules:
        return
    sys.modules[reporter] = None  # type: ignore[assignment]  # how Python is told that there is no such module
    try:
        import openvino  # noqa: F401
    finally:
        del sys.modules[reporter]


def need_bf16(core: "Core") -> None:
    """Asked for bf16 on another CPU, OpenVINO would compute in float32 and not say so."""
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in able:
        raise ConfigError(
            f"precision bf16 in OpenVINO needs a CPU with avx512_bf16 or amx_bf16, this one has {', '.join(able)}; "
            "take fp32 or int8"
        )
