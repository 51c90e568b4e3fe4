"""The service over a real Unix socket with real gRPC: what it answers, and to whom it does not."""

import asyncio
import logging
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuse_s3_control import control_pb2 as pb
from fuse_s3_control.places import CONTROL, read_about
from fuse_s3_worker.control.place import make_place
from fuse_s3_worker.fuse.abi import NotifyCode, Opcode
from support.controlled import SPEC, Client, controlled, facts_of, runtime, said_to
from support.loops import LOOPS, run
from support.tree import Tree

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Check = Callable[[Tree, Client], Awaitable[None]]


def with_client(
    check: Check,
    *,
    loop: str = "uvloop",
    options: str = "metadata_ttl=60",
    owner: int | None = None,
) -> None:
    async def main() -> None:
        t = Tree({"d/a": b"1", "d/b": b"22"})
        async with controlled(t, options=options, owner=owner) as client:
            await check(t, client)
        await t.fs.close()

    run(main(), loop)


async def refusal(asked: Awaitable[Any]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asked
    return caught.value.code(), str(caught.value.details())


# -- status ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
def test_status_tells_what_is_so(loop: str) -> None:
    async def check(t: Tree, client: Client) -> None:
        facts = client.facts
        facts.restarts = 2
        facts.kernel.add(Opcode.READ, 3_000_000)
        facts.kernel.bytes_read = 1 << 40
        facts.kernel.errors[5] = 7
        facts.store.caller.statistics.add("GetObject", 2_000_000)
        facts.store.caller.statistics.faults["THROTTLED"] = 4
        directory = (await t.lookup(1, "d")).node.id
        await t.lookup(directory, "a")
        status = await client.ask("Status")
        assert (status.spec, status.directory, status.pid) == (SPEC, "/mnt/it", os.getpid())
        assert (status.restarts, status.store.retries) == (2, 3)
        assert status.endpoint == "http://127.0.0.1:1"
        assert [(row.name, row.count) for row in status.kernel.requests] == [("READ", 1)]
        assert 0.003 <= status.kernel.requests[0].median <= 0.006
        assert status.kernel.bytes_read == 1 << 40
        assert dict(status.kernel.errors) == {"EIO": 7}
        assert [row.name for row in status.store.requests] == ["GetObject"]
        assert dict(status.store.faults) == {"THROTTLED": 4}
        assert status.sandbox.applied == ["seccomp"]
        assert dict(status.sandbox.missing) == {"mdwe": "too old"}
        assert status.handles.nodes == 3
        assert status.memory.resident > 1 << 20
        assert status.memory.threads >= 1
        assert status.memory.buffers_limit == 64 << 20
        assert 0 <= status.uptime < 60

    with_client(check, loop=loop)


def test_opcodes_that_nobody_knows_are_there_by_their_number() -> None:
    async def check(_: Tree, client: Client) -> None:
        for opcode in (60, 4096):
            client.facts.kernel.add(opcode, 1_000)
        status = await client.ask("Status")
        found = {row.name: row.count for row in status.kernel.requests}
        assert found == {"60": 1, "others": 1}

    with_client(check)


def test_status_tells_where_each_option_comes_from() -> None:
    async def check(_: Tree, client: Client) -> None:
        status = await client.ask("Status")
        found = {option.name: (option.value, option.origin) for option in status.options}
        assert found["umask"] == ("0027", "given")
        assert found["log_level"] == ("debug", "given as dbglevel")
        assert found["metadata_ttl"] == ("indefinite", "given as stat_cache_expire")
        assert found["tls_verify"] == ("yes", "default")
        assert found["dir_mode"] == ("", "default")
        assert found["sandbox"] == ("best-effort", "default")

    with_client(check, options="umask=027,dbglevel=dbg,stat_cache_expire=indefinite")


def test_status_names_what_is_not_stored_yet() -> None:
    async def check(t: Tree, client: Client) -> None:
        handle = await t.create("new")
        await t.write(handle, 0, b"x" * 1000)
        status = await client.ask("Status")
        assert (status.dirty_files, status.dirty_bytes) == (1, 1000)
        (file,) = status.dirty
        assert (file.key, file.size, file.closed, file.problem) == ("new", 1000, False, "")
        assert status.handles.files == 1
        await t.close(handle)
        status = await client.ask("Status")
        assert (status.dirty_files, status.handles.files) == (0, 0)

    with_client(check)


def test_names_that_are_not_utf8_are_told_all_the_same() -> None:
    async def check(_: Tree, client: Client) -> None:
        client.facts.directory = os.fsdecode(b"/mnt/\xff")
        status = await client.ask("Status")
        assert status.directory == "/mnt/\\udcff"

    with_client(check)


# -- orders ----------------------------------------------------------------------------------------


def test_the_log_level_changes_and_the_one_before_is_told() -> None:
    logger = logging.getLogger("fuse_s3_worker")
    before = logger.level

    async def check(_: Tree, client: Client) -> None:
        logger.setLevel(logging.WARNING)
        assert (await client.ask("SetLogLevel", level="debug")).before == "warning"
        assert logger.level == logging.DEBUG
        assert (await client.ask("Status")).log_level == "debug"
        code, text = await refusal(client.ask("SetLogLevel", level="loud"))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert "'loud'" in text
        assert "error, warning, info, debug" in text
        assert logger.level == logging.DEBUG

    try:
        with_client(check)
    finally:
        logger.setLevel(before)


def test_what_was_dropped_is_looked_at_again_here_and_in_the_kernel() -> None:
    async def check(t: Tree, client: Client) -> None:
        directory = (await t.lookup(1, "d")).node.id
        await t.lookup(directory, "a")
        t.store.write("d/a", b"333")
        reply = await client.ask("DropMetadata", path="d/a")
        assert reply.nodes == 1
        assert (await t.lookup(directory, "a")).attributes.size == 3
        channel: Any = client.facts.channel
        codes = [code for code, _ in channel.notifications]
        assert codes == [NotifyCode.INVAL_INODE, NotifyCode.INC_EPOCH]
        reply = await client.ask("DropMetadata")
        assert reply.nodes == 3
        assert t.fs.statistics().names_cached == 0
        code, text = await refusal(client.ask("DropMetadata", path="../etc"))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert "../etc" in text

    with_client(check)


def test_a_kernel_without_epochs_is_told_name_by_name() -> None:
    async def check(t: Tree, client: Client) -> None:
        directory = (await t.lookup(1, "d")).node.id
        await t.lookup(directory, "a")
        channel: Any = client.facts.channel
        told, notify = [], channel.notify

        def older(message: bytes) -> None:
            code = int.from_bytes(message[4:8], "little")
            if code == NotifyCode.INC_EPOCH:
                raise OSError(22, "Invalid argument")
            told.append((code, message))
            notify(message)

        channel.notify = older
        await client.ask("DropMetadata")
        names = [message[32:-1] for code, message in told if code == NotifyCode.INVAL_ENTRY]
        assert sorted(names) == [b"a", b"d"]

    with_client(check)


def test_a_restart_is_begun_where_somebody_would_go_on() -> None:
    async def check(_: Tree, client: Client) -> None:
        code, text = await refusal(client.ask("Restart"))
        assert code == grpc.StatusCode.UNIMPLEMENTED
        assert "umount and mount it again" in text
        begun: list[bool] = []
        client.facts.hand_over = lambda: begun.append(True)
        await client.ask("Restart")
        assert begun == [True]

    with_client(check)


def test_a_bug_is_one_line_for_the_client_and_one_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def check(_: Tree, client: Client) -> None:
        client.facts.store.caller.retrier = None  # type: ignore[assignment]
        code, text = await refusal(client.ask("Status"))
        assert code == grpc.StatusCode.INTERNAL
        assert "retries" in text
        assert "bug" in caplog.text
        assert (await client.ask("SetLogLevel", level="info")).before

    with_client(check)


# -- strangers, and what they send -----------------------------------------------------------------


def test_a_stranger_gets_no_answer() -> None:
    async def check(_: Tree, client: Client) -> None:
        client.door._admitted = frozenset({os.geteuid() + 1})
        code, _text = await refusal(client.ask("Status"))
        assert code == grpc.StatusCode.UNAVAILABLE
        assert client.door.strangers
        client.door._admitted = frozenset({os.geteuid()})

    with_client(check)


async def unharmed(client: Client) -> None:
    """See that whoever may ask is answered."""
    for _ in range(200):
        try:
            assert (await client.ask("Status")).spec == SPEC
        except grpc.aio.AioRpcError as error:
            # The door has a moment's rest, or is full of those who leave right now.
            assert error.code() == grpc.StatusCode.UNAVAILABLE  # noqa: PT017
            await asyncio.sleep(0.02)
        else:
            return
    raise AssertionError("nobody is answered any more")


def test_an_unknown_method_and_a_message_that_is_too_large_are_refused() -> None:
    async def check(_: Tree, client: Client) -> None:
        channel = client._channel
        call = channel.unary_unary("/fuse_s3.control.v1.Control/Format")
        assert (await refusal(call(b"", timeout=20)))[0] == grpc.StatusCode.UNIMPLEMENTED
        call = channel.unary_unary("/other.Service/Status")
        assert (await refusal(call(b"", timeout=20)))[0] == grpc.StatusCode.UNIMPLEMENTED
        call = channel.unary_unary("/fuse_s3.control.v1.Control/DropMetadata")
        large = pb.DropMetadataRequest(path="x" * (1 << 20)).SerializeToString()
        assert (await refusal(call(large, timeout=20)))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
        garbage = await refusal(call(b"\xff\xff\xff", timeout=20))
        assert garbage[0] == grpc.StatusCode.INVALID_ARGUMENT
        await unharmed(client)

    with_client(check)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(st.binary(max_size=200), st.just(PREFACE)), max_size=4))
