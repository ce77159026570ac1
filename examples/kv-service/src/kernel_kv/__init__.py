"""A key-value store: a request is a message, its answer is a message.

    set KEY VALUE  ->  ok
    get KEY        ->  ok VALUE, or none
    delete KEY     ->  ok, or none
    keys [PREFIX]  ->  ok KEY KEY ...

A key is anything without white space; a value is the rest of the message, whatever bytes it has. Invariant: keys and
values together never have more than `values_bytes_max` bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from kernel import MIB, Channel, Dialect, Meta, Service, ServiceContext

KEY_BYTES_MAX = 250
# An answer to `keys` is cut there, so that no request has an answer without end.
_KEYS_BYTES_MAX = 32 * 1024


@dataclass(frozen=True)
class StoreOptions:
    """What stands behind the `?` in `--plugin kv?values_bytes_max=1MiB`."""

    values_bytes_max: Annotated[int, Meta(ge=1, description="most bytes of all keys and values together")] = 64 * MIB


class Store(Service):
    """Keeps values under keys, in memory."""

    name = "kv"
    example = "kernel kv {endpoint} set colour blue"
    Options = StoreOptions
    dialects = {"typed": Dialect({"framing": "line"}, help="the same in lines, as nc sends them")}  # noqa: RUF012

    def __init__(self, options: StoreOptions, context: ServiceContext) -> None:
        super().__init__(options, context)
        self._values: dict[bytes, bytes] = {}
        self._values_bytes = 0
        self._values_bytes_max = options.values_bytes_max
        self._requests: dict[bytes, Callable[[bytes, bytes], bytes]] = {
            b"set": self._set,
            b"get": self._get,
            b"delete": self._delete,
            b"keys": self._keys,
        }

    def on_messages(self, channel: Channel, messages: list[bytes]) -> None:
        channel.send_many([self._answer(message) for message in messages])

    def _answer(self, message: bytes) -> bytes:
        word, _, rest = message.partition(b" ")
        request = self._requests.get(word)
        if request is None:
            return b"error write set KEY VALUE, get KEY, delete KEY or keys [PREFIX]"
        key, _, value = rest.partition(b" ")
        if len(key) > KEY_BYTES_MAX or (not key and word != b"keys"):
            return b"error a key has from 1 to %d bytes" % KEY_BYTES_MAX
        return request(key, value)

    def _set(self, key: bytes, value: bytes) -> bytes:
        before = self._values.get(key)
        grown = len(value) - len(before) if before is not None else len(key) + len(value)
        if self._values_bytes + grown > self._values_bytes_max:
            return b"error the store is full: delete something"
        self._values_bytes += grown
        self._values[key] = value
        return b"ok"

    def _get(self, key: bytes, _value: bytes) -> bytes:
        value = self._values.get(key)
        return b"none" if value is None else b"ok " + value

    def _delete(self, key: bytes, _value: bytes) -> bytes:
        value = self._values.pop(key, None)
        if value is None:
            return b"none"
        self._values_bytes -= len(key) + len(value)
        return b"ok"

    def _keys(self, prefix: bytes, _value: bytes) -> bytes:
        found: list[bytes] = []
        left = _KEYS_BYTES_MAX
        for key in sorted(key for key in self._values if key.startswith(prefix)):
            left -= len(key) + 1
            if left < 0:
                return b"ok " + b" ".join(found) + b" ..."
            found.append(key)
        return b"ok " + b" ".join(found) if found else b"none"
