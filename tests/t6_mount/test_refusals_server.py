"""What a server is that cannot be mounted from: one line, the next step, and nothing left."""

import contextlib
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support import faults
from support.attempts import FAILURE, SECRET, Attempt
from support.mounts import check_no_worker_is_left, workers
from support.proxy import Proxy
from support.s3 import Bucket, Keys, Store
from support.servers import Servers

pytestmark = [pytest.mark.mount, pytest.mark.usefixtures("product")]


def test_bucket_is_missing(attempt: Attempt) -> None:
    attempt.spec = "t-there-is-no-such-bucket"
    attempt.refused(FAILURE, attempt.spec, "does not exist", "aws s3 mb")


def test_wrong_secret(servers: Servers, attempt: Attempt) -> None:
    if "any-key" in attempt.store.quirks:
        attempt.store = servers.moto_with_users.store
    attempt.environment = attempt.store.environment | {"AWS_SECRET_ACCESS_KEY": SECRET}
    attempt.refused(FAILURE, attempt.spec, "denied: the secret key is wrong")


def test_unknown_access_key(servers: Servers, attempt: Attempt) -> None:
    if "any-key" in attempt.store.quirks:
        attempt.store = servers.moto_with_users.store
    attempt.environment = attempt.store.environment | {"AWS_ACCESS_KEY_ID": "AKIANOBODY"}
    attempt.refused(FAILURE, attempt.spec, "denied: the server does not know this access key")


def test_no_permission(servers: Servers, attempt: Attempt) -> None:
    if "any-key" in attempt.store.quirks:
        attempt.store = servers.moto_with_users.store
    with Bucket(attempt.store) as closed:
        attempt.spec = closed.name
        attempt.store = attempt.store.as_other()
        attempt.refused(FAILURE, closed.name, "denied", "s3:ListBucket")


@pytest.mark.one_store
def test_nobody_listens(attempt: Attempt) -> None:
    attempt.store = attempt.store.at("http://127.0.0.1:9")
    attempt.refused(FAILURE, "http://127.0.0.1:9 does not answer", "Connection refused")


@pytest.mark.one_store
def test_name_that_does_not_resolve(attempt: Attempt) -> None:
    attempt.store = attempt.store.at("http://no-such-host.invalid")
    attempt.refused(FAILURE, "no-such-host.invalid")


@contextlib.contextmanager
def _silent_server() -> Iterator[str]:
    """Accept connections and never say a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.contextmanager
def _deaf_server() -> Iterator[str]:
    """Be an address that answers no connection: its backlog is full, and stays so."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_black_holes_end_within_the_time_mount_has(tmp_path: Path) -> None:
    """Both at the same time, since it is a long one."""
    attempts = {"silent": _silent_server, "deaf": _deaf_server}
    before = workers()
    with contextlib.ExitStack() as servers, ThreadPoolExecutor() as threads:
        running = []
        for name, server in attempts.items():
            store = Store(name, servers.enter_context(server()), Keys("key", SECRET))
            attempt = Attempt(store, "a-bucket", tmp_path / name)
            attempt.directory.mkdir()
            running.append((attempt, threads.submit(attempt.outcome)))
        for attempt, outcome in running:
            url = attempt.store.endpoint
            attempt.check(outcome.result(), FAILURE, f"{url} does not answer")
    check_no_worker_is_left(before)


@pytest.mark.one_store
def test_server_that_is_none(attempt: Attempt) -> None:
    with Proxy(attempt.store.endpoint) as proxy:
        attempt.store = attempt.store.at(proxy.endpoint)
        proxy.on("", faults.html(), times=1000)
        attempt.refused(FAILURE, proxy.endpoint, "does not answer as an S3 server does")


@pytest.mark.one_store
def test_server_that_is_out_of_order(attempt: Attempt) -> None:
    with Proxy(attempt.store.endpoint) as proxy:
        attempt.store = attempt.store.at(proxy.endpoint)
        rule = proxy.on("", faults.s3_error(500, "InternalError", "We broke"), times=1000)
        attempt.refused(FAILURE, attempt.spec, "We broke", "request id FAULT0001")
        assert rule.applied > 1
