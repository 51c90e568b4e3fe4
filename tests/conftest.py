"""Options, stores, and the loud end: what could not run is listed, and counts where it must run."""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from support.attempts import Attempt
from support.cachedir import CacheDirectory, cache_directory
from support.install import installed
from support.mounts import workers
from support.process import wait_until
from support.proxy import Proxy
from support.rgw import RgwUnavailableError
from support.s3 import Bucket, Store
from support.servers import STORES, Servers

_ANY = "any"
_MUST_RUN = os.environ.get("FUSE_S3_TESTS_MUST_RUN") == "all"

_not_run: dict[str, list[str]] = {}  # reason to test ids
_deselected: list[tuple[str, str]] = []  # mark, test id


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stores",
        default=",".join(STORES),
        help="the S3 servers to run store tests against, of: " + ", ".join(STORES),
    )
    parser.addoption("--long", action="store_true", help="run the tests that take minutes too")
    parser.addoption(
        "--vm", action="store_true", help="run those that boot a machine: make test-vm"
    )
    parser.addoption(
        "--units", action="store_true",
        help="systemd starts the workers here: leave out what is about those that mount.s3 starts",
    )  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    unknown = set(_stores(config)) - set(STORES)
    if unknown:
        raise pytest.UsageError(f"--stores: unknown: {', '.join(sorted(unknown))}")
    # The gate says the same of the same code; what is new is found by --long, or a seed.
    explore = config.getoption("--long") or config.getoption("--hypothesis-seed") is not None
    hypothesis.settings.register_profile("gate", derandomize=not explore)
    hypothesis.settings.load_profile("gate")


def _stores(config: pytest.Config) -> list[str]:
    return [name for name in str(config.getoption("--stores")).split(",") if name]


# -- which tests -----------------------------------------------------------------------------------


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for mark in _marks_to_leave_out(config):
        left_out = [item for item in items if item.get_closest_marker(mark)]
        _deselected.extend((mark, item.nodeid) for item in left_out)
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    reason = _why_no_mounts()
    for item in items:
        if reason and item.get_closest_marker("mount"):
            item.add_marker(pytest.mark.skip(reason=reason))


def _marks_to_leave_out(config: pytest.Config) -> list[str]:
    marks = [mark for mark in ("long", "vm") if not config.getoption(f"--{mark}")]
    return [*marks, "keeper"] if config.getoption("--units") else marks


def _why_no_mounts() -> str:
    if os.geteuid() != 0:
        return "only root can mount"
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    return ""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "store" not in metafunc.fixturenames:
        return
    one = metafunc.definition.get_closest_marker("one_store")
    one_will_do = one is not None and not metafunc.config.getoption("--long")
    stores = [_ANY] if one_will_do else _stores(metafunc.config)
    metafunc.parametrize("store", stores, indirect=True)


# -- fixtures --------------------------------------------------------------------------------------


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that everybody can enter; pytest's own are for their owner alone."""
    path = Path(tempfile.mkdtemp(prefix="fuse-s3-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """All servers; each starts when it is asked for."""
    with Servers() as running:
        yield running


@pytest.fixture
def rgw(servers: Servers) -> Store:
    """The real server, for what no other can do."""
    try:
        return servers.rgw.store
    except RgwUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def store(request: pytest.FixtureRequest, servers: Servers) -> Store:
    """One S3 server after the other: a test that takes this runs on each of --stores.

    One that is marked one_store runs on the last of them that can be had: the most real one.
    """
    names, reason = [request.param], "no server was named"
    if request.param == _ANY:
        names = _stores(request.config)[::-1]
    for name in names:
        try:
            return servers.store(name)
        except RgwUnavailableError as error:
            reason = str(error)
    pytest.skip(reason)


@pytest.fixture
def bucket(store: Store) -> Iterator[Bucket]:
    """A fresh bucket."""
    with Bucket(store) as made:
        yield made


@pytest.fixture
def proxy(bucket: Bucket) -> Iterator[Proxy]:
    """A proxy in front of the bucket's server."""
    with Proxy(bucket.store.endpoint) as running:
        yield running


@pytest.fixture
def cache(bucket: Bucket, public: Path) -> Iterator[CacheDirectory]:
    """A directory of the worker's, for `cache=`, and the command that is about it."""
    with cache_directory(public / "cache", bucket.store) as made:
        yield made


@pytest.fixture
def attempt(bucket: Bucket, tmp_path: Path) -> Attempt:
    """A mount of the bucket, to be spoilt."""
    directory = tmp_path / "mnt"
    directory.mkdir()
    return Attempt(bucket.store, bucket.name, directory)


@pytest.fixture(scope="session")
def _installed() -> Iterator[None]:
    with installed():
        yield


@pytest.fixture
def product(_installed: None) -> Iterator[None]:
    """The product of this tree, installed; a test that mounts leaves no worker behind."""
    before = workers()
    yield
    wait_until(lambda: workers() <= before, "the end of the workers that this test started", 15.0)


# -- the loud end ----------------------------------------------------------------------------------


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _not_run.setdefault(reason.removeprefix("Skipped: "), []).append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _not_run and _MUST_RUN and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for mark, count in Counter(mark for mark, _ in _deselected).items():
        option = "--units" if mark == "keeper" else f"--{mark}"
        terminalreporter.write_line(f"{count} {mark} tests were left out: see {option}")
    if not _not_run:
        return
    terminalreporter.section("COULD NOT RUN", sep="!", red=True, bold=True)
    for reason, tests in _not_run.items():
        terminalreporter.write_line(f"{len(tests)} tests: {reason}", red=True)
        for test in tests[:5]:
            terminalreporter.write_line(f"    {test}")
        if len(tests) > 5:
            terminalreporter.write_line(f"    ... and {len(tests) - 5} more")
    if _MUST_RUN:
        terminalreporter.write_line("FUSE_S3_TESTS_MUST_RUN=all: this is a failure", red=True)
