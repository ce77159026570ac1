"""Framings that are broken on purpose, each in one way: the kit finds the fault, by the name of its check."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import pytest

from kernel.framing import Buffer, DecodeError, EncodeError, SimpleDecoder
from kernel.testing import FramingSuite, Outcomes, run_checks

pytestmark = pytest.mark.any_engine

FAULTS: list[tuple[str, type]] = []


class NetstringDecoder(SimpleDecoder):
    """`5:hello,`"""

    def __init__(self, frame_bytes_max: int) -> None:
        super().__init__()
        self.frame_bytes_max = frame_bytes_max

    def cut(self, data: bytearray, start: int) -> tuple[bytes, int] | None:
        colon = data.find(b":", start, start + 8)
        digits = bytes(data[start : start + 8 if colon < 0 else colon])
        if (digits and not digits.isdigit()) or colon == start or (len(digits) > 1 and digits.startswith(b"0")):
            raise DecodeError("bad_length", f"a frame begins with {digits!r}, which is no length")
        if colon < 0:
            if len(digits) == 8:
                raise DecodeError("bad_length", "a length of more than 7 digits")
            return None
        end = colon + 1 + int(digits)
        if int(digits) > self.frame_bytes_max:
            raise DecodeError("too_large", f"a frame announces {int(digits)} bytes")
        if end >= len(data):
            return None
        if data[end] != ord(","):
            raise DecodeError("bad_delimiter", "a frame does not end with a comma")
        return bytes(data[colon + 1 : end]), end + 1


@dataclasses.dataclass(frozen=True)
class Netstring:
    """The sound one, from which the others derive."""

    name: ClassVar[str] = "netstring"
    api_version: ClassVar[int] = 1
    channels: ClassVar[bool] = False
    keeps_messages: ClassVar[bool] = True
    frame_bytes_max: int = 1 << 20

    def __post_init__(self) -> None:
        if self.frame_bytes_max < 0:
            raise ValueError(f"frame_bytes_max is {self.frame_bytes_max}, it must be at least 0")

    Decoder: ClassVar[Any] = NetstringDecoder

    def decoder(self) -> Any:
        return self.Decoder(self.frame_bytes_max)

    def encoder(self) -> Callable[[Sequence[Buffer]], list[Buffer]]:
        return lambda messages: [b"%d:%b," % (len(message), bytes(message)) for message in messages]


def netstrings(stream: bytes) -> Outcomes:
    """What netstrings are, slowly."""
    messages: list[bytes] = []
    while stream:
        head, colon, rest = stream.partition(b":")
        if not head[:8].isdigit() or (head[:1] == b"0" and head != b"0") or len(head[:8]) > 7 or len(head) > 7:
            short = not colon and (head.isdigit() and len(head) < 8 and not (head[:1] == b"0" and len(head) > 1))
            return Outcomes(messages, rest=True) if short else Outcomes(messages, corrupt=True)
        if not colon:
            return Outcomes(messages, rest=True)
        size = int(head)
        if size > 1 << 20 or (len(rest) > size and rest[size : size + 1] != b","):
            return Outcomes(messages, corrupt=True)
        if len(rest) <= size:
            return Outcomes(messages, rest=True)
        messages.append(rest[:size])
        stream = rest[size + 1 :]
    return Outcomes(messages)


class NetstringSuite(FramingSuite):
    framing = Netstring

    def reference(self, stream: bytes) -> Outcomes:
        return netstrings(stream)


def found_by(check: str) -> Callable[[type], type]:
    """The class below is broken, and this check says so. A decoder is put into a framing of its own."""

    def remember(fault: type) -> type:
        framing = fault
        if issubclass(fault, NetstringDecoder):
            framing = dataclasses.dataclass(frozen=True)(type(fault.__name__, (Netstring,), {"Decoder": fault}))
        FAULTS.append((check, framing))
        return fault

    return remember


@found_by("it is declared")
class NotFrozen:
    name = "mutable"
    api_version = 1
    channels = False
    keeps_messages = True

    def decoder(self) -> Any:
        return NetstringDecoder(100)

    encoder = Netstring.encoder


NotFrozen = dataclasses.dataclass(NotFrozen)  # type: ignore[misc]
FAULTS[-1] = ("it is declared", NotFrozen)


@found_by("it is declared")
@dataclasses.dataclass(frozen=True)
class SaysOneInPlaceOfTrue(Netstring):
    keeps_messages: ClassVar[Any] = 1


@found_by("wrong options are refused")
@dataclasses.dataclass(frozen=True)
class FallsOverABadOption(Netstring):
    width: int = 4

    def decoder(self) -> Any:
        return NetstringDecoder(self.frame_bytes_max // self.width)


@found_by("what is encoded is decoded")
@dataclasses.dataclass(frozen=True)
class JoinsMessages(Netstring):
    def encoder(self) -> Any:
        return lambda messages: super(JoinsMessages, self).encoder()([b"".join(map(bytes, messages))])


@found_by("what is encoded is decoded")
@dataclasses.dataclass(frozen=True)
class TakesBytesOnly(Netstring):
    def encoder(self) -> Any:
        return lambda messages: [b"%d:" % len(message) + message.lower().swapcase() + b"," for message in messages]


@found_by("long messages pass")
class LendsABufferAndForgetsIt(NetstringDecoder):
    """Once much is missing, it lends a buffer, and takes the last byte of it for its own."""

    def wanted(self) -> memoryview | None:
        self.view = bytearray(100)
        return memoryview(self.view) if self.pending_bytes > 1000 else None

    def filled(self, nbytes: int) -> list[bytes]:
        return self.feed(bytes(self.view[: nbytes - 1]))


@found_by("every split point gives the same")
class ForgetsBetweenReads(NetstringDecoder):
    def feed(self, data: Buffer) -> list[bytes]:
        messages = super().feed(data)
        self._arrived.clear()
        return messages


@found_by("every split point gives the same")
class TakesOneMessageARead(NetstringDecoder):
    def feed(self, data: Buffer) -> list[bytes]:
        return super().feed(data)[:1]


@found_by("messages come at once")
class WaitsForTheNextFrame(NetstringDecoder):
    held: tuple[bytes, ...] = ()

    def feed(self, data: Buffer) -> list[bytes]:
        all_of_them = [*self.held, *super().feed(data)]
        self.held = tuple(all_of_them[-1:])
        return all_of_them[:-1]

    def finish(self) -> list[bytes]:
        return [*self.held, *super().finish()]


@found_by("pending bytes are told")
class HidesPending(NetstringDecoder):
    @property
    def pending_bytes(self) -> int:
        return 0


@found_by("what is fed is not kept")
class KeepsViews(NetstringDecoder):
    def feed(self, data: Buffer) -> list[Any]:
        messages = super().feed(data)
        whole = memoryview(data)
        return [whole[at : at + len(m)] if m and (at := bytes(data).find(m)) >= 0 else m for m in messages]


@found_by("decoders know nothing of each other")
class KeepsBytesInItsClass(NetstringDecoder):
    ours: ClassVar[bytearray] = bytearray()

    def feed(self, data: Buffer) -> list[bytes]:
        self._arrived = self.ours
        return super().feed(data)


@found_by("what was encoded stays as it is")
@dataclasses.dataclass(frozen=True)
class EncodesIntoOneBuffer(Netstring):
    def encoder(self) -> Any:
        scratch = bytearray(1 << 20)

        def encode(messages: Sequence[Buffer]) -> list[Buffer]:
            stream = b"".join(map(bytes, Netstring.encoder(self)(messages)))
            scratch[: len(stream)] = stream
            return [memoryview(scratch)[: len(stream)]]

        return encode


@found_by("an early end is noticed")
class SwallowsTheEnd(NetstringDecoder):
    def finish(self) -> list[bytes]:
        return []


@found_by("there are three outcomes")
class RaisesAtOnce(NetstringDecoder):
    def feed(self, data: Buffer) -> list[bytes]:
        messages = super().feed(data)
        if self.error is not None:
            raise self.error
        return messages


@found_by("there are three outcomes")
class RaisesWhateverComes(NetstringDecoder):
    def cut(self, data: bytearray, start: int) -> tuple[bytes, int] | None:
        int(bytes(data[start : start + 1]))
        return super().cut(data, start)


@found_by("there are three outcomes")
class GoesOnAfterAnError(NetstringDecoder):
    def feed(self, data: Buffer) -> list[bytes]:
        return [] if self.error is not None else super().feed(data)


@found_by("there are three outcomes")
class HasItsOwnErrors(NetstringDecoder):
    @property
    def error(self) -> Any:
        return super().error and ValueError("that is wrong")


@found_by("damage is found wherever the bytes are cut")
class WordsItsErrorsByTheRead(NetstringDecoder):
    """What its error is depends on how much came with it."""

    def cut(self, data: bytearray, start: int) -> tuple[bytes, int] | None:
        try:
            return super().cut(data, start)
        except DecodeError:
            if len(data) - start < 3:
                raise DecodeError("bad_version", "a frame that is too short to tell") from None
            raise


@found_by("damage is found wherever the bytes are cut")
class TrustsTheCut(NetstringDecoder):
    """A delimiter that a read begins with, and does not end with, is not looked at."""

    def feed(self, data: Buffer) -> list[bytes]:
        self.before = len(self._arrived) if len(data) > 1 else -1
        return super().feed(data)

    def cut(self, data: bytearray, start: int) -> tuple[bytes, int] | None:
        colon = data.find(b":", start, start + 8)
        digits = bytes(data[start : max(colon, start)])
        end = colon + 1 + int(digits) if digits.isdigit() else -1
        if 0 < end == self.before and end < len(data) and end - colon - 1 <= self.frame_bytes_max:
            return bytes(data[colon + 1 : end]), end + 1
        return super().cut(data, start)


@found_by("a frame costs no more byte by byte the longer it is")
class SearchesFromTheStart(NetstringDecoder):
    def cut(self, data: bytearray, start: int) -> tuple[bytes, int] | None:
        data.find(b",", start)
        return super().cut(data, start)


@found_by("a frame costs no more byte by byte the longer it is")
class CopiesAllAtEachByte(NetstringDecoder):
    def cut(self, data: bytearray, start: int) -> tuple[bytes, int] | None:
        rest = bytes(data[start:])
        found = super().cut(bytearray(rest), 0)
        return found and (found[0], start + found[1])


@found_by("a frame costs no more byte by byte the longer it is")
class AddsItsBytesUpAgain(NetstringDecoder):
    def cut(self, data: bytearray, start: int) -> tuple[bytes, int] | None:
        seen = 0
        for at in range(start, len(data)):
            seen += data[at] & 1
        return super().cut(data, start)


@found_by("a frame costs no more byte by byte the longer it is")
class KeepsBytes(NetstringDecoder):
    """What has arrived is one object of bytes, made anew by each read."""

    tail = b""

    @property
    def pending_bytes(self) -> int:
        return len(self.tail)

    def feed(self, data: Buffer) -> list[bytes]:
        self.tail += bytes(data)
        before = len(self._arrived)
        messages = super().feed(data)
        self.tail = self.tail[before + len(data) - len(self._arrived) :] if messages else self.tail
        return messages


@found_by("it agrees with its reference")
class TakesAnyEnd(NetstringDecoder):
    def cut(self, data: bytearray, start: int) -> tuple[bytes, int] | None:
        colon = data.find(b":", start, start + 8)
        if colon > start and bytes(data[start:colon]).isdigit():
            end = colon + 1 + int(data[start:colon])
            if int(data[start:colon]) <= self.frame_bytes_max and end < len(data):
                return bytes(data[colon + 1 : end]), end + 1
        return super().cut(data, start)


@found_by("its limit holds")
class WaitsForTheWholeFrame(NetstringDecoder):
    """Checks the limit when the frame is there, and held."""

    def cut(self, data: bytearray, start: int) -> tuple[bytes, int] | None:
        limit, self.frame_bytes_max = self.frame_bytes_max, 1 << 30
        found = super().cut(data, start)
        self.frame_bytes_max = limit
        if found is not None and len(found[0]) > limit:
            raise DecodeError("too_large", "a frame over the limit")
        return found


@found_by("its limit is met to the byte")
class StopsOneByteBelow(NetstringDecoder):
    def cut(self, data: bytearray, start: int) -> tuple[bytes, int] | None:
        found = super().cut(data, start)
        if found is not None and len(found[0]) >= self.frame_bytes_max:
            raise DecodeError("too_large", "a frame at the limit")
        return found


@found_by("its limit is met to the byte")
class StopsOneByteAbove(NetstringDecoder):
    def __init__(self, frame_bytes_max: int) -> None:
        super().__init__(frame_bytes_max + 1)


@found_by("its limit is met to the byte")
class CountsWhatHasArrived(NetstringDecoder):
    """Whole frames pass, and unfinished ones are refused when as many bytes are there as their message may have."""

    def feed(self, data: Buffer) -> list[bytes]:
        messages = super().feed(data)
        if len(self._arrived) > self.frame_bytes_max and self._error is None:
            self._error = DecodeError("too_large", "too many bytes without an end")
        return messages


@found_by("its limit holds")
class HasNoLimit(Netstring):
    pass


@found_by("nothing grows without end")
class WaitsForTheColon(NetstringDecoder):
    def cut(self, data: bytearray, start: int) -> tuple[bytes, int] | None:
        if data.find(b":", start) < 0 and bytes(data[start : start + 1]).isdigit():
            return None
        return super().cut(data, start)


@found_by("what cannot be sent is refused")
@dataclasses.dataclass(frozen=True)
class CutsAtNul(Netstring):
    def encoder(self) -> Any:
        def encode(messages: Sequence[Buffer]) -> list[bytes]:
            return [b"%d:%b," % (len(m), m) for m in (bytes(message).partition(b"\x00")[0] for message in messages)]

        return encode


@found_by("what cannot be sent is refused")
@dataclasses.dataclass(frozen=True)
class RefusesInItsOwnWay(Netstring):
    def encoder(self) -> Any:
        def encode(messages: Sequence[Buffer]) -> list[Buffer]:
            if any(bytes(message).startswith(b"\n") for message in messages):
                raise ValueError("no newlines")
            return Netstring.encoder(self)(messages)

        return encode


def no_limit() -> type:
    """A framing without an option for its limit."""

    @dataclasses.dataclass(frozen=True)
    class Limitless:
        name: ClassVar[str] = "limitless"
        api_version: ClassVar[int] = 1
        channels: ClassVar[bool] = False
        keeps_messages: ClassVar[bool] = True

        def decoder(self) -> Any:
            return NetstringDecoder(1 << 20)

        encoder = Netstring.encoder

    return Limitless


FAULTS = [(check, no_limit() if fault is HasNoLimit else fault) for check, fault in FAULTS]


def suite_of(kind: type) -> type[FramingSuite]:
    return type("SuiteOfOne", (NetstringSuite,), {"framing": kind})


@pytest.mark.parametrize(("check", "fault"), [pytest.param(c, f, id=f"{f.__name__}-{c}") for c, f in FAULTS])
def test_each_fault_is_found(check: str, fault: type):
    [outcome] = run_checks(suite_of(fault), ["test_" + check.replace(" ", "_")])
    assert outcome.status == "failed", outcome
    assert outcome.detail.isprintable()


class TestSound(NetstringSuite):
    """What the faults start from has none."""


def test_every_check_has_a_fault():
    assert {check for check, _ in FAULTS} == {
        name.removeprefix("test_").replace("_", " ") for name in FramingSuite.check_names()
    }


def test_an_encoder_that_refuses_by_its_own_error_is_named():
    [outcome] = run_checks(suite_of(RefusesInItsOwnWay), ["test_what_cannot_be_sent_is_refused"])
    assert "the encoder raised ValueError: no newlines" in outcome.detail
    assert issubclass(EncodeError, ValueError)