def test_garbage_harms_nobody(pieces: list[bytes]) -> None:
    async def check(_: Tree, client: Client) -> None:
        with said_to(client.place.path / CONTROL, b"".join(pieces) or b"\0") as connection:
            connection.shutdown(socket.SHUT_WR)
            await asyncio.sleep(0.005)
        await unharmed(client)

    with_client(check)


def test_many_who_say_little_and_leave_harm_nobody() -> None:
    async def check(_: Tree, client: Client) -> None:
        await unharmed(client)
        for number in range(60):
            start = (PREFACE, PREFACE[:5], b"\0" * 3000)[number % 3]
            connection = await asyncio.to_thread(said_to, client.place.path / CONTROL, start)
            connection.close()
        await unharmed(client)

    with_client(check)


# -- from beginning to end -------------------------------------------------------------------------


def test_everybody_may_know_which_mount_it_is_and_it_takes_no_grpc() -> None:
    async def check(_: Tree, client: Client) -> None:
        about = read_about(client.place.path)
        assert about is not None
        assert (about.spec, about.directory, about.pid) == (SPEC, "/mnt/it", os.getpid())
        assert about.device == 0  # no descriptor of a mount in this test
        assert client.door._server is None

    with_client(check)


def test_grpc_is_not_imported_before_somebody_asks() -> None:
    """An idle mount does not pay for it: neither for gRPC, nor for protobuf, nor for psutil."""
    script = (
        "import sys; import fuse_s3_worker.main; "
        "sys.exit(any(name in sys.modules for name in ('grpc', 'google.protobuf', 'psutil')))"
    )

    async def check() -> int:
        path = os.pathsep.join(filter(None, sys.path))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, env=os.environ | {"PYTHONPATH": path}
        )
        return await process.wait()

    assert asyncio.run(check()) == 0


def test_a_place_that_cannot_be_written_to_is_no_reason_to_fail(
    caplog: pytest.LogCaptureFixture,
) -> None:
    from fuse_s3_worker.control.opening import Control  # noqa: PLC0415

    async def check() -> None:
        t = Tree({})
        with runtime() as home:
            place = make_place(home, home / "users")
            (place.path / "about.new").mkdir()
            with caplog.at_level(logging.WARNING):
                assert Control.open(place, facts_of(t), 0) is None
            assert "no_control_socket" in caplog.text
            assert Control.open(None, facts_of(t), 0) is None
        await t.fs.close()

    run(check())
