"""Shared keys and their text form: one `ID:SECRET` a line, the secret in base64, `#` before a comment.

An id is a name, or `NAME/GENERATION`: a server that holds `alice/1` and `alice/2` takes either for the principal
`alice`, which is how a key is changed without a moment at which nobody gets in. A client proves the first key of its
file.

No error, `repr` or log line ever holds a secret, nor the line on which one stands.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from kernel.errors import UsageError

SECRET_BYTES = 32
SECRET_BYTES_MIN = 16
SECRET_BYTES_MAX = 256
ID_BYTES_MAX = 80

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}(/[A-Za-z0-9._-]{1,16})?", re.A)


@dataclass(frozen=True, slots=True)
class Key:
    """A secret that two sides share.

    Attributes:
        id: which one it is; not secret, it crosses the wire.
        secret: never shown.
    """

    id: str
    secret: bytes = field(repr=False)

    @property
    def name(self) -> str:
        """Whose key it is: the id without its generation."""
        return self.id.partition("/")[0]

    def line(self) -> str:
        """The key as `Keyring.parse` reads it. This is the secret itself."""
        return f"{self.id}:{base64.b64encode(self.secret).decode()}"


class Keyring:
    """Some keys, each with an id of its own.

    Args:
        keys: at least one.

    Raises:
        UsageError: there is none, or two have the same id.
    """

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys: dict[str, Key] = {}
        for key in keys:
            if key.id in self._keys:
                raise UsageError(f"the key '{key.id}' stands there twice: give one of them another id")
            self._keys[key.id] = key
        if not self._keys:
            raise UsageError("there is no key: `kernel keys new FILE` makes one")

    @classmethod
    def parse(cls, text: str, origin: str) -> Keyring:
        """Read keys from their text form.

        Args:
            origin: where the text is from, for messages.

        Raises:
            UsageError: a line that is no key; the message names the line by its number only.
        """
        try:
            return cls(_parse_lines(text, origin))
        except UsageError as error:
            raise error if str(error).startswith(origin) else UsageError(f"{origin}: {error}") from None

    @property
    def first(self) -> Key:
        """The key that a client proves."""
        return next(iter(self))

    def find(self, key_id: str) -> Key | None:
        return self._keys.get(key_id)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    def __repr__(self) -> str:
        return f"<Keyring {', '.join(self._keys)}>"


def new_key(key_id: str) -> Key:
    """A key of 32 random bytes.

    Raises:
        UsageError: that cannot be an id.
    """
    return Key(_checked_id(key_id), secrets.token_bytes(SECRET_BYTES))


def _parse_lines(text: str, origin: str) -> Iterator[Key]:
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            try:
                yield _parse_key(stripped)
            except UsageError as error:
                raise UsageError(f"{origin}, line {number}: {error}") from None


def _parse_key(line: str) -> Key:
    key_id, colon, encoded = line.partition(":")
    if not colon:
        raise UsageError("a key is ID:SECRET, as `kernel keys new FILE` writes it")
    try:
        secret = base64.b64decode(encoded.strip(), altchars=b"-_" if set(encoded) & {"-", "_"} else None, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("the secret is not base64") from None
    if not SECRET_BYTES_MIN <= len(secret) <= SECRET_BYTES_MAX:
        raise UsageError(
            f"the secret has {len(secret)} bytes, it must have {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX}: "
            "`kernel keys new FILE` makes a good one"
        )
    return Key(_checked_id(key_id.strip()), secret)


def _checked_id(key_id: str) -> str:
    if not _ID.fullmatch(key_id):
        raise UsageError(
            "a key's id is a name of letters, digits and . _ @ -, with /GENERATION behind it if need be: alice, alice/2"
        )
    return key_id
