"""Memory for blocks, that is kept and used again.

A block is received into a buffer of its own, and freed when it is written. By default the C library hands such large
buffers back to the system at once, and each new one is cleared by the system, page by page, before the socket can fill
it: a fifth of a receiver's work. So it is told to keep some.
"""

from __future__ import annotations

import contextlib
import functools

from kernel.limits import MIB

# glibc's mallopt: how much may lie free at the heap's end, and from which size on a buffer is mapped by itself.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 32 * MIB


@functools.cache
def keep_freed_memory() -> None:
    """For this process, from now on; where the C library is another one, nothing happens."""
    import ctypes

    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
