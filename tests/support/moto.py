"""A moto server: S3 in memory, in a process of its own, ready in a third of a second.

It believes every signature, unless `Moto(users=True)`: then there are two users of its IAM, whose
signatures are verified, and the second may list the buckets and nothing else.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from support.process import Child, ChildEndedError, free_port, wait_for_port
from support.s3 import Keys, Store, wait_for_s3

__all__ = ["Moto"]

_QUIRKS = frozenset({"any-key", "no-keep-alive", "no-request-id", "no-newline", "slow-ranges"})
_USERS = {
    "tester": {"Effect": "Allow", "Action": "*", "Resource": "*"},
    "other": {"Effect": "Allow", "Action": "s3:ListAllMyBuckets", "Resource": "*"},
}
_CALLS_A_USER = 3  # until then nobody is refused: who would make the first user?
_ATTEMPTS = 3  # another program may have taken the port


class Moto:
    """The server; a context manager that starts and stops it."""

    store: Store

    def __init__(self, *, users: bool = False) -> None:
        self._users = users
        self._child: Child | None = None
        self._directory = Path(tempfile.mkdtemp(prefix="fuse-s3-moto-"))

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._start(free_port())
                break
            except ChildEndedError:
                if attempt == _ATTEMPTS:
                    raise
        return self

    def stop(self) -> None:
        """Stop it; everything it had is gone."""
        if self._child is not None:
            self._child.stop()
            self._child = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start(self, port: int) -> None:
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
        # Where a host name is a bucket's and where it is ours, moto has to be told.
        environment["MOTO_S3_CUSTOM_ENDPOINTS"] = endpoint = f"http://127.0.0.1:{port}"
        if self._users:
            environment["INITIAL_NO_AUTH_ACTION_COUNT"] = str(_CALLS_A_USER * len(_USERS))
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        self._child = Child(command, self._directory / "log", environment=environment)
        self.store = Store("moto", endpoint, Keys("testkey", "testsecret"), quirks=_QUIRKS)
        if self._users:
            wait_for_port(port, self._child)
            self._make_users()
        else:
            wait_for_s3(self.store, self._child)

    def _make_users(self) -> None:
        iam = self.store.client("iam")
        keys = [_make_user(iam, name, statement) for name, statement in _USERS.items()]
        quirks = _QUIRKS - {"any-key"}
        self.store = Store("moto", self.store.endpoint, keys[0], keys[1], quirks)
        iam.close()


def _make_user(iam: Any, name: str, statement: dict[str, str]) -> Keys:  # noqa: ANN401  boto3's
    document = {"Version": "2012-10-17", "Statement": [statement]}
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=json.dumps(document))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return Keys(key["AccessKeyId"], key["SecretAccessKey"])
