"""TLS towards the endpoint: verification on, unless somebody asked otherwise in so many words."""

import ssl
from pathlib import Path

__all__ = ["NoCertificatesError", "client_context"]


class NoCertificatesError(Exception):
    """There is nothing to verify a server against; the message says what to install or set."""


def client_context(ca_bundle: str | None = None, *, verify: bool = True) -> ssl.SSLContext:
    """Return a context for HTTPS/1.1.

    Args:
        ca_bundle: PEM text that replaces the system's certificates.
        verify: check the server's certificate and name.

    Raises:
        NoCertificatesError: `ca_bundle` has no certificate, or the system has none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # Debian's Python leaves it to a file
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca_bundle is not None:
        _load(context, ca_bundle)
    else:
        _load_system(context)
    return context


def _load(context: ssl.SSLContext, ca_bundle: str) -> None:
    # Bundles have comments in many languages, and `cadata` takes ASCII only.
    pem = ca_bundle.encode("ascii", "replace").decode("ascii")
    try:
        context.load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError) as error:
        raise NoCertificatesError(f"ca_bundle= has no usable PEM certificate: {error}") from None


def _load_system(context: ssl.SSLContext) -> None:
    paths = ssl.get_default_verify_paths()
    found = [path for path in (paths.cafile, paths.capath) if path and _has_entries(Path(path))]
    if not found:
        raise NoCertificatesError(
            "no CA certificates on this machine: apt install ca-certificates, or give ca_bundle="
        )
    context.set_default_verify_paths()


def _has_entries(path: Path) -> bool:
    try:
        return path.stat().st_size > 0 if path.is_file() else any(path.iterdir())
    except OSError:
        return False
