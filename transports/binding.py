"""From a new socket to a listener: when anything on the way fails, the socket is closed, and a person is told why."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator

from kernel.errors import StartError


@contextlib.contextmanager
def kept_if_bound(sock: socket.socket, refusal: Callable[[OSError], str]) -> Iterator[None]:
    """What is done to make a listener of a new socket; when it fails, also by being cancelled, the socket is closed.

    Args:
        refusal: what the system's error means for a person.

    Raises:
        StartError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        sock.close()
        raise StartError(refusal(error)) from None
    except BaseException:
        sock.close()
        raise
