"""The shell service: a channel brings a request, the policy makes a job of it, a session runs it.

Nobody is served who has not proved who he is. What a request may do is decided in `access`, how it is run and ended in
`warden`; here is only who holds which session.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys

from kernel.api import ChannelHandler, Needs, Peer, Service, ServiceContext
from kernel.channel import Channel
from kernel.errors import Code, StartError

from . import audit, dialects
from .access import Access, Denied
from .options import ShellOptions
from .process import Keeper
from .protocol import ProtocolError, Request
from .recorder import Recorder
from .session import Session, Watcher

log = logging.getLogger("kernel.service.shell")

_STOP_SECONDS = 20.0


class Shell(Service):
    """Runs commands, and terminals, for peers that have proved who they are. See docs/shell.md."""

    name = "shell"
    example = "kernel shell {endpoint}"
    Options = ShellOptions
    needs = Needs(reliable=True, ordered=True, authenticated=True)

    def __init__(self, options: ShellOptions, context: ServiceContext) -> None:
        super().__init__(options, context)
        self._options = options
        self.access: Access | None = None
        self.keeper = Keeper()
        self._sessions: dict[str, Session] = {}
        self._idle = asyncio.Event()
        self.dialects = dialects.offered(authenticated=not options.dialects_for_anyone)

    async def start(self) -> None:
        if not sys.platform.startswith("linux"):
            raise StartError("the service shell needs Linux: elsewhere it cannot promise that no process survives")
        options = self._options
        self.access = Access(options)
        if not (options.allow or options.free or options.pty or options.principals):
            log.warning(
                "the service shell may run nothing: allow= names command lines, free=1 allows any, pty=1 terminals"
            )
        if self.access.runs_as_root:
            log.warning("the service shell runs commands as root: user=NAME would change that")
        if options.dialects_for_anyone:
            log.warning("the dialects of the service shell ask nobody who he is (dialects_for_anyone)")
        if options.record_dir and not os.access(options.record_dir, os.W_OK | os.X_OK):
            raise StartError(f"the service shell: record_dir={options.record_dir} is no directory that we can write to")
        self.keeper.start()

    async def stop(self) -> None:
        for session in list(self._sessions.values()):
            session.end("the server is shutting down")
        patience_seconds = self._options.grace_seconds + _STOP_SECONDS
        try:
            async with asyncio.timeout(patience_seconds):
                while self._sessions:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            log.error("%d commands have not ended within %g s", len(self._sessions), patience_seconds)
        self.keeper.stop()
        await self.keeper.wait_stopped(patience_seconds)

    def handler(self) -> ChannelHandler:
        return Conversation(self)

    def open(self, watcher: Watcher, peer: Peer, request: Request, *, changes_directory: bool = False) -> Session:
        """Run what a request asks for, or join it with what runs.

        Args:
            changes_directory: it is no command of the peer's, but the step that `cd` is in a dialect.

        Raises:
            Denied: it may not be.
        """
        if request.attach:
            return self._attach(watcher, peer, request)
        assert self.access is not None
        options = self._options
        self._check_places(peer)
        job = self.access.job(peer.principal, request, changes_directory=changes_directory)
        account = job.user["name"] if job.user else ""
        entry = audit.Entry(peer, job.argv, job.cwd, account, request.terminal is not None)
        session = Session(
            self.keeper,
            job,
            request,
            entry,
            seconds_max=self.access.seconds(request),
            output_bytes_max=options.output_bytes_max,
            detach_seconds=options.detach_seconds,
            replay_bytes=options.replay_bytes,
            on_ended=self._ended,
        )
        self._sessions[session.id] = session
        try:
            if job.terminal is not None and options.record_dir:
                title, who = shlex.join(job.argv), str(peer.principal)
                entry.recorder = Recorder(options.record_dir, who, session.id, job.terminal, title)
            session.start(watcher)
        except BaseException as error:
            del self._sessions[session.id]
            if entry.recorder is not None:
                entry.recorder.close()
            if not isinstance(error, OSError):
                raise
            raise Denied(f"no command can be started: {error.strerror}") from error
        return session

    def _check_places(self, peer: Peer) -> None:
        """One principal does not get the places of all."""
        options = self._options
        if len(self._sessions) >= options.commands_max:
            raise Denied(f"{len(self._sessions)} commands run here already (commands_max): try again later")
        own = sum(session.entry.peer.principal == peer.principal for session in self._sessions.values())
        if own >= (options.commands_per_principal_max or (options.commands_max + 1) // 2):
            raise Denied(f"{own} commands of {peer.principal} run here already (commands_per_principal_max)")

    def _attach(self, watcher: Watcher, peer: Peer, request: Request) -> Session:
        session = self._sessions.get(request.attach)
        if session is None or session.entry.peer.principal != peer.principal:
            raise Denied("there is no such session, or it has ended")
        session.attach(watcher, request)
        return session

    def _ended(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        self._idle.set()


class Conversation(ChannelHandler):
    """One channel: its first message is the request, the others go to the session."""

    def __init__(self, service: Shell) -> None:
        self._service = service
        self._session: Session | None = None
        self._dialogue: dialects.Dialogue | None = None

    def opened(self, channel: Channel) -> None:
        if channel.dialect:
            self._dialogue = dialects.Dialogue(self._service)
            self._dialogue.opened(channel)

    def on_message(self, channel: Channel, message: bytes) -> None:
        if self._dialogue is not None:
            self._dialogue.on_message(channel, message)
            return
        try:
            if self._session is None:
                self._begin(channel, Request.decode(message))
            else:
                self._session.message(message)
        except ProtocolError as error:
            channel.reset(Code.PROTOCOL, str(error))

    def _begin(self, channel: Channel, request: Request) -> None:
        try:
            self._session = self._service.open(channel, channel.peer, request)
        except Denied as denied:
            audit.refused(channel.peer, shlex.join(request.argv), request.cwd, str(denied))
            channel.reset(Code.FORBIDDEN, str(denied))

    def on_finish(self, channel: Channel) -> None:
        """The client has said all; it still listens."""
        if self._dialogue is not None:
            self._dialogue.finished()
        elif self._session is not None:
            self._session.finished(channel)
        else:
            channel.close()

    def on_writable(self, channel: Channel) -> None:
        if self._session is not None:
            self._session.writable()

    def on_closed(self, channel: Channel, code: Code, reason: str) -> None:
        if self._dialogue is not None:
            self._dialogue.on_closed(channel, code, reason)
        if self._session is not None:
            self._session.left(channel, code)
