"""TLS around any stream transport: `tls+tcp://host:port`, `tls+unix:path`. At least TLS 1.2.

A listener has a certificate (`cert`, `key`), or makes itself one (`self_signed.py`), whose fingerprint is then part of
the endpoint that it announces. With `client_ca` it takes only clients that show a certificate of that authority; the
certificate's first name becomes their principal.

A client accepts the server whose certificate has the fingerprint that it was told, or is good for the server's name by
the authorities of `ca`, else of the system. There is no way to accept just any.

The channel binding is the SHA-256 of the server's certificate (docs/decisions).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import re
import ssl
import stat
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, cast

from kernel.api import Acceptor, Capabilities, Connection, Layer, Listener, Principal
from kernel.endpoint import Endpoint
from kernel.errors import ChannelClosed, Code, DialError, KernelError, OptionError, StartError
from kernel.options import Meta

from . import self_signed
from .tls_connection import RECORD_BYTES, TlsConnection

_FINGERPRINT = re.compile(r"sha256:((?:[0-9a-f]{2}:?){32})", re.I)
_SERVER_OPTIONS = ("client_ca", "self_signed")
_CLIENT_OPTIONS = ("ca", "fingerprint", "server_name")
_PLAINTEXT_BYTES = 16 * RECORD_BYTES
# Of the names in a certificate, the first of these kinds is who it is.
_NAME_KINDS = ("URI", "DNS", "email")

_scratches: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = weakref.WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """`?key=value` of a tls+... endpoint."""

    cert: Annotated[str, Meta(description="PEM file: our certificate, with its chain")] = ""
    key: Annotated[str, Meta(description="PEM file: its private key; empty: it is in the same file")] = ""
    client_ca: Annotated[str, Meta(description="listener: PEM file of the authorities whose clients may come")] = ""
    self_signed: Annotated[str, Meta(description="listener without cert: where its own certificate is kept")] = ""
    ca: Annotated[str, Meta(description="client: PEM file of the authorities to trust; empty: the system's")] = ""
    fingerprint: Annotated[str, Meta(description="client: trust exactly this certificate, sha256:HEX")] = ""
    server_name: Annotated[str, Meta(description="client: the name in the certificate; empty: the host")] = ""


class Tls(Layer):
    """`tls+...`."""

    name = "tls"
    Options = TlsOptions

    @property
    def _tls(self) -> TlsOptions:
        return cast(TlsOptions, self.options)

    def capabilities(self) -> Capabilities:
        inner = self.inner.capabilities()
        if inner.preserves_messages or not (inner.reliable and inner.ordered):
            raise OptionError(f"'{self.endpoint}': TLS needs a stream below, such as tls+tcp:// or tls+unix:")
        return replace(inner, encrypted=True, identity="tls" if self._tls.client_ca else inner.identity)

    async def listen(self, accept: Acceptor) -> Listener:
        self._refuse_options(_CLIENT_OPTIONS, "a client")
        certificate = Path(self._tls.cert) if self._tls.cert else await self._own_certificate()
        context = self._context(ssl.PROTOCOL_TLS_SERVER, certificate, StartError)
        context.num_tickets = 0  # nobody resumes; a cache of sessions would only grow
        if self._tls.client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            self._load_authorities(context, self._tls.client_ca, StartError)
        own = _first_certificate(certificate)
        binding, scratch, limit = hashlib.sha256(own).digest(), _scratch(), self.limits.tls_handshake_bytes_max

        def wrap(incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
            return context.wrap_bio(incoming, outgoing, server_side=True)

        def verify(tls: ssl.SSLObject) -> tuple[Principal | None, bytes]:
            return _principal_of(tls), binding

        inner = await self.inner.listen(lambda below: accept(TlsConnection(below, wrap, verify, scratch, limit)))
        return TlsListener(inner, "" if self._tls.cert else fingerprint_of(own))

    async def dial(self) -> Connection:
        self._refuse_options(_SERVER_OPTIONS, "a listener")
        certificate = Path(self._tls.cert) if self._tls.cert else None
        context = self._context(ssl.PROTOCOL_TLS_CLIENT, certificate, DialError)
        pinned = self._pinned()
        if pinned:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # `verify` compares the fingerprint
        elif self._tls.ca:
            self._load_authorities(context, self._tls.ca, DialError)
        else:
            await asyncio.to_thread(context.load_default_certs)  # some hundred certificates, a tenth of a second
        name = self._tls.server_name or self._host()

        def wrap(incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
            return context.wrap_bio(incoming, outgoing, server_hostname=name or None)

        def verify(tls: ssl.SSLObject) -> tuple[Principal | None, bytes]:
            return _check_server(tls, pinned, name)

        below = await self.inner.dial()
        connection = TlsConnection(below, wrap, verify, _scratch(), self.limits.tls_handshake_bytes_max)
        try:
            await connection.shake_hands()
        except (ChannelClosed, OSError) as error:
            code = error.code if isinstance(error, ChannelClosed) else Code.LOST
            why = error.reason if isinstance(error, ChannelClosed) else error.strerror or error
            raise DialError(f"{self.endpoint.without_options()}: {why}", code) from None
        except BaseException:
            connection.abort()
            raise
        return connection

    def _context(self, protocol: int, certificate: Path | None, failure: type[KernelError]) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
        if certificate is not None:
            key = Path(self._tls.key) if self._tls.key else certificate
            with _told_as(failure, f"the certificate {certificate} with the key {key}"):
                if stat.S_IMODE(key.stat().st_mode) & 0o007:
                    raise failure(f"the private key {key} can be read by everybody: chmod 600 {key}")
                context.load_cert_chain(certificate, key, password=_refuse_to_ask)
        return context

    def _load_authorities(self, context: ssl.SSLContext, path: str, failure: type[KernelError]) -> None:
        with _told_as(failure, f"the authorities in {path}"):
            context.load_verify_locations(path)

    async def _own_certificate(self) -> Path:
        path = Path(self._tls.self_signed) if self._tls.self_signed else self_signed.default_file()
        await self_signed.ensure(path)
        return path

    def _pinned(self) -> bytes:
        text = self._tls.fingerprint
        if not text:
            return b""
        found = _FINGERPRINT.fullmatch(text)
        if found is None:
            raise OptionError(f"'{self.endpoint}': a fingerprint is sha256: and 64 hexadecimal digits")
        return bytes.fromhex(found[1].replace(":", ""))

    def _host(self) -> str:
        try:
            return self.endpoint.host_port()[0]
        except KernelError:
            return ""

    def _refuse_options(self, names: tuple[str, ...], whose: str) -> None:
        for name in names:
            if getattr(self._tls, name):
                raise OptionError(f"'{self.endpoint}': {name} is an option of {whose}: leave it out here")


class TlsListener(Listener):
    """The listener below, with an endpoint for clients."""

    def __init__(self, inner: Listener, fingerprint: str) -> None:
        self._inner = inner
        self._fingerprint = fingerprint

    @property
    def endpoint(self) -> Endpoint:
        return self._inner.endpoint

    @property
    def dial_endpoint(self) -> Endpoint:
        """Without what is the server's own; with the fingerprint of a certificate that no authority vouches for."""
        bound = self._inner.dial_endpoint
        ours = ("cert", "key", *_SERVER_OPTIONS)
        options = {name: value for name, value in bound.options.items() if name not in ours}
        if self._fingerprint:
            options["fingerprint"] = self._fingerprint
        return replace(bound, options=options)

    def pause(self) -> None:
        self._inner.pause()

    def resume(self) -> None:
        self._inner.resume()

    async def close(self) -> None:
        await self._inner.close()


