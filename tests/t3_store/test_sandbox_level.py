"""How far it got: every layer, on kernels that have it and on those that do not.

A kernel without is a real one behind a filter that has the calls fail; nothing is patched.
"""

import asyncio
import ctypes
import errno
import itertools
import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fuse_s3_worker import sandbox
from fuse_s3_worker.sandbox import LAYERS, Layer, Level, Needs, NotConfinedError, unit_lines
from fuse_s3_worker.sandbox.allowed import CALLS, FAMILIES, NOT_THERE, names
from support.confined import DONE, enter, lacking, needs_sandbox, outcome_of
from support.process import ROOT

pytestmark = needs_sandbox

LANDLOCK = {"landlock_files", "landlock_tcp", "landlock_scopes"}


def test_everything_is_in_force_on_this_kernel() -> None:
    """The tests of attacks are strict, and would show nothing on a kernel without."""

    def attempt() -> None:
        level = enter()
        assert level.mode == "strict"
        assert level.applied == tuple(LAYERS)
        assert level.missing == {}

    assert outcome_of(attempt) == DONE


# What fails, how, and which layers that costs; then what is said of it.
LACKS = {
    "Landlock": (
        ("landlock_create_ruleset", errno.ENOSYS), LANDLOCK, "this kernel has no Landlock"
    ),
    "Landlock by configuration": (
        ("landlock_create_ruleset", errno.EOPNOTSUPP), LANDLOCK, "Landlock is off"
    ),
    "Landlock in a container": (
        ("landlock_restrict_self", errno.EPERM), LANDLOCK, "a filter around this process"
    ),
    "seccomp": (("seccomp", errno.ENOSYS), {"seccomp"}, "this kernel has no seccomp"),
    "seccomp filters": (("seccomp", errno.EINVAL), {"seccomp"}, "no seccomp filters"),
    "limits": (("prlimit64", errno.EPERM), {"rlimits"}, "Operation not permitted"),
    "options of prctl": (
        ("prctl", errno.EINVAL), {"no_new_privs", "not_dumpable", "mdwe"}, "Invalid argument"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", LACKS)
def test_a_kernel_that_lacks_something(what: str) -> None:
    """Best effort goes on without, and says so; everything else is in force all the same."""
    (call, number), lost, why = LACKS[what]

    def attempt() -> None:
        level = enter(mode="best-effort")
        assert set(level.missing) == lost
        assert set(level.applied) == set(LAYERS) - lost
        for reason in level.missing.values():
            assert why in reason
        if "seccomp" not in lost:
            with pytest.raises(PermissionError):
                os.kill(os.getpid(), 0)
        if not lost & LANDLOCK:
            with pytest.raises(PermissionError):
                os.open("/", os.O_RDONLY)

    assert outcome_of(lacking(call, number), attempt) == DONE


@pytest.mark.parametrize("what", LACKS)
def test_strict_does_without_nothing(what: str) -> None:
    (call, number), lost, why = LACKS[what]

    def attempt() -> None:
        with pytest.raises(NotConfinedError) as refused:
            enter()
        text = str(refused.value)
        assert text.startswith("sandbox=strict: ")
        assert text.endswith("give sandbox=best-effort to do without")
        assert set(re.findall(r"(\w+) is missing: ", text)) == lost
        assert why in text

    assert outcome_of(lacking(call, number), attempt) == DONE


def test_off_keeps_what_costs_nothing() -> None:
    def attempt() -> None:
        level = enter(mode="off")
        assert set(level.missing) == LANDLOCK | {"seccomp"}
        assert set(level.missing.values()) == {"sandbox=off"}
        assert level.applied == ("no_new_privs", "not_dumpable", "rlimits", "mdwe")
        os.kill(os.getpid(), 0)
        os.close(os.open("/", os.O_RDONLY))

    assert outcome_of(attempt) == DONE


def test_an_old_landlock_is_told_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are restricted; ports, and signals to others, came later."""
    monkeypatch.setattr(sandbox.landlock, "_abi_version", lambda: 3)

    def attempt() -> None:
        level = enter(mode="best-effort")
        assert level.missing == {
            "landlock_tcp": "needs Landlock's version 4, this kernel has 3",
            "landlock_scopes": "needs Landlock's version 6, this kernel has 3",
        }

    assert outcome_of(attempt) == DONE


def test_the_line_of_the_log() -> None:
    layers = (Layer("rlimits"), Layer("mdwe", "why not"), Layer("seccomp"), Layer("x", "as well"))
    assert Level("best-effort", layers).details() == {
        "mode": "best-effort",
        "layers": "rlimits,seccomp",
        "missing": "mdwe: why not; x: as well",
    }
    assert Level("strict", layers[:1]).details()["missing"] is None


def test_a_level_cannot_be_changed() -> None:
    level = Level("strict", (Layer("seccomp", "no"),))
    with pytest.raises(AttributeError):
        level.mode = "off"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        level.layers[0].missing = ""  # type: ignore[misc]


# -- what must go on working -----------------------------------------------------------------------


def _event_loop() -> None:
    import uvloop  # noqa: PLC0415  inside the sandbox, as the worker imports some of its packages

    async def use() -> None:
        assert await asyncio.to_thread(lambda: 5) == 5
        found = await asyncio.get_running_loop().getaddrinfo("localhost", 80)
        assert found
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.send(b"x")
        assert await asyncio.get_running_loop().sock_recv(ours, 1) == b"x"

    uvloop.run(use())


def _checksums() -> None:
    from awscrt import checksums  # noqa: PLC0415

    assert checksums.crc32(b"123456789") == 0xCBF43926


def _endpoint_rules() -> None:
    from botocore.session import Session  # noqa: PLC0415

    client = Session().create_client(
        "s3", region_name="eu-north-1", aws_access_key_id="a", aws_secret_access_key="b"
    )
    assert client.meta.endpoint_url == "https://s3.eu-north-1.amazonaws.com"


def _validation() -> None:
    from fuse_s3_worker.config.parse import configure  # noqa: PLC0415

    assert configure("bucket", "uid=nobody").settings.uid == 65534


def _callbacks() -> None:
    """Functions of ours that C calls: libffi has no need of memory to write and execute."""
    kind = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int)
    )
    numbers = (ctypes.c_int * 5)(5, 3, 1, 4, 2)
    ctypes.CDLL(None).qsort(numbers, 5, 4, kind(lambda a, b: a[0] - b[0]))
    assert list(numbers) == [1, 2, 3, 4, 5]


def _certificates() -> None:
    from fuse_s3_worker.http.tls import client_context  # noqa: PLC0415

    client_context()


def _threads() -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda n=n: found.append(n)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(20))


def _control_socket(home: Path) -> None:
    """A gRPC server on a Unix socket, and a client of it, both of this process."""
    import grpc  # noqa: PLC0415

    async def use() -> None:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(lambda request, _context: request[::-1])
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("test.Service", {"Turn": handler}),)
        )
        address = f"unix:{home}/control"
        server.add_insecure_port(address)
        await server.start()
        async with grpc.aio.insecure_channel(address) as channel:
            assert await channel.unary_unary("/test.Service/Turn")(b"abc") == b"cba"
        await server.stop(None)

    asyncio.run(use())


WORKS: dict[str, Callable[[], None]] = {
    "uvloop": _event_loop,
    "awscrt": _checksums,
    "botocore": _endpoint_rules,
    "pydantic": _validation,
    "ctypes": _callbacks,
    "ssl": _certificates,
    "threads": _threads,
}


@pytest.mark.parametrize("what", WORKS)
def test_what_the_worker_is_made_of_works_inside(what: str) -> None:
    assert outcome_of(enter, WORKS[what]) == DONE


def test_grpc_works_inside(tmp_path: Path) -> None:
    def confined() -> None:
        enter(Needs(own=(str(tmp_path),)))

    assert outcome_of(confined, lambda: _control_socket(tmp_path)) == DONE


# -- the unit --------------------------------------------------------------------------------------


def test_the_units_lines_are_the_tables() -> None:
    lines = unit_lines()
    found = [line.partition("=")[2] for line in lines if line.startswith("SystemCallFilter=")]
    *allowed, absent = found
    assert " ".join(allowed).split() == list(names(start=True))
    # Refused in words that the C library understands: with another errno it would start no thread.
    assert absent.removeprefix("~").split() == [f"{name}:ENOSYS" for name in NOT_THERE]
    assert f"RestrictAddressFamilies={' '.join(FAMILIES)}" in lines
    assert "SystemCallErrorNumber=EPERM" in lines


def test_every_line_of_the_unit_has_its_reason() -> None:
    lines = unit_lines()
    for above, line in itertools.pairwise(lines):
        assert line.startswith("#") or above.startswith("# ")


def test_the_unit_has_these_lines() -> None:
    path = ROOT / "systemd/fuse-s3-worker@.service"
    if not path.exists():
        assert not list((ROOT / "systemd").glob("*.service"))
        return
    text = path.read_text()
    for line in unit_lines():
        assert line in text.splitlines(), line
    # and no other of the same kind, which would add to them
    kinds = {line.partition("=")[0] for line in unit_lines() if not line.startswith("#")}
    others = [line for line in text.splitlines() if line.partition("=")[0] in kinds]
    assert sorted(others) == sorted(line for line in unit_lines() if not line.startswith("#"))


def test_the_tables_reasons_are_short_enough_to_read() -> None:
    assert all(len(calls.why) <= 90 for calls in CALLS)
