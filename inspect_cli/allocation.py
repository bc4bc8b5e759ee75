"""What the C library does with freed memory. Only glibc can be told."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Final

#: Arrays up to this size come from memory that the process keeps, and so much of it stays when it is free.
KEPT_BYTES: Final = 2**30
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_ARENAS: Final = 1


@functools.cache
def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory instead of giving each large array back; return whether it does.

    Layers of a network on a CPU allocate tens of megabytes and free them at once. By default each comes as new
    pages that the kernel must clear first, which takes as long as the arithmetic of depthwise convolutions
    (measured: 40 s against 21 s for the features of 105 images of 512x512).
    """
    return _tell({_M_MMAP_THRESHOLD: KEPT_BYTES, _M_TRIM_THRESHOLD: KEPT_BYTES})


@functools.cache
def share_freed_memory() -> bool:
    """Tell the C library that threads share what they free, before there are any; return whether it does.

    By default each thread keeps its own. Where threads hand arrays to each other that adds up (measured: 10 parts of
    20 megapixels through torch took 852 MB, 641 MB with two pools, 601 MB with one, and no longer).
    """
    return _tell({_M_ARENA_MAX: _ARENAS})


def _tell(options: dict[int, int]) -> bool:
    if sys.platform != "linux":
        return False
    try:
        tell = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return all(bool(tell(option, value)) for option, value in options.items())  # stops at what is refused
