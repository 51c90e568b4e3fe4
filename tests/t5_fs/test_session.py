"""A session, from the first frame to the last byte stored, over a socket that keeps frames."""

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Mapping
from contextlib import closing
from struct import pack, unpack_from
from typing import Self

import pytest

from fuse_s3_worker import serve
from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.config.units import MIB
from fuse_s3_worker.fs.attributes import Ownership
from fuse_s3_worker.fs.filesystem import FileSystem
from fuse_s3_worker.fuse.abi import OUT_HEADER, InitFlag, Opcode
from fuse_s3_worker.fuse.channel import Channel
from fuse_s3_worker.portable import library
from fuse_s3_worker.serve import (
    End,
    LibfuseSession,
    Owner,
    Session,
    build_file_system,
    ownership_of,
)
from support import loops
from support.gatedstore import GatedStore
from support.kernel import Reply, frame
from support.pattern import pattern
from support.virtualtime import on_loop, run, settle

INIT = pack("<IIIII44x", 7, 41, 1 << 20, InitFlag.ASYNC_READ | InitFlag.INIT_EXT, 0)
SETTINGS = Settings.model_validate({"memory_target": "32M", "metadata_ttl": "10"})


class Device:
    """The kernel's end of a connection, and the session at the other one."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch | None = None, objects: Mapping[str, bytes] = {}
    ) -> None:
        ours, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self.kernel.setblocking(False)
        self.store = GatedStore(objects)
        self.fs = build_file_system(self.store, SETTINGS, Owner(1000, 1000), "")
        self.fd = ours.detach()
        self.session = Session(Channel(self.fd), self.fs)
        self.replies: dict[int, Reply] = {}
        self._over = 0
        self._unique = 0
        if monkeypatch is not None:
            self._read = os.readv
            monkeypatch.setattr(os, "readv", self._readv)

    def _readv(self, fd: int, buffers: list[memoryview]) -> int:
        if fd == self.fd and self._over:
            raise OSError(self._over, os.strerror(self._over))
        return self._read(fd, buffers)

    def __enter__(self) -> Self:
        self.session.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kernel.close()

    def send(self, opcode: int, body: bytes = b"", nodeid: int = 1) -> int:
        """Make a request; return its unique number."""
        self._unique += 2
        self.kernel.send(frame(opcode, body, unique=self._unique, nodeid=nodeid))
        return self._unique

    def receive(self) -> None:
        """Take the answers that are there."""
        while True:
            try:
                message = self.kernel.recv(2 * MIB)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # the other end is closed; what it has sent is still there
            if not message:
                return
            _, error, unique = OUT_HEADER.unpack_from(message)
            assert unique not in self.replies
            self.replies[unique] = Reply(-error, message[OUT_HEADER.size :])

    async def ask(self, opcode: int, body: bytes = b"", nodeid: int = 1) -> Reply:
        """Make a request and wait for the answer."""
        unique = self.send(opcode, body, nodeid)
        while unique not in self.replies:
            await asyncio.sleep(0)
            self.receive()
        return self.replies[unique]

    async def create(self, name: bytes) -> int:
        """Make a file; return its handle."""
        head = pack("<IIII", os.O_WRONLY, 0o100644, 0, 0)
        reply = await self.ask(Opcode.CREATE, head + name + b"\0")
        return int.from_bytes(reply.body[128:136], "little")

    async def write(self, handle: int, data: bytes, piece: int = 64 * 1024) -> None:
        """Write a file from its beginning."""
        for at in range(0, len(data), piece):
            part = data[at : at + piece]
            head = pack("<QQIIQII", handle, at, len(part), 0, 0, 0, 0)
            assert not (await self.ask(Opcode.WRITE, head + part)).error

    def end(self, number: int = errno.ENODEV) -> None:
        """Have the device say that it is over; something wakes whoever waits for requests."""
        self._over = number
        self.kernel.send(b"wake up")


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


# -- requests -------------------------------------------------------------------------------------


@on_loop()
async def test_init_and_then_whatever_comes() -> None:
    with Device(objects={"file": b"data"}) as device:
        assert not device.session.adapter.initialized.is_set()
        reply = await device.ask(Opcode.INIT, INIT)
        assert unpack_from("<II", reply.body) == (7, 41)
        assert device.session.adapter.initialized.is_set()
        entry = await device.ask(Opcode.LOOKUP, b"file\0")
        node = int.from_bytes(entry.body[:8], "little")
        opened = await device.ask(Opcode.OPEN, pack("<II", os.O_RDONLY, 0), node)
        handle = int.from_bytes(opened.body[:8], "little")
        read = await device.ask(Opcode.READ, pack("<QQIIQII", handle, 1, 100, 0, 0, 0, 0), node)
        assert read == Reply(0, b"ata")
        assert device.session.adapter.requests == 4
        asyncio.get_running_loop().remove_reader(device.fd)
        await device.fs.close()
        os.close(device.fd)


@on_loop()
async def test_many_requests_let_others_have_their_turn() -> None:
    with Device() as device:
        uniques = [device.send(Opcode.STATFS) for _ in range(100)]
        turns = 0
        while len(device.replies) < 100:
            await asyncio.sleep(0)
            device.receive()
            turns += 1
            assert len(device.replies) <= turns * 32
        assert list(device.replies) == uniques
        asyncio.get_running_loop().remove_reader(device.fd)
        os.close(device.fd)


@pytest.mark.parametrize(
    ("garbage", "logged"),
    [
        (b"short", ["malformed_request"]),
        (bytes(40), ["malformed_request"]),
        (frame(Opcode.STATFS)[:-1] + b"", ["malformed_request"]),
        (frame(Opcode.STATFS) + b"x", ["malformed_request"]),
        (frame(4000, b"whatever"), []),
        (frame(Opcode.LOOKUP, b"no end"), ["request_failed"]),
        (frame(Opcode.STATFS, b"too much"), ["request_failed"]),
        (frame(Opcode.FORGET, b"x"), ["request_failed"]),
        (frame(Opcode.INTERRUPT, pack("<Q", 4711)), []),
    ],
)
def test_what_is_no_request_does_no_harm(garbage: bytes, logged: list[str]) -> None:
    async def body() -> None:
        with Device() as device:
            device.kernel.send(garbage)
            await settle()
            device.receive()
            assert len(device.replies) <= 1
            assert all(reply.error for reply in device.replies.values())
            device._unique = 100
            assert len((await device.ask(Opcode.STATFS)).body) == 80
            asyncio.get_running_loop().remove_reader(device.fd)
            os.close(device.fd)

    run(body(), logged=logged)


# -- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "how", "logged"),
    [
        (errno.ENODEV, "unmounted", []),
        (errno.ECONNABORTED, "aborted", []),
        (errno.EIO, "failed", ["device_failed"]),
    ],
)
def test_the_end_of_the_connection_is_the_end_of_the_session(
    number: int,
    how: str,
    logged: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="fuse_s3_worker")

    async def body() -> None:
        with Device(monkeypatch) as device:
            await device.ask(Opcode.INIT, INIT)
            device.end(number)
            await device.session.run()
            assert not is_open(device.fd)

    run(body(), logged=logged)
    assert f"{how} requests=1" in caplog.text


@on_loop()
async def test_what_was_closed_is_stored_before_the_session_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Device(monkeypatch) as device:
        handle = await device.create(b"file")
        data = pattern(9 * MIB)
        await device.write(handle, data)
        device.store.hold("complete_multipart")
        device.send(Opcode.RELEASE, pack("<QIIQ", handle, 0, 0, 0))
        await settle()
        device.end()
        running = asyncio.create_task(device.session.run())
        await asyncio.sleep(600)  # however long it takes
        assert not running.done()
        assert is_open(device.fd)
        device.store.let_go("complete_multipart")
        await running
        assert device.store.read("file") == data
        assert not is_open(device.fd)


@on_loop()
async def test_what_was_not_closed_is_given_up_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Device(monkeypatch, {"file": b"old", "read": pattern(4 * MIB)}) as device:
        handle = await device.create(b"new")
        await device.write(handle, pattern(9 * MIB))
        entry = await device.ask(Opcode.LOOKUP, b"read\0")
        node = int.from_bytes(entry.body[:8], "little")
        opened = await device.ask(Opcode.OPEN, pack("<II", os.O_RDONLY, 0), node)
        reader = int.from_bytes(opened.body[:8], "little")
        device.store.by_hand = True
        read = device.send(Opcode.READ, pack("<QQIIQII", reader, 0, 4096, 0, 0, 0, 0), node)
        await settle()
        device.end()
        await device.session.run()
        await settle()
        device.receive()
        assert device.replies[read].error
        assert device.store.keys() == ["file", "read"]
        assert device.store.uploads == {}
        assert device.store.arrivals == []


@on_loop()
async def test_a_directory_that_lost_its_last_file_just_now_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Device(monkeypatch, {"d/file": b""}) as device:
        entry = await device.ask(Opcode.LOOKUP, b"d\0")
        node = int.from_bytes(entry.body[:8], "little")
        assert not (await device.ask(Opcode.UNLINK, b"file\0", node)).error
        device.end()
        await device.session.run()
        assert device.store.keys() == ["d/"]


# -- and besides ----------------------------------------------------------------------------------


@on_loop()
async def test_signals_do_not_end_what_programs_still_use(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="fuse_s3_worker")
    with Device() as device:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(os.getpid(), number)
            await settle()
            assert f"signal name={number.name}" in caplog.text
        assert not (await device.ask(Opcode.STATFS)).error
        asyncio.get_running_loop().remove_reader(device.fd)
        os.close(device.fd)


@on_loop()
async def test_what_is_out_of_date_is_forgotten_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expired: list[FileSystem] = []

    def expire(fs: FileSystem) -> None:
        expired.append(fs)

    monkeypatch.setattr(FileSystem, "expire", expire)
    with Device(monkeypatch) as device:
        await asyncio.sleep(3.5 * serve._EXPIRE_EVERY)
        assert len(expired) == 3
        device.end()
        await device.session.run()
        await asyncio.sleep(3 * serve._EXPIRE_EVERY)
        assert len(expired) <= 4


def test_a_session_on_the_loop_of_the_worker() -> None:
    async def body() -> None:
        with Device(objects={"file": pattern(3 * MIB)}) as device, closing(device.kernel):
            await device.ask(Opcode.INIT, INIT)
            entry = await device.ask(Opcode.LOOKUP, b"file\0")
            node = int.from_bytes(entry.body[:8], "little")
            opened = await device.ask(Opcode.OPEN, pack("<II", os.O_RDONLY, 0), node)
            handle = int.from_bytes(opened.body[:8], "little")
            had = b""
            while len(had) < 3 * MIB:
                read = pack("<QQIIQII", handle, len(had), 64 * 1024, 0, 0, 0, 0)
                had += (await device.ask(Opcode.READ, read, node)).body
            assert had == pattern(3 * MIB)
            asyncio.get_running_loop().remove_reader(device.fd)
            await device.fs.close()
            await settle()
            os.close(device.fd)

    loops.run(body(), "uvloop")


# -- putting it together --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "file_mode", "dir_mode"),
    [
        ({}, 0o644, 0o755),
        ({"umask": "077"}, 0o600, 0o700),
        ({"file_mode": "0440"}, 0o440, 0o755),
        ({"dir_mode": "0", "umask": "0"}, 0o666, 0),
    ],
)
def test_modes_are_those_of_the_options(
    options: dict[str, str], file_mode: int, dir_mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fuse_s3_worker.serve.time.time", lambda: 1_600_000_000.7)
    assert ownership_of(Settings.model_validate(options), Owner(12, 34)) == Ownership(
        uid=12,
        gid=34,
        file_mode=file_mode,
        dir_mode=dir_mode,
        mounted_at=1_600_000_000_000_000_000,
    )


@on_loop()
async def test_the_parts_of_a_mount_share_the_memory_and_follow_the_options() -> None:
    settings = Settings.model_validate(
        {"memory_target": "64M", "part_size": "10M", "metadata_ttl": "7", "max_connections": "3"}
    )
    core = build_file_system(GatedStore(), settings, Owner(1, 2), "pre/")._core
    uploads, staging = core.writers.uploads, core.writers.staging
    assert core.readers.pool is uploads.pool is staging.pool
    assert core.readers.pool.budget == 64 * MIB
    assert uploads.first_part == staging.limits.send == 10 * MIB
    assert (staging.directory, core.writers.write_back) == (None, 0.0)
    assert core.metadata.lifetime == 7.0
    assert core.readers.window_limit == 3 * 8 * MIB
    assert core.nodes.root.key == "pre/"


def test_a_device_that_libfuse_cannot_use_ends_the_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Before INIT, too, when somebody waits for that."""
    caplog.set_level(logging.INFO, "fuse_s3_worker")
    library.load()

    async def main() -> None:
        fs = build_file_system(GatedStore(), SETTINGS, Owner(1000, 1000), "")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        session = LibfuseSession(theirs.detach(), fs)
        session.start()
        ours.close()
        await asyncio.wait_for(session.adapter.initialized.wait(), 30)
        assert await asyncio.wait_for(session.run(), 30) is End.FAILED
        session.begin_to_hand_over()

    loops.run(main())
    events = [record.getMessage().split()[0] for record in caplog.records]
    assert events == ["device_failed", "failed", "handover_given_up"]
