"""Why a server could not be reached, in words."""

from __future__ import annotations

import os


def why_unreachable(error: Exception) -> str:
    """What an HTTP client's error says to people; its own text shows how the client is built."""
    cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None)
    if not isinstance(cause, OSError):
        return str(error) or type(error).__name__
    tls = getattr(cause, "verify_message", None) or getattr(cause, "reason", None)
    number = cause.errno or 0  # below 0: of the resolver
    system = os.strerror(number) if number > 0 else cause.strerror or str(cause)
    host, port = getattr(error, "host", "?"), getattr(error, "port", "?")
    return f"cannot connect to {host}:{port}: {tls or system}"
