"""What OpenSSL says of a failure, in the words of the person who has to mend it, and with a code for programs."""

from __future__ import annotations

import ssl

from kernel.errors import ChannelClosed, Code

_NOT_TLS = frozenset(("WRONG_VERSION_NUMBER", "UNSUPPORTED_PROTOCOL", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST"))
_PIN_IT = "pin it by ?fingerprint=sha256:..., which the server prints, or name its authority by ?ca=FILE"

# By OpenSSL's name of the reason: for the client, for the server's log.
_REASONS = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server asks for a certificate: add ?cert=FILE&key=FILE",
    "TLSV1_ALERT_UNKNOWN_CA": "the other side does not know the authority of our certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the other side does not accept our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "our certificate has expired",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the other side wants another TLS version, other ciphers, or a certificate",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the other side wants another TLS version",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client has shown no certificate",
    "NO_SHARED_CIPHER": "the two sides have no cipher in common",
    "UNEXPECTED_EOF_WHILE_READING": "the peer hung up without TLS's goodbye: what it sent may be cut off",
}
_UNAUTHENTICATED = ("CERTIFICATE", "UNKNOWN_CA")


def is_foreign(error: ssl.SSLError) -> bool:
    """The other side does not speak TLS, or a version that no longer counts: OpenSSL may have nothing to say to it."""
    return error.reason in _NOT_TLS


def explain(error: ssl.SSLError, *, client: bool) -> ChannelClosed:
    """The reason of a failed handshake, or of a connection that broke later."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ChannelClosed(Code.UNAUTHENTICATED, _unverified(error, client=client))
    reason = error.reason or ("UNEXPECTED_EOF_WHILE_READING" if isinstance(error, ssl.SSLEOFError) else "")
    if is_foreign(error):
        what = "what answers there does not speak TLS: leave out tls+" if client else "the client does not speak TLS"
        return ChannelClosed(Code.PROTOCOL, what)
    if reason == "TLSV1_ALERT_ACCESS_DENIED":
        return ChannelClosed(Code.OVERLOADED, "the server turned us away, it is full or about to end: try again later")
    if reason == "UNEXPECTED_EOF_WHILE_READING":
        return ChannelClosed(Code.LOST, _REASONS[reason])
    code = Code.UNAUTHENTICATED if any(word in reason for word in _UNAUTHENTICATED) else Code.PROTOCOL
    return ChannelClosed(code, _REASONS.get(reason) or f"TLS failed: {reason.lower().replace('_', ' ') or error}")


def _unverified(error: ssl.SSLCertVerificationError, *, client: bool) -> str:
    what = error.verify_message.rstrip(".")
    if not client:
        return f"the client's certificate is not accepted: {what}"
    if "ostname mismatch" in what or "IP address mismatch" in what:
        return f"the server's certificate is for another name: {what}; say the right one by ?server_name="
    if "self-signed" in what or "local issuer" in what:
        return f"the server's certificate is not known to be good ({what}): {_PIN_IT}"
    return f"the server's certificate is not accepted: {what}"
