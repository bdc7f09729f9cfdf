"""How this process holds its memory."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""
_LARGEST = (1 << 31) - 1


def keep_memory() -> None:
    """Let the C library keep what is freed, so that what is computed next needs no new pages from the system.

    Every tensor above 32 MB, and many below, otherwise come as pages that the system has to clear anew for each batch. For
    processes that do the same work over and over (figures: benchmarks/results/train_step.md and kept_memory.md). Where the C
    library is not glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _LARGEST)
