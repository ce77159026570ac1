"""Visitors with simple clients talk with an operator, turn by turn.

    visitor --turn--> Talk --N ADDRESS TEXT--> operators
            <-answer-      <-----N TEXT-------

A visitor comes by a dialect, an operator by the kernel's own protocol. A turn is whatever one read of the visitor's
brought; until it is answered, what else he sends belongs to it. Invariant: each turn is answered by one write of at
most 1,024 bytes; what an operator says beyond that, or out of turn, waits for the next answer.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from kernel import Channel, ChannelClosed, Code, Dialect, Meta, Needs, OptionError, Service, ServiceContext, StartError

from .visitor import Visitor

__all__ = ["Talk", "TalkOptions"]

CHALLENGE_BYTES = 32
_DIGEST_BYTES = 16
_SECRET_BYTES_MAX = 4096
_NUMBER_DIGITS_MAX = 9
_NO_OPERATOR = b"nobody is here to answer"


@dataclass(frozen=True)
class TalkOptions:
    """What stands behind the `?` in `--plugin talk?answer=upper`."""

    answer: Annotated[
        Literal["operator", "upper"], Meta(description="operator: who opens `talk`; upper: a machine, in capitals")
    ] = "operator"
    secret_file: Annotated[str, Meta(description="what clients of the dialect hmac-md5 have to know")] = ""
    visitors_max: Annotated[int, Meta(ge=1, description="how many may talk at once")] = 100


class Talk(Service):
    """Simple clients of tutorials talk with an operator, turn by turn."""

    name = "talk"
    example = "kernel talk {endpoint}"
    needs = Needs(reliable=True, ordered=True)
    Options = TalkOptions

    def __init__(self, options: TalkOptions, context: ServiceContext) -> None:
        super().__init__(options, context)
        self._answers_itself = options.answer == "upper"
        self._secret_file = options.secret_file
        self._secret = b""
        self._visitors_max = options.visitors_max
        self._visitors: dict[int, Visitor] = {}
        self._operators: set[Channel] = set()
        self._number = 0
        raw = {"framing": "raw"}
        self.dialects = {
            "bye": Dialect(raw, help="lock-step text, `bye` ends it"),
            "q": Dialect(raw, help="lock-step text, `q` ends it"),
        }
        if self._secret_file:
            self.dialects["hmac-md5"] = Dialect(raw, help="an HMAC-MD5 of 32 random bytes, then as `q`")

    async def start(self) -> None:
        if self._secret_file:
            self._secret = _read_secret(self._secret_file)
            self.context.log.warning("the dialect hmac-md5 protects little: use auth=hmac where the clients can")

    async def serve(self, channel: Channel) -> None:
        if not channel.dialect:
            await self._serve_operator(channel)
        elif len(self._visitors) >= self._visitors_max:
            channel.reset(Code.OVERLOADED, f"{self._visitors_max} visitors are here already (visitors_max)")
        elif channel.dialect != "hmac-md5" or await self._is_legal(channel):
            await self._serve_visitor(channel)

    # --- visitors ----------------------------------------------------------------------------------------------------

    async def _is_legal(self, channel: Channel) -> bool:
        """Whether the client knows the secret. Who does not is told nothing."""
        challenge = secrets.token_bytes(CHALLENGE_BYTES)
        expected = hmac.digest(self._secret, challenge, "md5")
        channel.send(challenge)
        answer = b""
        try:
            async with asyncio.timeout(self.context.limits.handshake_seconds_max):
                while len(answer) < _DIGEST_BYTES and (piece := await channel.receive()) is not None:
                    answer += piece
        except TimeoutError:
            pass
        if not hmac.compare_digest(answer, expected):
            self.context.log.warning("a client does not know the secret", extra={"peer": channel.peer.address})
            return False
        channel.send(b"legal")
        return True

    async def _serve_visitor(self, channel: Channel) -> None:
        self._number += 1
        number, ended = self._number, b"is gone"
        ending = b"bye" if channel.dialect == "bye" else b"q"
        visitor = self._visitors[number] = Visitor(channel, ending)
        try:
            async for turn in channel:
                text = turn.strip()
                if text == ending:
                    ended = b"has said " + ending
                    if ending == b"q":
                        visitor.answer(ending)
                    return
                visitor.turn()
                self._on_turn(number, visitor, text)
                await channel.drain()
        finally:
            del self._visitors[number]
            self._tell_operators(number, channel, b"(%b)" % ended)

    def _on_turn(self, number: int, visitor: Visitor, text: bytes) -> None:
        if self._answers_itself:
            visitor.say(text.upper() or b" ")
        elif not self._operators:
            visitor.say(_NO_OPERATOR)
        else:
            self._tell_operators(number, visitor.channel, text)

    # --- operators ---------------------------------------------------------------------------------------------------

    async def _serve_operator(self, channel: Channel) -> None:
        self._operators.add(channel)
        try:
            async for message in channel:
                self._on_operator(channel, message)
                await channel.drain()
        finally:
            self._operators.discard(channel)
            if not self._operators:
                for visitor in self._visitors.values():
                    if visitor.waits:
                        visitor.say(_NO_OPERATOR)

    def _on_operator(self, operator: Channel, message: bytes) -> None:
        """`7 hello` answers visitor 7, `0 hello` whoever has waited longest."""
        word, _, text = message.partition(b" ")
        if not word.isdigit() or len(word) > _NUMBER_DIGITS_MAX:
            operator.send(b"0 - (write NUMBER TEXT; number 0 is whoever has waited longest)")
            return
        number = int(word) or self._longest_waiting()
        visitor = self._visitors.get(number)
        if visitor is None:
            operator.send(b"%d - (is not here)" % number if number else b"0 - (nobody waits for an answer)")
            return
        visitor.say(text)
        if text.strip() == visitor.ending:
            visitor.finish()

    def _longest_waiting(self) -> int:
        waiting = [(visitor.waits_since, number) for number, visitor in self._visitors.items() if visitor.waits]
        return min(waiting, default=(0.0, 0))[1]

    def _tell_operators(self, number: int, visitor: Channel, text: bytes) -> None:
        message = b"%d %b %b" % (number, visitor.peer.address.encode(), text)
        for operator in list(self._operators):
            if operator.full:  # he does not read: others shall not wait for him
                operator.reset(Code.SLOW_READER, "you do not read what visitors say")
                continue
            try:
                operator.send(message)
            except ChannelClosed:
                self._operators.discard(operator)


def _read_secret(path: str) -> bytes:
    """A secret of whatever bytes, one line end aside; only from a file that nobody else can read."""
    try:
        with Path(path).open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise StartError(f"the secret file {path} can be read by others: chmod 600 {path}")
            secret = file.read(_SECRET_BYTES_MAX).removesuffix(b"\n")
    except OSError as error:
        raise StartError(f"cannot read the secret file {path}: {error.strerror}") from None
    if not secret:
        raise OptionError(f"the secret file {path} is empty: write the clients' secret into it")
    return secret
