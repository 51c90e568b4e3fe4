"""What the benchmark works out itself: turns, medians, ratios, and what was asked how often."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from bench import report, rounds
from bench.bench import Bench, Sample
from bench.content import CHUNK, Content
from bench.contestants import CONTESTANTS, OURS, Contestant, Setting
from bench.rounds import Result
from bench.server.configuration import SHAPES
from bench.server.operations import operation, split_target
from bench.server.requests import RequestLog, count
from bench.workloads import WORKLOADS
from bench.workloads.base import Column, Workload, one_by_one

# -- turns and results -----------------------------------------------------------------------------

YARDSTICK = "bare socket"
_ROWS = [CONTESTANTS[name] for name in (OURS, "s3fs", "rclone")]
_RATES = {OURS: [4.0, 1.0, 3.0], "s3fs": [1.0, 1.5, 2.0], "rclone": [6.0, 5.0, 7.0]}


class _Script:
    """A workload that measures what it is told, and writes down who came when."""

    def __init__(self, rates: dict[str, list[float]], fails: str = "") -> None:
        self.rates = {name: iter(values) for name, values in rates.items()}
        self.order: list[str] = []
        self.checks: list[bool] = []
        self.said: list[str] = []
        self._fails = fails

    def workload(self, *, more_is_better: bool) -> Workload:
        return Workload(
            name="script",
            title="a script",
            kind="read",
            columns=(Column("rate", "GB/s", ".2f"), Column("peak", "peak MB", ".0f")),
            measure=one_by_one(self._measure),
            more_is_better=more_is_better,
            yardsticks=((YARDSTICK, lambda _: Sample({"rate": 10.0})),),
        )

    def _measure(self, _: Bench, contestant: Contestant, check: bool) -> Sample:
        self.order.append(contestant.name)
        self.checks.append(check)
        if contestant.name == self._fails:
            raise OSError("no luck")
        return Sample({"rate": next(self.rates[contestant.name]), "peak": 7.0}, {"GetObject": 3})

    def run(self, *, more_is_better: bool = True) -> tuple[Workload, dict[str, Result]]:
        workload = self.workload(more_is_better=more_is_better)
        bench = cast(Bench, SimpleNamespace(say=self.said.append))
        return workload, rounds.run(bench, workload, _ROWS, 3)


def test_contestants_take_turns_and_each_is_the_first_once() -> None:
    script = _Script(_RATES)
    script.run()
    assert [script.order[at : at + 3] for at in (0, 3, 6)] == [
        [OURS, "s3fs", "rclone"],
        ["s3fs", "rclone", OURS],
        ["rclone", OURS, "s3fs"],
    ]


def test_only_the_last_round_checks_the_content() -> None:
    script = _Script(_RATES)
    script.run()
    assert script.checks == [False] * 6 + [True] * 3


def test_the_median_decides_and_the_ratio_says_how_much_better_ours_is() -> None:
    workload, results = _Script(_RATES).run()
    assert {name: result.median("rate") for name, result in results.items()} == {
        OURS: 3.0,
        "s3fs": 1.5,
        "rclone": 6.0,
        YARDSTICK: 10.0,
    }
    assert report.ratio(workload, results, "s3fs") == 2.0
    assert report.ratio(workload, results, "rclone") == 0.5


def test_where_less_is_better_the_ratio_turns_round() -> None:
    workload, results = _Script(_RATES).run(more_is_better=False)
    assert report.ratio(workload, results, "s3fs") == 0.5
    assert report.ratio(workload, results, "rclone") == 2.0


def test_who_fails_is_out_and_the_others_go_on() -> None:
    script = _Script(_RATES, fails="s3fs")
    workload, results = script.run()
    assert script.order.count("s3fs") == 1
    assert results["s3fs"].failure == "OSError: no luck"
    assert len(results["rclone"].samples) == 3
    assert report.ratio(workload, results, "s3fs") is None
    text = report.table(workload, results, "fast")
    assert "s3fs: OSError: no luck" in text
    assert any("s3fs" in line and "failed" in line for line in script.said)


def test_the_table_has_a_row_for_each_with_range_and_ratio() -> None:
    workload, results = _Script(_RATES).run()
    rows = {
        line.split("  ")[1]: line.split()
        for line in report.table(workload, results, "fast").split("\n")[1:5]
    }
    assert rows["s3fs"] == ["s3fs", "1.50", "1.00", "-", "2.00", "x", "2.00", "7"]
    assert rows[YARDSTICK][-1] == "-"
    assert "s3fs asked for: 3 GetObject" in report.table(workload, results, "fast")


def test_who_needed_too_long_has_a_bound_and_a_note() -> None:
    workload, results = _Script(_RATES).run()
    late = Sample({"rate": 0.5, "peak": 7.0}, note="not within 8 s", bound=True)
    lines = report.table(workload, results | {"s3fs": Result([late])}, "fast").split("\n")
    assert lines[2].split() == ["s3fs", "<", "0.50", "0.50", "-", "0.50", ">", "x", "6.00", "7"]
    assert "  s3fs: not within 8 s" in lines


def test_a_workload_has_one_title_and_a_table_on_each_server() -> None:
    workload, results = _Script(_RATES).run()
    other = workload._replace(name="other")
    first, second = (workload, results), (other, results)
    lines = list(report.tables({"fast": [first, second], "s3like": [first]}))
    headings = [line.split()[0] for line in lines if line]
    assert headings == ["script:", "fast", "s3like", "other:", "fast"]


def test_the_json_has_every_sample(tmp_path: Path) -> None:
    workload, results = _Script(_RATES, fails="rclone").run()
    path = tmp_path / "new" / "result.json"
    report.as_json({"processors": 2}, {"fast": [(workload, results)]}, path)
    document = json.loads(path.read_text())
    assert document["machine"] == {"processors": 2}
    contestants = document["servers"]["fast"]["script"]["contestants"]
    ours = contestants[OURS]
    assert [sample["values"]["rate"] for sample in ours["samples"]] == _RATES[OURS]
    assert ours["median"]["rate"] == 3.0
    assert contestants["s3fs"]["ours_is_times_better"] == 2.0
    assert contestants["rclone"]["failure"] == "OSError: no luck"


# -- the tables ------------------------------------------------------------------------------------


def test_each_workload_has_ours_and_its_name_is_its_key() -> None:
    for name, workload in WORKLOADS.items():
        assert workload.name == name
        assert OURS in [row.name for row in rounds.taking_part(workload, [*CONTESTANTS.values()])]


def test_every_contestant_mounts_the_same_bucket_of_the_same_server(tmp_path: Path) -> None:
    setting = Setting("http://127.0.0.1:1234", "some-bucket", tmp_path / "mnt", tmp_path)
    for row in CONTESTANTS.values():
        environment = row.prepare(setting)
        for kind in row.kinds:
            words = " ".join([*row.command(setting, kind), *environment.values()])
            assert "http://127.0.0.1:1234" in words
            assert "some-bucket" in words
            assert str(tmp_path / "mnt") in words
        assert (tmp_path / "passwd").stat().st_mode & 0o077 == 0


def test_with_tls_everybody_is_told_whom_to_trust(tmp_path: Path) -> None:
    setting = Setting("https://127.0.0.1:1", "some-bucket", tmp_path / "mnt", tmp_path)
    for row in CONTESTANTS.values():
        plain, trusting = row.prepare(setting), row.prepare(setting._replace(ca=tmp_path / "ca"))
        assert trusting == plain | {row.ca_variable: str(tmp_path / "ca")}
        assert row.ca_variable not in plain


def test_who_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RCLONE", "/nowhere/rclone")
    assert CONTESTANTS["rclone"].missing() == "rclone is not installed"


def test_a_version_without_the_flag_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "rclone"
    old.write_text("#!/bin/sh\necho --vfs-cache-mode\n")
    old.chmod(0o755)
    monkeypatch.setenv("RCLONE", str(old))
    assert CONTESTANTS["rclone"].missing() == ""
    assert "--vfs-read-chunk-streams" in CONTESTANTS["rclone-streams"].missing()


# -- content ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, CHUNK, 3 * CHUNK + 5])
def test_content_has_its_size_and_its_sum(size: int) -> None:
    whole = b"".join(Content(size).chunks())
    assert len(whole) == size
    assert hashlib.sha256(whole).hexdigest() == Content(size).sha256


def test_no_two_chunks_of_a_gibibyte_are_alike() -> None:
    starts = {bytes(chunk[:32]) for chunk in Content(1 << 30).chunks()}
    assert len(starts) == 1024


# -- waiting ---------------------------------------------------------------------------------------


def test_a_slow_server_says_how_long_a_request_takes_at_least() -> None:
    assert SHAPES["fast"].waiting(1 << 30) == 0
    assert SHAPES["s3like"].waiting(0) == 0.02
    assert SHAPES["s3like"].waiting(9_000_000) == pytest.approx(0.12)


# -- requests --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "target", "copies", "name"),
    [
        ("GET", "/b/k", False, "GetObject"),
        ("GET", "/b/k?x-id=GetObject", False, "GetObject"),
        ("HEAD", "/b/d/k", False, "HeadObject"),
        ("HEAD", "/b", False, "HeadBucket"),
        ("HEAD", "/b/", False, "HeadBucket"),
        ("GET", "/b?list-type=2&prefix=a%2F", False, "ListObjectsV2"),
        ("GET", "/b/?prefix=a", False, "ListObjects"),
        ("GET", "/b?location", False, "GetBucketLocation"),
        ("GET", "/b?uploads", False, "ListMultipartUploads"),
        ("GET", "/b?versioning", False, "Unknown"),
        ("GET", "/", False, "Unknown"),
        ("PUT", "/b/k", False, "PutObject"),
        ("PUT", "/b/k", True, "CopyObject"),
        ("PUT", "/b/k?partNumber=1&uploadId=x", False, "UploadPart"),
        ("PUT", "/b/k?partNumber=1&uploadId=x", True, "UploadPartCopy"),
        ("PUT", "/b/k?acl", False, "Unknown"),
        ("POST", "/b/k?uploads", False, "CreateMultipartUpload"),
        ("POST", "/b/k?uploadId=x", False, "CompleteMultipartUpload"),
        ("POST", "/b?delete", False, "DeleteObjects"),
        ("DELETE", "/b/k?uploadId=x", False, "AbortMultipartUpload"),
        ("DELETE", "/b/k", False, "DeleteObject"),
        ("PATCH", "/b/k", False, "Unknown"),
    ],
)
def test_requests_have_the_names_of_the_api(
    method: str, target: str, copies: bool, name: str
) -> None:
    assert operation(method, split_target(target), copies=copies) == name


def test_failures_are_counted_apart_and_completions_are_timed() -> None:
    lines = [
        "HEAD\t/b/k\t200\t0\t0\t0.001\t\t10.001",
        "HEAD\t/b/k\t404\t0\t0\t0.001\t\t10.001",
        "POST\t/b/k?uploadId=x\t200\t0\t0\t0.250\t\t20.250",
        "POST\t/b/j?uploadId=y\t200\t0\t0\t0.500\t\t20.600",
        "GET\t/b/k\t206\t77\t0\t0.001\t\t30.001",
        "GET\t/b?list-type=2\t200\t5000\t0\t0.001\t\t30.001",
    ]
    found = count("\n".join(lines))
    assert found.operations == {
        "CompleteMultipartUpload": 2,
        "GetObject": 1,
        "HeadObject": 1,
        "HeadObject 404": 1,
        "ListObjectsV2": 1,
    }
    assert (found.completing, found.total, found.fetched) == (0.75, 6, 77)
    # From 20.0 to 20.6, with both uploads in it, and two times a millisecond.
    assert found.busy == pytest.approx(0.602)


def test_the_log_is_read_on_from_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    line = "GET\t/b/k\t206\t0\t0\t0.001\t\t10.001\n"
    path.write_text(line + line[:9])
    log = RequestLog(path)
    assert log.take().operations == {"GetObject": 1}
    with path.open("a") as file:
        file.write(line[9:])
    assert log.take().operations == {"GetObject": 1}
    assert log.take().operations == {}
