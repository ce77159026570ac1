"""Follows a JetStream stream from a sequence number on: every message once, in order, also when NATS has died.

A push consumer of our own, without acknowledgements: its numbering shows a gap, its heartbeats show that it lives.
After a gap, a silence or a reconnection another one is made, from the message after the last one that was handed on.
Who cannot take more for now holds it, and lets it go on from the last one that he could keep: what waits meanwhile,
waits in the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

_HEARTBEAT_SECONDS = 5.0
_SILENCE_SECONDS = 3 * _HEARTBEAT_SECONDS
_RETRY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Followed:
    """A message of a stream. `at`: when the stream got it, seconds since 1970."""

    sequence: int
    subject: str
    data: bytes
    headers: dict[str, str]
    at: float


class Follower:
    """See the top of this file.

    Args:
        after: the last message that is known already.
        arrived: is called with each further one.

    Attributes:
        caught_up: set once everything that was there at the start has been handed on.
    """

    def __init__(self, client: Client, stream: str, after: int, arrived: Callable[[Followed], None]) -> None:
        self.caught_up = asyncio.Event()
        self._client = client
        self._stream = stream
        self._last = after
        self._arrived = arrived
        self._expected = 1
        self._generation = 0
        self._subscription: Any = None
        self._heard_at = 0.0
        self._broken = asyncio.Event()
        self._held = False
        self._let_go = asyncio.Event()

    async def run(self) -> None:
        """Follow for ever; cancel it to stop."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._broken.clear()
                if self._held:
                    await self._end()
                    await self._let_go.wait()
                    continue
                try:
                    await self._begin()
                except (nats.errors.Error, OSError, TimeoutError):
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                while not self._broken.is_set() and loop.time() - self._heard_at < _SILENCE_SECONDS:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_HEARTBEAT_SECONDS):
                            await self._broken.wait()
        finally:
            await self._end()

    def begin_again(self) -> None:
        """The connection was made again: whoever sent to us is gone."""
        self._broken.set()

    def hold(self) -> None:
        """Hand on nothing more, also not what is here already."""
        self._held = True
        self._let_go.clear()
        self._generation += 1
        self._broken.set()

    def go_on(self, after: int) -> None:
        """Hand on what comes after this message."""
        self._held = False
        self._last = after
        self._let_go.set()

    async def _begin(self) -> None:
        await self._end()
        self._generation += 1
        self._expected = 1
        self._heard_at = asyncio.get_running_loop().time()
        inbox, generation = self._client.new_inbox(), self._generation

        async def on_message(message: Msg) -> None:
            if generation == self._generation:
                await self._on_message(message)

        self._subscription = await self._client.subscribe(
            inbox, cb=on_message, pending_msgs_limit=-1, pending_bytes_limit=-1
        )
        config = ConsumerConfig(
            deliver_subject=inbox,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._last + 1,
            ack_policy=AckPolicy.NONE,
            max_deliver=1,
            flow_control=True,
            idle_heartbeat=_HEARTBEAT_SECONDS,
            mem_storage=True,
            num_replicas=1,
        )
        info = await self._client.jetstream().add_consumer(self._stream, config)
        if not info.num_pending:
            self.caught_up.set()

    async def _end(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    async def _on_message(self, message: Msg) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        headers = message.headers or {}
        if "Status" in headers:
            if message.reply:  # flow control: may more be sent?
                await message.respond(b"")
            return
        metadata = message.metadata
        if metadata.sequence.consumer != self._expected:
            self._broken.set()
            return
        self._expected += 1
        sequence = metadata.sequence.stream
        if sequence <= self._last:
            return
        self._last = sequence
        at = metadata.timestamp.timestamp()
        self._arrived(Followed(sequence, message.subject, message.data, headers, at))
        if not metadata.num_pending:
            self.caught_up.set()
