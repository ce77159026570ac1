"""What goes wrong in framing, said once for both engines.

    FramingError            has a code, and one line that names the sizes
    ├── DecodeError         the peer's bytes are no frames: final for their stream
    └── EncodeError         the caller's message doesn't fit the layout: nothing was made

The engines find errors; the functions below word them, so that both engines say the same.
"""

from __future__ import annotations

import enum


class ErrorCode(enum.StrEnum):
    """Why framing failed; stable names, fit for logs and metrics."""

    TOO_LARGE = "too_large"
    NEGATIVE_LENGTH = "negative_length"
    BAD_LENGTH = "bad_length"
    BAD_VERSION = "bad_version"
    BAD_CHECKSUM = "bad_checksum"
    BAD_MAGIC = "bad_magic"
    BAD_FRAGMENT = "bad_fragment"
    BAD_DELIMITER = "bad_delimiter"
    TRUNCATED = "truncated"


class FramingError(ValueError):
    """`code` says which error it is, `str()` says it in one line for a person."""

    def __init__(self, code: ErrorCode | str, message: str) -> None:
        super().__init__(message)
        self.code = ErrorCode(code)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.code, str(self))


class DecodeError(FramingError):
    """What arrived can't be framed."""


class EncodeError(FramingError):
    """What was to be sent can't be framed."""


def negative_length(length: int) -> DecodeError:
    return DecodeError("negative_length", f"a frame announces a negative length, {length}")


def short_length(length: int, length_min: int) -> DecodeError:
    return DecodeError(
        "bad_length",
        f"a frame announces a length of {length}, the least that its layout allows is {length_min}",
    )


def frame_too_large(frame_bytes: int, frame_bytes_max: int) -> DecodeError:
    return DecodeError(
        "too_large",
        f"a frame announces {frame_bytes} bytes, the limit is {frame_bytes_max} (frame_bytes_max)",
    )


def line_too_large(line_bytes_max: int) -> DecodeError:
    return DecodeError("too_large", f"no end of line within {line_bytes_max} bytes (line_bytes_max)")


def bad_version(version: int, supported: int) -> DecodeError:
    return DecodeError("bad_version", f"a frame has version {version}, this side speaks version {supported}")


def bad_checksum(computed: int, received: int) -> DecodeError:
    return DecodeError(
        "bad_checksum",
        f"a frame's checksum is {received:#010x}, its bytes have {computed:#010x}: damaged on the way",
    )


def truncated(pending_bytes: int) -> DecodeError:
    return DecodeError("truncated", f"the stream ended inside a frame, {pending_bytes} bytes after its start")


def message_too_large(message_bytes: int, message_bytes_max: int) -> DecodeError:
    return DecodeError(
        "too_large",
        f"a message announces {message_bytes} bytes, the limit is {message_bytes_max} (message_bytes_max)",
    )


def message_overrun(message_bytes: int, total_bytes: int) -> DecodeError:
    return DecodeError("bad_length", f"{message_bytes} bytes have arrived of a message that announced {total_bytes}")


def short_packet(packet_bytes: int, packet_bytes_min: int) -> DecodeError:
    return DecodeError("truncated", f"a packet of {packet_bytes} bytes is shorter than its header, {packet_bytes_min}")


def bad_magic(magic: int, expected: int) -> DecodeError:
    return DecodeError(
        "bad_magic", f"a packet starts with {magic:#06x} and not with {expected:#06x}: not from a kernel"
    )


def bad_fragment(index: int, count: int, message_bytes: int, payload_bytes: int) -> DecodeError:
    return DecodeError(
        "bad_fragment",
        f"fragment {index} of {count} of a message of {message_bytes} bytes can't have {payload_bytes} bytes",
    )


def bad_message(count: int, message_bytes: int) -> DecodeError:
    return DecodeError("bad_fragment", f"a message of {message_bytes} bytes can't come in {count} fragments")


def unsendable_size(message_bytes: int, message_bytes_max: int, name: str) -> EncodeError:
    return EncodeError("too_large", f"a message has {message_bytes} bytes, the limit is {message_bytes_max} ({name})")


def unsendable_length(length: int, width: int, signed: bool) -> EncodeError:
    kind = "signed" if signed else "unsigned"
    return EncodeError(
        "bad_length",
        f"a length of {length} does not fit a length field of {width} {kind} bytes: send less at once, or let both "
        "sides take a wider one (width)",
    )


def missing_prefix(message_bytes: int, offset: int) -> EncodeError:
    return EncodeError(
        "bad_length",
        f"a message has {message_bytes} bytes, the layout wants {offset} before its length (offset)",
    )


def unsendable_line(delimiter: bytes) -> EncodeError:
    return EncodeError(
        "bad_delimiter",
        f"a message holds what ends a line, {delimiter!r}: send its lines one by one, or take framing=length or knl",
    )


def out_of_range(name: str, value: int, high: int) -> ValueError:
    return ValueError(f"{name} is {value}, it must be from 0 to {high}")


def no_room(packet_bytes_max: int, header_bytes: int) -> ValueError:
    return ValueError(f"packet_bytes_max is {packet_bytes_max}, it must be over {header_bytes}, the packet's header")


def unfinished(missing: int) -> ValueError:
    return ValueError(f"the message isn't whole, {missing} fragments are missing")
