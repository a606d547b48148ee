"""glibc's malloc told to keep what it was given."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_NEVER = 2**31 - 1
_LARGEST = 32 << 20
"""The largest mmap threshold of older releases."""


def keep_memory() -> bool:
    """Let freed memory be used again, and not go back to the system; whether that was possible.

    A net's blobs are as large at each batch as at the last. glibc maps each of them anew, and the
    system clears every page of it, which may cost more than the arithmetic.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (other libraries' mallopt has other numbers)
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        return False
    kept = any(mallopt(_M_MMAP_THRESHOLD, value) for value in (_NEVER, _LARGEST))
    return bool(mallopt(_M_TRIM_THRESHOLD, _NEVER)) and kept
