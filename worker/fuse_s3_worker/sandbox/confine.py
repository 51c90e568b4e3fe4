"""The order of things: what is given up at once, what when the options are known.

Nothing has been read when `confine` runs. `enter` needs to know the ports and the directories,
and comes before the first byte from the network, and before there is a second thread.
"""

from fuse_s3_worker.sandbox import landlock, seccomp
from fuse_s3_worker.sandbox.files import Needs, places
from fuse_s3_worker.sandbox.level import Layer, Level, Mode, NotConfinedError
from fuse_s3_worker.sandbox.process import STEPS

__all__ = ["NAME_SERVICE_PORT", "confine", "enter"]

NAME_SERVICE_PORT = 53  # answers that do not fit into a datagram are asked for again over TCP

_OFF = "sandbox=off"


def confine() -> Level:
    """Give up what no worker has a use for, whatever its options are."""
    layers = []
    for name, step in STEPS.items():
        try:
            step()
            layers.append(Layer(name))
        except OSError as error:
            layers.append(Layer(name, f"the kernel refuses it: {error.strerror}"))
    return Level("best-effort", tuple(layers))


def enter(level: Level, mode: Mode, needs: Needs) -> Level:
    """Give up the rest, for good; return what is in force now, `level` included.

    Raises:
        NotConfinedError: `mode` is strict, and something is missing.
    """
    if mode == "off":
        left_out = (*landlock.LAYERS_SINCE, "seccomp")
        return Level(mode, level.layers + tuple(Layer(name, _OFF) for name in left_out))
    # The filter last: what comes before it needs calls that it refuses.
    layers = (*level.layers, *_enter_domain(needs), Layer("seccomp", seccomp.apply()))
    entered = Level(mode, layers)
    if mode == "strict" and entered.missing:
        missing = "; ".join(f"{name} is missing: {why}" for name, why in entered.missing.items())
        raise NotConfinedError(f"sandbox=strict: {missing}: give sandbox=best-effort to do without")
    return entered


def _enter_domain(needs: Needs) -> tuple[Layer, ...]:
    try:
        abi, unavailable = landlock.restrict(places(needs), needs.ports | {NAME_SERVICE_PORT}), ""
    except landlock.UnavailableError as error:
        abi, unavailable = 0, str(error)
    return tuple(
        Layer(name, unavailable or _too_old(abi, since))
        for name, since in landlock.LAYERS_SINCE.items()
    )


def _too_old(abi: int, since: int) -> str:
    return "" if abi >= since else f"needs Landlock's version {since}, this kernel has {abi}"
