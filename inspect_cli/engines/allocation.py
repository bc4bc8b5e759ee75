"""How freed memory is kept, so that the next tile's arrays find theirs mapped already."""

from __future__ import annotations

import ctypes
import functools
import sys
from typing import Final

#: Arrays up to this size come from memory that the process keeps, and so much of it stays when it is free.
KEPT_BYTES: Final = 2**30
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3


@functools.cache
def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory instead of giving each large array back; return whether it does.

    Layers of a network on a CPU allocate tens of megabytes and free them at once. By default each comes as new
    pages that the kernel must clear first, which takes as long as the arithmetic of depthwise convolutions
    (measured: 40 s against 21 s for the features of 105 images of 512x512). Only glibc can be told so.
    """
    if sys.platform != "linux":
        return False
    try:
        tell = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(tell(_M_MMAP_THRESHOLD, KEPT_BYTES)) and bool(tell(_M_TRIM_THRESHOLD, KEPT_BYTES))
