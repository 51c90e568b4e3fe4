"""What the benchmark is asked for, and what becomes of its results: pictures and comparisons."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench import compare, plot
from bench.command import parser, rows
from bench.contestants import CONTESTANTS, OURS
from bench.plan import PLAN, Row, Stage, stages
from bench.workloads import GROUPS, WORKLOADS

# -- the command line ------------------------------------------------------------------------------


def _rows(*words: str) -> list[Row]:
    return rows(parser().parse_args(words))


def test_without_words_it_is_the_plan() -> None:
    assert sorted(_rows()) == sorted(PLAN)
    assert list(dict.fromkeys(row.stage for row in _rows())) == stages(PLAN)


def test_the_plan_names_what_there_is_and_measures_nothing_twice() -> None:
    assert {row.workload for row in PLAN} <= WORKLOADS.keys()
    assert {name for row in PLAN for name in row.peers} <= CONTESTANTS.keys() - {OURS}
    assert len({(row.stage, row.workload) for row in PLAN}) == len(PLAN)


def test_shapes_peers_and_rounds_narrow_the_plan() -> None:
    found = _rows("--shape=s3like", "--peers=rclone", "--rounds=7")
    slow = {row.workload for row in PLAN if row.stage.shape == "s3like"}
    assert {row.workload for row in found} == slow
    assert {
        (row.peers, row.rounds) for row in [row._replace(peers=tuple(row.peers)) for row in found]
    } == {(("rclone",), 7)}
    assert {row.stage.tls for row in _rows("--tls=0")} == {False}


def test_what_is_named_is_measured_where_the_plan_does_or_on_the_fast_server() -> None:
    planned = [row for row in PLAN if row.workload == "seq_read_1g"]
    assert _rows("--workloads=seq_read_1g") == planned
    (other,) = _rows("--workloads=find_flat_1k")
    assert "find_flat_1k" not in {row.workload for row in PLAN}
    assert (other.stage, other.peers) == (Stage("fast"), ("s3fs", "rclone"))


def test_names_may_be_groups_and_patterns_and_count_once() -> None:
    given = parser().parse_args(["--workloads", "rand_read_4k_*,seq_read_1g core"])
    assert given.workloads[:3] == ["rand_read_4k_1", "rand_read_4k_4", "rand_read_4k_16"]
    assert given.workloads[3:] == GROUPS["core"]
    assert parser().parse_args(["--workloads", "all"]).workloads == list(WORKLOADS)
    assert parser().parse_args(["--peers="]).peers == []


def test_what_is_named_is_measured_on_every_shape_and_with_tls_too() -> None:
    found = _rows("--workloads=parquet", "--shape=s3like,fast", "--tls=1")
    assert {row.stage.name for row in found} == {"s3like", "s3like-tls", "fast", "fast-tls"}
    assert found[-1].stage.title.endswith("over HTTPS")


@pytest.mark.parametrize(
    "words", [["--rounds=0"], ["--shape=slow"], ["--peers=fuse-s3"], ["--tls=yes"]]
)
def test_what_makes_no_sense_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(words)


# -- results ---------------------------------------------------------------------------------------


def _results(rate: float, cpu: float, ours: float) -> dict[str, Any]:
    """Return what report.as_json writes, with one workload and two contestants."""

    def contestant(median: float, times: float) -> dict[str, Any]:
        values = {"rate": median, "cpu": cpu}
        samples = [{"values": {"rate": median * 0.75}}, {"values": {"rate": median * 2.0}}]
        return {
            "failure": "",
            "median": values,
            "ours_is_times_better": times,
            "samples": samples,
        }

    workload = {
        "title": "read something",
        "decides": "rate",
        "unit": "GB/s",
        "more_is_better": True,
        "contestants": {OURS: contestant(rate, 1.0), "s3fs": contestant(rate / ours, ours)},
    }
    return {
        "machine": {"kernel": "6.1", "rounds": rate},
        "servers": {"fast": {"script": workload}, "s3like": {}},
    }


def test_a_comparison_has_rates_costs_and_how_ours_stands() -> None:
    old, new = _results(2.0, 0.8, 4.0), _results(3.0, 0.6, 2.0)
    text = "\n".join(compare.compare(old, new))
    assert "rounds: 2.0 -> 3.0" in text
    assert "kernel" not in text
    assert "fast, script: read something" in text
    assert "fuse-s3: GB/s 2 -> 3 (+50%); CPU 0.8 -> 0.6 (-25%)" in text
    assert "s3fs: GB/s 0.5 -> 1.5 (+200%); CPU 0.8 -> 0.6 (-25%); ours is x 4.00 -> x 2.00" in text


def test_who_failed_is_not_compared() -> None:
    old, new = _results(2.0, 0.8, 4.0), _results(3.0, 0.6, 2.0)
    new["servers"]["fast"]["script"]["contestants"]["s3fs"] |= {"samples": [], "failure": "no luck"}
    text = "\n".join(compare.compare(old, new))
    assert "s3fs: failed, then not -> no luck" in text
    del old["servers"]["fast"]["script"]
    assert "script" not in "\n".join(compare.compare(old, new))


def test_what_was_decided_in_another_way_is_not_compared() -> None:
    old, new = _results(2.0, 0.8, 4.0), _results(3.0, 0.6, 2.0)
    old["servers"]["fast"]["script"] |= {"decides": "files", "unit": "files/s"}
    text = "\n".join(compare.compare(old, new))
    assert "it was decided by files/s, and is by GB/s" in text
    assert "->" not in text.split("script")[1]


def test_without_names_the_last_two_results_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path)]
    assert compare.main(output) == 1
    assert "two files" in capsys.readouterr().err
    for number, rate in enumerate((9.0, 2.0, 3.0)):
        (tmp_path / f"{number}.json").write_text(json.dumps(_results(rate, 1.0, 1.0)))
    assert compare.main(output) == 0
    assert "GB/s 2 -> 3 (+50%)" in capsys.readouterr().out
    assert compare.main([str(tmp_path / "0.json"), str(tmp_path / "2.json")]) == 0
    assert "GB/s 9 -> 3 (-67%)" in capsys.readouterr().out


def test_other_files_are_no_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "0.json").write_text("{}")
    assert compare.main([str(tmp_path / "0.json")] * 2) == 1
    assert "not results" in capsys.readouterr().err


def test_bars_are_as_long_as_medians_with_the_range_of_the_samples() -> None:
    workload = _results(2.0, 1.0, 4.0)["servers"]["fast"]["script"]
    assert plot.bars(workload) == [(OURS, 2.0, 0.5, 2.0), ("s3fs", 0.5, 0.125, 0.5)]


def test_every_server_with_results_has_its_pictures(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(_results(2.0, 1.0, 4.0)))
    assert "PNG" in plot.draw(path)
    assert sorted(found.name for found in tmp_path.iterdir()) == [
        "result-fast.png",
        "result-fast.svg",
        "result.json",
    ]
    picture = (tmp_path / "result-fast.svg").read_text()
    assert "<svg" in picture
    assert (tmp_path / "result-fast.png").read_bytes().startswith(b"\x89PNG")
