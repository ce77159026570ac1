"""One end of a connection under test: it calls as the kernel does, and notes every rule that is broken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from kernel.api import Buffer, Connection
from kernel.testing.checks import CheckFailed

GREETING = b"a greeting, by which the server learns of the client"


class End:
    """A `Receiver` that keeps what it is told, and the connection that tells it.

    Attributes:
        connection: the one under test.
        is_client: this end dialled. `name` says it in messages.
        greetings: those that have come; they are not among the messages.
        data: all bytes of a stream so far.
        messages: all messages so far, where the transport preserves them.
        eof, lost: the calls that have come. `error` is what came with the second.
        drained: how often `write_drained` was called.
        faults: rules that were broken, in words.
        view_bytes: not 0: ask for the next bytes to be received into a view of that size.
        on_event: called with the name of each call, after it was noted, to react from inside of it.
        events_after_reaction: what came after the reaction of `end_inside`.
    """

    def __init__(
        self, connection: Connection, *, is_client: bool, preserves_messages: bool, patience_seconds: float
    ) -> None:
        self.connection = connection
        self.is_client = is_client
        self.name = "the client" if is_client else "the server"
        self.preserves_messages = preserves_messages
        self.greetings: set[bytes] = set()
        self.data = bytearray()
        self.messages: list[bytes] = []
        self.eof = False
        self.lost = False
        self.error: Exception | None = None
        self.drained = 0
        self.faults: list[str] = []
        self.view_bytes = 0
        self.on_event: Callable[[str], None] = lambda event: None
        self._patience_seconds = patience_seconds
        self.events_after_reaction: list[str] = []
        self._view: bytearray | None = None
        self._calling = ""
        self._changed = asyncio.Event()

    @property
    def arrived(self) -> bytes | bytearray:
        """All that has arrived, boundaries aside."""
        return b"".join(self.messages) if self.preserves_messages else self.data

    # --- we call -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._call("start", lambda: self.connection.start(self))

    def write(self, buffers: Sequence[Buffer]) -> None:
        given = list(buffers)
        self._call("write", lambda: self.connection.write(buffers))
        if list(buffers) != given:
            self.faults.append("write() changed the list of buffers, which is not its own")

    def pause_reading(self) -> None:
        self._call("pause_reading", self.connection.pause_reading)

    def resume_reading(self) -> None:
        self._call("resume_reading", self.connection.resume_reading)

    def finish_writing(self) -> None:
        self._call("finish_writing", self.connection.finish_writing)

    def close(self) -> None:
        self._call("close", self.connection.close)

    def abort(self) -> None:
        self._call("abort", self.connection.abort)

    @property
    def pending_bytes(self) -> int:
        return self.connection.write_pending_bytes

    async def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait until the condition holds; it is looked at after each call of the transport's.

        Raises:
            CheckFailed: it does not, within the time that things may take here.
        """
        if not await self.happens(condition, self._patience_seconds):
            raise CheckFailed(f"{self.name} waited {self._patience_seconds:g} s in vain for {what}")

    async def happens(self, condition: Callable[[], object], seconds: float) -> bool:
        """Whether the condition comes to hold within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return bool(condition())
        return True

    def _call(self, name: str, method: Callable[[], None]) -> None:
        outer, self._calling = self._calling, name
        try:
            method()
        except Exception as error:
            self.faults.append(f"{name}() raised {type(error).__name__}: {error}")
        finally:
            self._calling = outer

    # --- the connection calls --------------------------------------------------------------------------------------

    def wanted(self) -> memoryview | None:
        self._view = bytearray(self.view_bytes) if self.view_bytes else None
        return None if self._view is None else memoryview(self._view)

    def filled(self, nbytes: int) -> None:
        view, self._view = self._view, None
        if view is None or not 0 < nbytes <= len(view):
            self.faults.append(f"filled({nbytes}) was called without a view of that size from wanted()")
            return
        self.data += view[:nbytes]
        self._note("filled")

    def data_received(self, data: Buffer) -> None:
        if self.preserves_messages:
            self.faults.append("data_received was called, though the transport declares preserves_messages")
        self.data += data
        self._note("data_received")

    def messages_received(self, messages: list[bytes]) -> None:
        if not self.preserves_messages:
            self.faults.append("messages_received was called, though the transport does not declare preserves_messages")
        self.greetings |= {message for message in messages if message.startswith(GREETING)}
        self.messages += [message for message in messages if not message.startswith(GREETING)]
        self._note("messages_received")

    def eof_received(self) -> None:
        if self.eof:
            self.faults.append("eof_received was called twice")
        self.eof = True
        self._note("eof_received")

    def write_drained(self) -> None:
        if self.pending_bytes:
            self.faults.append(f"write_drained was called while write_pending_bytes is {self.pending_bytes}")
        self.drained += 1
        self._note("write_drained")

    def connection_established(self) -> None:
        self._note("connection_established")

    def connection_lost(self, error: Exception | None) -> None:
        if self.lost:
            self.faults.append("connection_lost was called twice")
        self.lost, self.error = True, error
        self._note("connection_lost")

    def _note(self, event: str) -> None:
        if self.lost and event != "connection_lost":
            self.faults.append(f"{event} was called after connection_lost")
        if self.eof and event in ("filled", "data_received", "messages_received"):
            self.faults.append(f"{event} was called after eof_received")
        if self._calling:
            self.faults.append(f"{event} was called from inside {self._calling}(), and not from the event loop")
        self._changed.set()
        self.on_event(event)
