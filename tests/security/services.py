"""Small services to be attacked."""

from __future__ import annotations

import asyncio
import logging

from kernel import Channel, Code, Limits, NoOptions, Service, ServiceContext


def context(name: str, limits: Limits | None = None) -> ServiceContext:
    return ServiceContext(name, limits or Limits(), logging.getLogger(name), asyncio.ensure_future)


class Recorder(Service):
    """Echoes, and remembers what reached it."""

    name = "echo"

    def __init__(self) -> None:
        super().__init__(NoOptions(), context(self.name))
        self.opened_by: list[str] = []
        self.messages: list[bytes] = []
        self.endings: list[tuple[Code, str]] = []
        self.ended = asyncio.Event()

    def opened(self, channel: Channel) -> None:
        self.opened_by.append(str(channel.peer.principal))

    def on_message(self, channel: Channel, message: bytes) -> None:
        self.messages.append(message)
        channel.send(message)

    def on_closed(self, channel: Channel, code: Code, reason: str) -> None:
        self.endings.append((code, reason))
        self.ended.set()


class Flood(Recorder):
    """Sends without asking whether anybody reads."""

    name = "flood"
    message = bytes(64 * 1024)

    def opened(self, channel: Channel) -> None:
        super().opened(channel)
        asyncio.get_running_loop().call_soon(self._send, channel)

    def _send(self, channel: Channel) -> None:
        if channel.code is None:
            channel.send(self.message)
            asyncio.get_running_loop().call_soon(self._send, channel)
