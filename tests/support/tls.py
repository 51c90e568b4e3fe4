"""A certificate for the loopback interface, signed by itself and good for the tests alone."""

import subprocess
from pathlib import Path
from typing import NamedTuple

__all__ = ["Certificate", "make_certificate"]


class Certificate(NamedTuple):
    """Two PEM files; the certificate is its own authority."""

    certificate: Path
    key: Path


def make_certificate(
    directory: Path, names: str = "DNS:localhost,IP:127.0.0.1", days: int = 2
) -> Certificate:
    """Make one in `directory` for `names`, in the form of openssl's subjectAltName."""
    made = Certificate(directory / "certificate.pem", directory / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    command += ["-days", str(days), "-addext", f"subjectAltName={names}"]
    command += ["-out", str(made.certificate), "-keyout", str(made.key)]
    subprocess.run(command, check=True, capture_output=True)
    return made
