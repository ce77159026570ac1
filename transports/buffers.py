"""The sizes of a socket's buffers in the operating system: options that tcp, unix and udp have in common."""

from __future__ import annotations

import socket
from typing import Annotated

from kernel.options import Meta

# The system takes a C int, and caps what it is asked for far below this (net.core.wmem_max).
_BYTES_MAX = 2**30

SendBufferBytes = Annotated[int, Meta(ge=0, le=_BYTES_MAX, description="SO_SNDBUF; 0: the system's own choice")]
ReceiveBufferBytes = Annotated[int, Meta(ge=0, le=_BYTES_MAX, description="SO_RCVBUF; 0: the system's own choice")]


def set_buffers(sock: socket.socket, send_bytes: int, receive_bytes: int) -> None:
    """Ask the system for buffers of these sizes; 0 leaves one as it is."""
    if send_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
