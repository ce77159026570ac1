"""The checks of a framing: the same messages wherever the bytes are cut, three outcomes, limits that hold.

    class TestMine(FramingSuite):
        framing = Mine                    # also when it is not installed; or as an endpoint says it: "length?width=2"

        def reference(self, stream):      # slow and plain: Outcomes([b"..."], corrupt=False, rest=False)
            ...

The kit makes its streams with the framing's own encoder, cuts them anywhere, damages them, ends them early, and
compares what comes of it with the same bytes in one chunk, and with the reference where there is one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from kernel import options
from kernel.endpoint import Endpoint
from kernel.errors import OptionError
from kernel.framing import Buffer, DecodeError, Decoder, EncodeError
from kernel.registry import FRAMINGS, Registry
from kernel.testing.checks import CheckFailed, Suite, check, require, skip
from kernel.testing.work import work_of_feeding

_SIZES = (1, 2, 3, 7, 0, 64, 255, 256, 1)
_LONG_BYTES = 300 * 1024
_NOISE_STREAMS = 200
_DAMAGED_STREAMS = 300
_CUT_EVERYWHERE_BYTES = 3000
_SMALL_LIMIT_BYTES = 64
# What a decoder may hold beyond its limit: a header, and what it takes in before it looks.
_SLACK_BYTES = 256
_FLOOD_BYTES = 64 * 1024
# The limits at whose edges messages are tried.
_EDGE_LIMITS = (40, 41, 64)
# Two messages of such sizes, the second one `_LONGER` times as long, for comparing what a byte of each costs.
_WORK_BYTES = (256, 60)
_LONGER = 4
_GROWTH_MAX = 1.5
# Less work than that a byte is not compared: it is an allocation that falls into one of them.
_WORK_MIN = 16
# Of a stream so short every byte is damaged, and it is cut everywhere.
_SHORT_STREAM_BYTES = 80


class Outcomes(NamedTuple):
    """What a decoder makes of a whole stream.

    Attributes:
        messages: in order; those before the fault, where there is one.
        corrupt: the bytes are no frames.
        rest: the stream ended inside a frame.
    """

    messages: list[Any]
    corrupt: bool = False
    rest: bool = False


class FramingSuite(Suite):
    """Everything that a framing promises (`kernel.framing.entry.Framing`), one check a promise.

    Attributes:
        framing: the class, or the name of an installed one, with options behind a `?`.
        options: the options of a class, as they would stand behind the `?`.
    """

    framing: ClassVar[type | str] = ""
    options: ClassVar[str] = ""
    stuck_seconds_max: ClassVar[float] = 120.0  # nothing here waits: a check is one long turn of the loop

    # --- what a subclass may change ----------------------------------------------------------------------------------

    def reference(self, stream: bytes) -> Outcomes | None:
        """What must come of a whole stream, by an implementation plain rather than fast; None: there is none."""
        return None

    def samples(self) -> list[bytes]:
        """Messages that the framing carries, of all sorts; the default leaves out those that its encoder refuses."""
        kinds = (lambda size: bytes(range(65, 91)) * (size // 26 + 1), lambda size: random.Random(size).randbytes(size))
        return [message for size in _SIZES for kind in kinds if self._carries(message := kind(size)[:size])]

    def encode(self, messages: Sequence[Buffer]) -> bytes:
        """The messages as one stream."""
        return b"".join(bytes(buffer) for buffer in self.made.encoder()(messages))

    def longest(self, limit_bytes: int) -> int | None:
        """How long a message a limit lets pass; None: the message may be as long as the limit, or else its frame."""
        return None

    def normal(self, frames: Sequence[Any]) -> list[Any]:
        """Frames as they are compared; of a framing with channels, runs are joined or cut here."""
        return list(frames)

    # --- for the checks --------------------------------------------------------------------------------------------

    @functools.cached_property
    def asked(self) -> Endpoint:
        """What is under test as a name with options."""
        text = self.framing if isinstance(self.framing, str) else f"{self.kind.name}?{self.options}"
        return Endpoint.parse(f"framing://{text}")

    @functools.cached_property
    def kind(self) -> Any:
        """The class under test."""
        return Registry().load(FRAMINGS, self.asked.address) if isinstance(self.framing, str) else self.framing

    @functools.cached_property
    def made(self) -> Any:
        """The framing with its options."""
        return self.make()

    def make(self, **changes: object) -> Any:
        """The framing with its options, some of them changed."""
        return options.parse(self.kind, {**self.asked.options, **changes}, f"the framing {self.kind.name}")

    def decode(self, chunks: Sequence[Buffer], framing: Any = None) -> tuple[Outcomes, str]:
        """What comes of a stream in these chunks, and the code of its error."""
        decoder: Decoder[Any] = (framing or self.made).decoder()
        frames: list[Any] = []
        for chunk in chunks:
            frames += decoder.feed(chunk)
            if decoder.error is not None:
                return Outcomes(self.normal(frames), corrupt=True), _code(decoder)
        frames += decoder.finish()
        return Outcomes(self.normal(frames), rest=decoder.error is not None), _code(decoder)

    def _carries(self, message: bytes) -> bool:
        """Whether the encoder takes a message, and as a message of its own."""
        try:
            return self._keeps_messages and self.decode([self.encode([message])])[0].messages == self.normal([message])
        except EncodeError:
            return False

    @property
    def _keeps_messages(self) -> bool:
        keeps: bool = self.made.keeps_messages
        return keeps

    def _stream(self) -> bytes:
        return self.encode(self.samples())

    # --- the checks ------------------------------------------------------------------------------------------------

    @check
    async def test_it_is_declared(self) -> None:
        """It is a frozen dataclass whose options all have defaults, with `name`, `api_version` and what it keeps."""
        framing, kind = self.made, self.kind
        parameters = getattr(kind, "__dataclass_params__", None)
        require(parameters is not None and parameters.frozen, f"{kind.__name__} is not a frozen dataclass")
        fields = dataclasses.fields(kind)
        absent = [field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING]
        require(not absent, f"these options have no default: {', '.join(absent)}")
        for name, sort in (("name", str), ("api_version", int), ("channels", bool), ("keeps_messages", bool)):
            value = getattr(kind, name, None)
            require(type(value) is sort, f"its `{name}` is {value!r}, not {sort.__name__}")
        same = self.make()
        require(framing == same and hash(framing) == hash(same), "two with the same options are not equal")

    @check
    async def test_wrong_options_are_refused(self) -> None:
        """A value out of range is refused when the framing is made, by a ValueError in one line."""
        for field in dataclasses.fields(self.made):
            for value in (-1, 0, 1 << 80, "", "\x00"):
                if type(value) is type(field.default):
                    with contextlib.suppress(ValueError):  # OptionError is one
                        self._try_making(field.name, value)

    def _try_making(self, name: str, value: object) -> None:
        try:
            framing = self.make(**{name: value})
            framing.decoder()
        except (ValueError, OptionError) as error:
            require(str(error).isprintable() and str(error), f"{name}={value!r} is refused by {str(error)!r}")
        except Exception as error:
            raise CheckFailed(f"{name}={value!r} raised {type(error).__name__}: {error}") from error

    @check
    async def test_what_is_encoded_is_decoded(self) -> None:
        """Messages of all sizes come out as they went in: alone, together, and from every kind of buffer."""
        self._only_if_it_keeps_messages()
        samples = self.samples()
        require(len(samples) >= 5, "the encoder takes hardly any message: override `samples()`")
        for message in samples:
            self._require_same([message], self.encode([message]), "one message")
        self._require_same(samples, self._stream(), "all samples in one stream")
        self._require_same(
            samples, b"".join(self.encode([message]) for message in samples), "samples encoded one by one"
        )
        views = [kind(message) for message in samples for kind in (bytes, bytearray, memoryview)]
        self._require_same([message for message in samples for _ in range(3)], self.encode(views), "other buffers")
        require(self.encode([]) == b"", "no messages make some bytes")

    @check
    async def test_long_messages_pass(self) -> None:
        """A message of some hundred KiB passes, also into the decoder's own buffer where it lends one (`wanted`)."""
        self._only_if_it_keeps_messages()
        message = b"long" * (_LONG_BYTES // 4)
        if not self._carries(message):
            skip("its limit is lower")
        stream = self.encode([b"first", message, b"last"])
        expected = self.normal([b"first", message, b"last"])
        for size in (1000, 65536):
            require(self._receive(stream, size) == expected, f"received {size} bytes at a time, they differ")

    def _receive(self, stream: bytes, size: int) -> list[Any]:
        """As the kernel does: into the decoder's own buffer while it lends one."""
        decoder = self.made.decoder()
        frames: list[Any] = []
        at = 0
        while at < len(stream):
            view = decoder.wanted()
            taken = min(size, len(stream) - at, size if view is None else len(view))
            if view is None:
                frames += decoder.feed(stream[at : at + taken])
            else:
                view[:taken] = stream[at : at + taken]
                frames += decoder.filled(taken)
            at += taken
        return self.normal([*frames, *decoder.finish()])

    @check
    async def test_every_split_point_gives_the_same(self) -> None:
        """A stream cut at any byte, at every byte, and at random gives the same messages as in one chunk."""
        self._only_if_it_keeps_messages()
        stream = self._stream()
        whole, _ = self.decode([stream])
        for at in range(min(len(stream), _CUT_EVERYWHERE_BYTES)):
            require(self.decode([stream[:at], stream[at:]])[0] == whole, f"cut at byte {at}, the messages differ")
        require(self.decode(_bytewise(stream))[0] == whole, "fed byte by byte, the messages differ")
        for seed in range(50):
            require(self.decode(_cut(stream, seed))[0] == whole, f"cut at random ({seed=}), the messages differ")
        require(self.decode([b"", stream[:5], b"", stream[5:], b""])[0] == whole, "empty chunks change the messages")

    @check
    async def test_messages_come_at_once(self) -> None:
        """A message is handed out with its last byte, not later; between two, nothing is pending."""
        self._only_if_it_keeps_messages()
        decoder = self.made.decoder()
        for number, message in enumerate(self.samples()):
            frames = decoder.feed(self.encode([message]))
            require(self.normal(frames) == self.normal([message]), f"message {number} waits for what follows it")
            require(decoder.pending_bytes == 0, f"pending_bytes is {decoder.pending_bytes} between two messages")

    @check
    async def test_pending_bytes_are_told(self) -> None:
        """`pending_bytes` is not 0 inside a frame, and 0 after it."""
        self._only_if_it_keeps_messages()
        stream = self.encode([b"pending"])
        decoder = self.made.decoder()
        for at in range(len(stream) - 1):
            decoder.feed(stream[at : at + 1])
            require(decoder.pending_bytes > 0, f"pending_bytes is 0 after {at + 1} bytes of a frame of {len(stream)}")

    @check
    async def test_what_is_fed_is_not_kept(self) -> None:
        """The buffer that is fed belongs to its owner: what is written into it later changes no message."""
        sent = self._stream() or b"some bytes"
        whole, _ = self.decode([sent])
        for size in (1, 10, 1000, len(sent)):
            decoder = self.made.decoder()
            frames: list[Any] = []
            scratch = bytearray(size)
            for at in range(0, len(sent), size):
                part = sent[at : at + size]
                scratch[: len(part)] = part
                frames += decoder.feed(memoryview(scratch)[: len(part)])
                scratch[:] = b"\xaa" * size
            if self._keeps_messages:
                found = self.normal([*frames, *decoder.finish()])
                require(found == whole.messages, "a message changed when its buffer was used again")
            else:
                require(b"".join(frames) == sent, "what was read changed when its buffer was used again")

    @check
    async def test_decoders_know_nothing_of_each_other(self) -> None:
        """Two streams that are read by turns give what each gives alone: nothing is kept but in a decoder."""
        self._only_if_it_keeps_messages()
        streams = [self._stream(), self.encode(self.samples()[::-1])]
        found: list[list[Any]] = [[], []]
        decoders = [self.made.decoder() for _ in streams]
        for at in range(max(map(len, streams))):
            for decoder, stream, frames in zip(decoders, streams, found, strict=True):
                frames += decoder.feed(stream[at : at + 1])
        for frames, messages in zip(found, (self.samples(), self.samples()[::-1]), strict=True):
            require(
                self.normal(frames) == self.normal(messages), "one stream's bytes came out of another one's decoder"
            )

    @check
    async def test_what_was_encoded_stays_as_it_is(self) -> None:
        """What the encoder has given is not changed by what it encodes next: it may still wait to be sent."""
        if self.made.channels:
            skip("its encoder takes frames, not messages")
        encode = self.made.encoder()
        first, second = [b"first" * 5], [b"other" * 5]
        given = encode(first)
        before = b"".join(map(bytes, given))
        encode(second)
        require(b"".join(map(bytes, given)) == before, "what was encoded changed when the next message was encoded")
        require(first == [b"first" * 5], "the encoder changed the list of messages that it was given")

    @check
    async def test_an_early_end_is_noticed(self) -> None:
        """A stream that ends inside a frame is corrupt, or its rest is a message; between frames it is neither."""
        self._only_if_it_keeps_messages()
        stream = self.encode([b"one", b"two"])
        first = len(self.encode([b"one"]))
        for at in range(len(stream)):
            decoder = self.made.decoder()
            frames = decoder.feed(stream[:at])
            pending = decoder.pending_bytes
            frames += decoder.finish()
            whole = self.normal([b"one"] if at >= first else [])
            if at in (0, first):
                require(
                    self.normal(frames) == whole and decoder.error is None, f"an end after {at} bytes, between frames"
                )
            elif decoder.error is None:
                require(
                    pending and len(frames) > len(whole), f"the end after {at} bytes, inside a frame, is not noticed"
                )
            else:
                require(isinstance(decoder.error, DecodeError), f"its error is {decoder.error!r}, not a DecodeError")

    @check
    async def test_there_are_three_outcomes(self) -> None:
        """Whatever the bytes are: messages, more needed, or corrupt; `feed` raises only after `error` is set."""
        for seed in range(_NOISE_STREAMS):
            self._feed_anything(_noise(seed))
        for number in range(256):
            self._feed_anything(bytes([number]) * 500)

    @check
    async def test_damage_is_found_wherever_the_bytes_are_cut(self) -> None:
        """A damaged stream gives the same messages and the same error in one chunk, in many, and byte by byte."""
        for stream in self._damaged():
            self._feed_anything(stream)
            self._require_same_however_cut(stream, [_bytewise(stream), _cut(stream, len(stream))])
        for stream in self._damaged_everywhere():
            self._require_same_however_cut(stream, _all_cuts(stream))

    @check
    async def test_a_frame_costs_no_more_byte_by_byte_the_longer_it_is(self) -> None:
        """Fed byte by byte, the work of a byte is the same in a long frame: what has been looked at is not again."""
        self._only_if_it_keeps_messages()
        fits = [size for size in _WORK_BYTES if self._carries(b"w" * _LONGER * size)]
        if not fits:
            skip("its frames are short")
        short_bytes, long_bytes = (len(self.encode([b"w" * size])) for size in (fits[0], _LONGER * fits[0]))
        expected = max(_WORK_MIN, self._work_of(fits[0]) / short_bytes) * long_bytes
        work = self._work_of(_LONGER * fits[0], _GROWTH_MAX * expected)
        told = (
            f"byte by byte, a frame of {long_bytes} bytes costs more than its share beside one of {short_bytes} bytes"
        )
        require(work <= _GROWTH_MAX * expected, f"{told}: what has been looked at is looked at again")

    def _work_of(self, message_bytes: int, units_max: float = math.inf) -> int:
        chunks = _bytewise(self.encode([b"w" * message_bytes]))
        return work_of_feeding(self.made.decoder(), chunks, units_max)

    @check
    async def test_it_agrees_with_its_reference(self) -> None:
        """Every stream, sound or damaged, gives what a slow and plain implementation makes of it."""
        self._only_if_it_keeps_messages()
        for stream in [b"", self._stream(), *self._damaged(), *map(_noise, range(_NOISE_STREAMS))]:
            expected = self.reference(stream)
            if expected is None:
                skip("there is none: define `reference`")
                return
            found, code = self.decode([stream])
            require(
                found == expected, f"{_shown(stream)}: it gives {_told(found, code)}, the reference {_told(expected)}"
            )

    @check
    async def test_its_limit_holds(self) -> None:
        """A frame over the limit is refused from its header, or at the limit: no more than that is ever held."""
        self._only_if_it_keeps_messages()
        limits = self._limits()
        require(limits, "it has no option that ends with _bytes_max: a peer decides how much its decoder holds")
        small = self._limited(_SMALL_LIMIT_BYTES)
        stream = self._frame_over(_SMALL_LIMIT_BYTES)
        decoder = small.decoder()
        for count, byte in enumerate(_bytewise(stream), start=1):
            frames = decoder.feed(byte)
            require(not frames, f"a message came out of a frame over the limit of {_SMALL_LIMIT_BYTES} bytes")
            if decoder.error is not None:
                break
            require(count <= _SMALL_LIMIT_BYTES + _SLACK_BYTES, f"{count} bytes of a frame over the limit were taken")
        require(decoder.error is not None, "a frame over the limit is not refused")
        found = self.decode([self.encode([b"x" * (_SMALL_LIMIT_BYTES // 2)])], small)[0]
        require(not found.corrupt, "a frame of half the limit is refused")

    @check
    async def test_its_limit_is_met_to_the_byte(self) -> None:
        """A message as long as the limit passes, one byte more does not, wherever the bytes are cut."""
        self._only_if_it_keeps_messages()
        if not self._limits():
            skip("it has no option that ends with _bytes_max")
        for limit in _EDGE_LIMITS:
            framing = self._limited(limit)
            stream = self.encode([b"x" * limit])
            sizes = range(limit - len(stream), limit + 4) if len(stream) < 2 * limit else range(limit + 4)
            passes = [size for size in sizes if size > 0 and self._passes(size, framing)]
            require(passes, f"with a limit of {limit} bytes, no message of about that length passes")
            self._require_exact(limit, passes[-1], len(stream) - limit)
            self._require_edge(framing, passes[-1])

    def _passes(self, size: int, framing: Any) -> bool:
        try:
            return not self.decode([self.encode([b"x" * size])], framing)[0].corrupt
        except EncodeError:
            return False

    def _require_exact(self, limit: int, found: int, overhead: int) -> None:
        """The longest message is as long as the limit, or its frame is."""
        expected = self.longest(limit)
        right = {limit, limit - overhead} if expected is None else {expected}
        wanted = " or ".join(map(str, sorted(right)))
        require(found in right, f"with a limit of {limit} bytes the longest message has {found}, not {wanted}")

    def _require_edge(self, framing: Any, longest: int) -> None:
        """Around the longest message, the outcome is the same wherever the bytes are cut."""
        for size in (longest - 1, longest, longest + 1):
            with contextlib.suppress(EncodeError):
                stream = self.encode([b"x" * size]) + self.encode([b"y"])
                self._require_same_however_cut(stream, [_bytewise(stream), *_all_cuts(stream)], framing)

    @check
    async def test_nothing_grows_without_end(self) -> None:
        """Bytes that never end a frame are given up at the limit: no decoder holds more (where a limit can be set)."""
        small = self._limited(_SMALL_LIMIT_BYTES)
        for number in (0, 1, 9, 32, 48, 49, 57, 65, 127, 128, 255):
            decoder = small.decoder()
            for _ in range(_FLOOD_BYTES // 64):
                decoder.feed(bytes([number]) * 64)
                if decoder.error is not None:
                    break
                held = decoder.pending_bytes
                require(held <= _SMALL_LIMIT_BYTES + _SLACK_BYTES, f"{held} bytes are held of an endless {number:#04x}")

    @check
    async def test_what_cannot_be_sent_is_refused(self) -> None:
        """The encoder refuses by `EncodeError` and nothing else; what it takes comes out as one message."""
        self._only_if_it_keeps_messages()
        for message in [b"", b"\n", b"\r", b"a\nb", b"\x00", b"\xff" * 300, bytes(range(256)), *map(_noise, range(50))]:
            try:
                stream = self.encode([message])
            except EncodeError:
                continue
            except Exception as error:
                raise CheckFailed(f"{_shown(message)}: the encoder raised {type(error).__name__}: {error}") from error
            found, code = self.decode([stream])
            lossless = found.messages == self.normal([message]) or self._is_folded(message, found)
            require(lossless, f"{_shown(message)} was encoded, and decoding gives {_told(found, code)}")

    def _frame_over(self, limit_bytes: int) -> bytes:
        """A frame that is much longer than a limit, or a bit where its header says no more."""
        try:
            return self.encode([b"x" * 40 * limit_bytes])
        except EncodeError:
            return self.encode([b"x" * 3 * limit_bytes])

    def _is_folded(self, message: bytes, found: Outcomes) -> bool:
        """A framing may take white space off a message's end, as lines do, but never make two messages of one."""
        return found.messages == self.normal([message.rstrip()])

    # --- inside ----------------------------------------------------------------------------------------------------

    def _only_if_it_keeps_messages(self) -> None:
        if not self._keeps_messages:
            skip("its messages are whatever a read brings")

    def _limits(self) -> list[str]:
        return [field.name for field in dataclasses.fields(self.made) if field.name.endswith("_bytes_max")]

    def _limited(self, limit_bytes: int) -> Any:
        """The framing with other limits."""
        return self.make(**dict.fromkeys(self._limits(), limit_bytes))

    def _require_same_however_cut(self, stream: bytes, ways: Iterable[Sequence[bytes]], framing: Any = None) -> None:
        whole, code = self.decode([stream], framing)
        for chunks in ways:
            cut, cut_code = self.decode(chunks, framing)
            same = (cut, cut_code) == (whole, code) or not self._keeps_messages
            told = f"one chunk gives {_told(whole, code)}, {len(chunks)} give {_told(cut, cut_code)}"
            require(same, f"{_shown(stream)}: {told}")

    def _require_same(self, messages: list[bytes], stream: bytes, what: str) -> None:
        found, code = self.decode([stream])
        require(not found.corrupt and not found.rest, f"{what}: decoding failed: {code}")
        require(found.messages == self.normal(messages), f"{what}: what comes out differs from what went in")

    def _damaged(self) -> Iterator[bytes]:
        """Streams of the framing's own, each damaged in a few places."""
        stream = self._stream() or _noise(0)
        for seed in range(_DAMAGED_STREAMS):
            chance = random.Random(seed)
            start = chance.randrange(len(stream))
            damaged = bytearray(stream[start if chance.random() < 0.3 else 0 :][:500])
            for _ in range(chance.randrange(1, 4)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            yield bytes(damaged)

    def _damaged_everywhere(self) -> Iterator[bytes]:
        """A short stream, each of its bytes made another one."""
        messages = self.samples()[:4]
        while len(stream := self.encode(messages)) > _SHORT_STREAM_BYTES and len(messages) > 1:
            messages.pop()
        for at, byte in enumerate(stream[:_SHORT_STREAM_BYTES]):
            for other in (byte ^ 1, byte ^ 0x80, 0):
                yield stream[:at] + bytes([other]) + stream[at + 1 :]

    def _feed_anything(self, stream: bytes) -> None:
        decoder = self.made.decoder()
        try:
            decoder.feed(stream)
        except Exception as error:
            raise CheckFailed(f"{_shown(stream)}: feed() raised {type(error).__name__}: {error}") from error
        if decoder.error is None:
            return
        require(isinstance(decoder.error, DecodeError), f"its error is {decoder.error!r}, not a DecodeError")
        require(str(decoder.error).isprintable(), f"its error is not one printable line: {str(decoder.error)!r}")
        try:
            decoder.feed(b"more")
        except DecodeError:
            return
        raise CheckFailed("feed() goes on after the stream was found to be corrupt, in place of raising its error")


def _code(decoder: Decoder[Any]) -> str:
    return str(decoder.error.code) if decoder.error is not None else ""


def _bytewise(stream: bytes) -> list[bytes]:
    return [stream[at : at + 1] for at in range(len(stream))]


def _all_cuts(stream: bytes) -> Iterator[list[bytes]]:
    return ([stream[:at], stream[at:]] for at in range(1, len(stream)))


def _cut(stream: bytes, seed: int) -> list[bytes]:
    chance = random.Random(seed)
    cuts = sorted(chance.choices(range(len(stream) + 1), k=5))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def _noise(seed: int) -> bytes:
    """Bytes without a meaning; every other time digits and punctuation, which text protocols take for one."""
    chance = random.Random(seed)
    size = chance.randrange(1, 200)
    return chance.randbytes(size) if seed % 2 else bytes(chance.choices(b"0123456789:,;- \r\n\x00ab", k=size))


def _shown(stream: bytes) -> str:
    return f"{stream[:40]!r}{'...' if len(stream) > 40 else ''} ({len(stream)} bytes)"


def _told(found: Outcomes, code: str = "") -> str:
    state = "corrupt" if found.corrupt else "cut off" if found.rest else "in order"
    return f"{len(found.messages)} messages, {state}{f' ({code})' if code else ''}"
