"""How far the sandbox got on this kernel: every layer, and why those that are missing are."""

from typing import Literal, NamedTuple

__all__ = ["LAYERS", "Layer", "Level", "Mode", "NotConfinedError"]

Mode = Literal["best-effort", "strict", "off"]

LAYERS = {
    "no_new_privs": "no program gives it privileges (Linux 3.5)",
    "not_dumpable": "no core file, and no look at its memory by its own user",
    "rlimits": "no core file, no locked memory, no real-time priority",
    "mdwe": "no memory that is made executable after it was written (Linux 6.3)",
    "landlock_files": "only the files in the table (Linux 5.13)",
    "landlock_tcp": "only the ports it needs, and none to listen on (Linux 6.7)",
    "landlock_scopes": "no signals and no abstract sockets of other processes (Linux 6.12)",
    "seccomp": "only the system calls in the table",
}
"""Layer name to what it means, in the order in which they are put in place."""


class NotConfinedError(Exception):
    """A layer is missing, and `sandbox=strict` wants them all; the message names each."""


class Layer(NamedTuple):
    """One layer; `missing` says why it is not in force, and is empty when it is."""

    name: str
    missing: str = ""


class Level(NamedTuple):
    """What the worker gave up, and what was asked for."""

    mode: Mode
    layers: tuple[Layer, ...] = ()

    @property
    def applied(self) -> tuple[str, ...]:
        """The names of the layers in force."""
        return tuple(layer.name for layer in self.layers if not layer.missing)

    @property
    def missing(self) -> dict[str, str]:
        """Layer name to why it is not in force."""
        return {layer.name: layer.missing for layer in self.layers if layer.missing}

    def details(self) -> dict[str, str | None]:
        """Return what the log's line says of it."""
        missing = "; ".join(f"{name}: {why}" for name, why in self.missing.items())
        return {"mode": self.mode, "layers": ",".join(self.applied), "missing": missing or None}
