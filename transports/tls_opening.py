"""What a client says in the clear while it shakes hands: read along, before OpenSSL gets it.

OpenSSL takes some 50 KiB for a connection at its first byte, and reserves what a handshake message declares, up to
128 KiB, at that message's header. So it gets nothing before the client's first message is there as a whole, and a
message that declares more than may come at all is refused from its header. What is not TLS goes on at once: OpenSSL
has the words for it.
"""

from __future__ import annotations

_CHANGE_CIPHER_SPEC, _HANDSHAKE, _APPLICATION_DATA = 20, 22, 23
_CLIENT_HELLO = 1
_RECORD_HEADER_BYTES = 5
_MESSAGE_HEADER_BYTES = 4
# The "random" of a server's hello that asks for another client hello (RFC 8446, 4.1.3), and where it stands.
_ASKS_AGAIN = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
_RANDOM = slice(11, 43)


class Opening:
    """One client's plaintext, record by record.

    Args:
        message_bytes_max: the longest message that may be declared.
    """

    __slots__ = (
        "_answer", "_held", "_is_ciphered", "_is_whole", "_message_bytes_max", "_message_head", "_message_left",
        "_record_head", "_record_kind", "_record_left",
    )  # fmt: skip

    def __init__(self, message_bytes_max: int) -> None:
        self._message_bytes_max = message_bytes_max
        self._held: bytearray | None = bytearray()
        self._is_whole = False
        self._is_ciphered = False
        self._answer = b""
        self._record_head = b""
        self._record_kind = 0
        self._record_left = 0
        self._message_head = b""
        self._message_left = 0

    def take(self, data: bytes) -> bytes | None:
        """What OpenSSL may have now, perhaps nothing; None: the client declares too much."""
        if not self._read(data):
            return None
        if self._held is None:
            return data
        self._held += data
        if not self._is_whole:
            return b""
        data, self._held = bytes(self._held), None
        return data

    def answered(self, said: bytes) -> None:
        """The server says this."""
        self._answer = self._answer or said[_RANDOM]

    def _read(self, data: bytes) -> bool:
        """Whether all of it may come."""
        at = 0
        while at < len(data) and not self._is_ciphered:
            if self._record_left:
                part = data[at : at + self._record_left]
                self._record_left -= len(part)
                at += len(part)
                if self._record_kind == _HANDSHAKE and not self._read_messages(part):
                    return False
            else:
                part = data[at : at + _RECORD_HEADER_BYTES - len(self._record_head)]
                at += len(part)
                self._read_record_head(part)
        return True

    def _read_record_head(self, part: bytes) -> None:
        """Behind application data nothing is plaintext any more. Behind a change of cipher neither, once the server has
        answered; unless it has asked for another hello.
        """
        self._record_head += part
        kind = self._record_kind = self._record_head[0]
        if kind != _HANDSHAKE:
            self._is_whole = True
        if len(self._record_head) < _RECORD_HEADER_BYTES:
            return
        self._record_left = int.from_bytes(self._record_head[3:], "big")
        self._record_head = b""
        is_answered = bool(self._answer) and self._answer != _ASKS_AGAIN
        self._is_ciphered = kind == _APPLICATION_DATA or (kind == _CHANGE_CIPHER_SPEC and is_answered)

    def _read_messages(self, part: bytes) -> bool:
        """Handshake messages lie in records as in a stream."""
        at = 0
        while at < len(part):
            if not self._message_left:
                head = part[at : at + _MESSAGE_HEADER_BYTES - len(self._message_head)]
                at += len(head)
                self._message_head += head
                if len(self._message_head) < _MESSAGE_HEADER_BYTES:
                    break
                self._is_whole = self._is_whole or self._message_head[0] != _CLIENT_HELLO
                self._message_left = int.from_bytes(self._message_head[1:], "big")
                self._message_head = b""
                if self._message_left > self._message_bytes_max:
                    return False
            step = min(self._message_left, len(part) - at)
            self._message_left -= step
            at += step
            self._is_whole = self._is_whole or not self._message_left
        return True