def fingerprint_of(certificate: bytes) -> str:
    """What a client can pin.

    Args:
        certificate: as DER.
    """
    return f"sha256:{hashlib.sha256(certificate).hexdigest()}"


def _check_server(tls: ssl.SSLObject, pinned: bytes, name: str) -> tuple[Principal, bytes]:
    certificate = tls.getpeercert(binary_form=True) or b""
    binding = hashlib.sha256(certificate).digest()
    if pinned and not hmac.compare_digest(binding, pinned):
        raise ChannelClosed(
            Code.UNAUTHENTICATED,
            "the server's certificate has another fingerprint: this is not the server that was pinned, or it has a new "
            "certificate",
        )
    return Principal(f"sha256:{binding.hex()}" if pinned else name, "tls"), binding


def _principal_of(tls: ssl.SSLObject) -> Principal | None:
    """The client's first name by its certificate."""
    certificate: dict[str, Any] | None = tls.getpeercert()
    if not certificate:
        return None
    names = dict(reversed(certificate.get("subjectAltName", ())))
    subject = dict(pair for part in certificate.get("subject", ()) for pair in part)
    found = next((names[kind] for kind in _NAME_KINDS if kind in names), subject.get("commonName", ""))
    if not found or not found.isprintable():
        found = fingerprint_of(tls.getpeercert(binary_form=True) or b"")
    return Principal(found, "tls")


def _first_certificate(path: Path) -> bytes:
    """The one that a server shows, as DER; the file has been loaded once."""
    text = path.read_text(encoding="latin-1")
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE-----") : text.index(end) + len(end)])


def _scratch() -> memoryview:
    """The loop's one buffer for plaintext: whoever decrypts into it has it consumed before it returns."""
    loop = asyncio.get_running_loop()
    found = _scratches.get(loop)
    if found is None:
        found = _scratches[loop] = memoryview(bytearray(_PLAINTEXT_BYTES))
    return found


def _refuse_to_ask() -> str:
    raise KeyIsEncrypted


class KeyIsEncrypted(Exception):
    """OpenSSL would ask the terminal for a password."""


@contextlib.contextmanager
def _told_as(failure: type[KernelError], what: str) -> Any:
    """What is wrong with a file, in one line."""
    try:
        yield
    except KeyIsEncrypted:
        raise failure(f"{what} cannot be used: the key is encrypted, decrypt it first (openssl pkey)") from None
    except ssl.SSLError as error:
        why = (error.reason or "it is not PEM").lower().replace("_", " ")
        raise failure(f"{what} cannot be used: {why}") from None
    except OSError as error:
        raise failure(f"{what} cannot be read: {error.strerror}: {error.filename or ''}".rstrip(": ")) from None
