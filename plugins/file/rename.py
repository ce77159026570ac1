"""Renaming that never replaces: renameat2 with RENAME_NOREPLACE, else a hard link, which does the same in two steps."""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable

_NOREPLACE = 1
_UNAVAILABLE = {errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP}


def rename_new(old: bytes, new: bytes, old_directory: int, new_directory: int) -> None:
    """Give it a name that must be free.

    Raises:
        FileExistsError: it is not.
        OSError
    """
    call = _renameat2()
    if call is not None:
        import ctypes

        if call(old_directory, old, new_directory, new, _NOREPLACE) == 0:
            return
        number = ctypes.get_errno()
        if number not in _UNAVAILABLE:
            raise OSError(number, os.strerror(number), new)
    by_link(old, new, old_directory, new_directory)


def by_link(old: bytes, new: bytes, old_directory: int, new_directory: int) -> None:
    """The same without renameat2: for a moment there are both names, of a file that is whole."""
    os.link(old, new, src_dir_fd=old_directory, dst_dir_fd=new_directory, follow_symlinks=False)
    os.unlink(old, dir_fd=old_directory)


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    import ctypes

    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None:
        call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return call
