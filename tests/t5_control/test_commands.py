"""The commands against a worker in memory: what they print, for people and for programs."""

import asyncio
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fuse_s3_cli import main as command
from fuse_s3_cli import mounts as module
from fuse_s3_cli import orders
from fuse_s3_cli.control import shown
from fuse_s3_cli.models import Status
from fuse_s3_cli.table import columns, duration, seconds, size
from fuse_s3_control.places import About
from fuse_s3_worker.fs.treemove import Phase, Progress
from fuse_s3_worker.fuse.abi import Opcode
from support.controlled import Client, controlled
from support.tree import Tree

DIRECTORY = "/mnt/it"


class Running:
    """A mount in memory whose loop runs in a thread, as a worker's in a process."""

    def __init__(self, home: Path) -> None:
        self.client: Client | None = None
        self.tree: Tree | None = None
        self.table = home / "mountinfo"
        self._loop = asyncio.new_event_loop()
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(30)

    def _run(self) -> None:
        self._loop.run_until_complete(self._main())

    async def _main(self) -> None:
        self.tree = Tree({"d/a": b"1"})
        async with controlled(self.tree) as self.client:
            directory = (await self.tree.lookup(1, "d")).node.id
            await self.tree.lookup(directory, "a")
            facts = self.client.facts
            facts.kernel.add(Opcode.READ, 3_000_000)
            facts.fs.renames.trees.under_way.append(
                Progress("old/", "new/", Phase.COPYING, keys=10, copied=4)
            )
            handle = await self.tree.create("\x1b[31mred")
            await self.tree.write(handle, 0, b"x" * 3000)
            self._ready.set()
            await self._stop.wait()
            await self.tree.close(handle)
        await self.tree.fs.close()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self._loop.close()


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    made = Running(tmp_path)
    assert made.client is not None
    path = made.client.place.path
    mine = os.geteuid()
    made.table.write_text(
        f"40 22 0:60 / {DIRECTORY} rw,nosuid - fuse.s3 bucket/prefix rw,user_id={mine}\n"
        f"41 22 0:61 / /mnt/dead ro,nosuid - fuse.s3 other rw,user_id={mine}\n"
    )
    monkeypatch.setattr(module, "MOUNTINFO", made.table)
    monkeypatch.setattr(module, "found", lambda: [(path, mine)])
    yield made
    made.stop()


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["fuse-s3", *words])
    return command.main()


def test_list_for_people_and_for_programs(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "list") == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["DIRECTORY", "BUCKET", "ACCESS", "WORKER", "SINCE"]
    assert first.split()[:4] == [DIRECTORY, "bucket/prefix", "rw", str(os.getpid())]
    assert second.split() == ["/mnt/dead", "other", "ro", "none", "-"]
    assert run(monkeypatch, "list", "--json") == 0
    one, other = json.loads(capsys.readouterr().out)
    assert (one["directory"], one["pid"], one["read_only"]) == (DIRECTORY, os.getpid(), False)
    assert (other["pid"], other["since"], other["read_only"]) == (None, None, True)
    assert running.client is not None
    assert running.client.door._server is None  # nobody was asked
    running.table.write_text("")
    assert run(monkeypatch, "list") == 0
    assert capsys.readouterr().out == "no bucket is mounted\n"


def test_status_for_people_does_nothing_to_a_terminal(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert running.client is not None
    assert run(monkeypatch, "status", DIRECTORY) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    for words in (
        f"bucket/prefix on {DIRECTORY}",
        "mdwe: too old",
        "1 files, 2.9 KiB",
        r"\x1b[31mred: 2.9 KiB",
        "renaming old/ to new/: copying, 4 of 10 copied, 0 deleted",
        "metadata_ttl  60.0  given",
    ):
        assert words in text, text
    (row,) = [line.split() for line in text.splitlines() if line.startswith("  READ")]
    assert row[:4] == ["READ", "1", "4", "ms"]


def test_status_for_programs_is_whole(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert running.tree is not None
    assert run(monkeypatch, "status", DIRECTORY, "--json") == 0
    status = Status.model_validate(json.loads(capsys.readouterr().out))
    assert (status.spec, status.pid, status.restarts) == ("bucket/prefix", os.getpid(), 0)
    assert (status.dirty_files, status.dirty_bytes) == (1, 3000)
    assert status.dirty[0].key == "\x1b[31mred"
    assert status.renames[0].copied == 4
    assert status.recovering == []
    assert {option.name for option in status.options} > {"region", "sandbox", "examine"}


def test_orders_are_carried_out_and_confirmed(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for level in ("debug", "info"):
        assert run(monkeypatch, "log-level", DIRECTORY, level) == 0
        assert capsys.readouterr().out.startswith(f"log level {level}; it was ")
    for path in ("", "d", f"{DIRECTORY}/d/", DIRECTORY):
        words = ["drop-metadata", DIRECTORY, *([path] if path else [])]
        assert run(monkeypatch, *words) == 0
        assert "the kernel was told of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("status", "/mnt/nothing"), "/mnt/nothing is no mounted bucket: see fuse-s3 list"),
        (("status", "/mnt/dead"), "no worker answers for /mnt/dead"),
        (("drop-metadata", DIRECTORY, "/etc"), f"/etc is not below {DIRECTORY}"),
        (("drop-metadata", DIRECTORY, "../x"), "no path below the mount point: '../x'"),
        (("restart", DIRECTORY), "nobody would go on with this mount"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    running: Running,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    assert running.client is not None
    assert run(monkeypatch, *words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fuse-s3: ")
    assert said in line


def test_who_is_not_let_in_is_told_why(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert running.client is not None
    running.client.door._admitted = frozenset({os.geteuid() + 1})
    assert run(monkeypatch, "status", DIRECTORY) == 1
    assert "only root and the owner of the files may ask it" in capsys.readouterr().err


def test_a_restart_waits_for_the_next_worker(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert running.client is not None
    place = running.client.place

    def hand_over() -> None:
        old = place.path / "about"
        about = About.model_validate_json(old.read_bytes())
        old.write_text(about.model_copy(update={"pid": 4242}).model_dump_json())

    running.client.facts.hand_over = hand_over
    assert run(monkeypatch, "restart", DIRECTORY) == 0
    assert capsys.readouterr().out == f"worker {os.getpid()} handed over to 4242\n"
    running.client.facts.hand_over = lambda: None
    monkeypatch.setattr(orders, "_HAND_OVER", 0.3)
    assert run(monkeypatch, "restart", DIRECTORY) == 1
    assert "has not handed over within" in capsys.readouterr().err


# -- numbers ---------------------------------------------------------------------------------------


def test_numbers_are_for_people() -> None:
    assert [size(n) for n in (0, 999, 1024, 1536, 10 << 20, 3 << 40, 5000 << 40)] == [
        *("0 B", "999 B", "1.0 KiB", "1.5 KiB", "10 MiB", "3.0 TiB", "5000 TiB"),
    ]
    assert [duration(n) for n in (-1, 0.9, 59, 61, 3600, 12_000, 90_061)] == [
        *("0 s", "0 s", "59 s", "1 min 1 s", "1 h", "3 h 20 min", "1 d 1 h"),
    ]
    assert [seconds(n) for n in (0.0, 0.000_262, 0.034, 2.1)] == ["0 us", "262 us", "34 ms", "2 s"]
    assert columns([("a", "bb"), ("ccc", "d")]) == "a    bb\nccc  d"
    assert shown("a\x1b\nb\u202eé") == "a\\x1b\\nb\\u202eé"
