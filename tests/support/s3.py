"""S3 as the tests see it from the other side: a server's address and keys, and buckets in it."""

import concurrent.futures
import contextlib
import secrets
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from support.process import Child, wait_until

__all__ = ["Bucket", "Keys", "Store", "wait_for_s3"]

_REGION = "us-east-1"
_THREADS = 8
_BATCH = 1000  # keys that DeleteObjects takes


class Keys(NamedTuple):
    """An access key."""

    access: str
    secret: str


@dataclass(frozen=True, slots=True)
class Store:
    """A running S3 server.

    `other` is a second user's key, where there are users. `quirks` names what this server does
    unlike Amazon, so that a test can say what it expects instead:

        any-key         every key and every signature is accepted
        no-keep-alive   each reply ends the connection
        no-request-id   replies have no x-amz-request-id
        no-region       x-amz-bucket-region is never sent
        no-tags-on-parts  x-amz-tagging of a multipart upload is ignored
        no-newline      a key with a newline is refused
        slow-ranges     a range costs as much as the object
    """

    name: str
    endpoint: str
    keys: Keys
    other: Keys | None = None
    quirks: frozenset[str] = field(default_factory=frozenset)
    ca_bundle: Path | None = None

    def at(self, endpoint: str, ca_bundle: Path | None = None) -> "Store":
        """Return the same server under another address: a proxy's, or its TLS port."""
        return replace(self, endpoint=endpoint, ca_bundle=ca_bundle)

    def as_other(self) -> "Store":
        """Return the same server with the second user's key."""
        if self.other is None:
            raise LookupError(f"{self.name} has no second user")
        return replace(self, keys=self.other, other=self.keys)

    def client(self, service: str = "s3") -> Any:  # noqa: ANN401  a class made at run time
        """Return a boto3 client, which may be used from several threads."""
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            aws_access_key_id=self.keys.access,
            aws_secret_access_key=self.keys.secret,
            region_name=_REGION,
            verify=str(self.ca_bundle) if self.ca_bundle else None,
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 3},
                max_pool_connections=2 * _THREADS,
                # Ceph knows no trailing checksums, and refuses them over https.
                request_checksum_calculation="when_required",
            ),
        )

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which a program finds this server's key, and no other."""
        return {
            "AWS_ACCESS_KEY_ID": self.keys.access,
            "AWS_SECRET_ACCESS_KEY": self.keys.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }


class Bucket:
    """A bucket of its own name that is gone afterwards, with all that is in it."""

    def __init__(self, store: Store, name: str = "") -> None:
        self.store = store
        self.name = name or f"t-{secrets.token_hex(6)}"
        self.client = store.client()

    def __enter__(self) -> Self:
        self.client.create_bucket(Bucket=self.name)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ClientError):
            self.empty()
            self.client.delete_bucket(Bucket=self.name)
        self.client.close()

    # -- one object -----------------------------------------------------------------------------

    def put(self, key: str, content: bytes = b"", **fields: str) -> str:
        """Store an object; return its ETag."""
        reply = self.client.put_object(Bucket=self.name, Key=key, Body=content, **fields)
        return str(reply["ETag"])

    def get(self, key: str) -> bytes:
        """Return an object's content."""
        return bytes(self.client.get_object(Bucket=self.name, Key=key)["Body"].read())

    def head(self, key: str) -> Mapping[str, Any]:
        """Return what HEAD says of an object."""
        found: Mapping[str, Any] = self.client.head_object(Bucket=self.name, Key=key)
        return found

    def has(self, key: str) -> bool:
        """Tell whether there is such an object."""
        try:
            self.head(key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise
        return True

    def delete(self, key: str) -> None:
        """Remove an object."""
        self.client.delete_object(Bucket=self.name, Key=key)

    def wait_until_old(self, key: str, seconds: float = 2.0) -> float:
        """Wait until an object is so old that no clock can confuse it with now; return its time."""
        modified = float(self.head(key)["LastModified"].timestamp())
        while time.time() < modified + seconds:
            time.sleep(0.05)
        return modified

    # -- many -----------------------------------------------------------------------------------

    def keys(self, prefix: str = "") -> list[str]:
        """Return all keys below a prefix, in the order of the bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=self.name, Prefix=prefix
        )
        return [item["Key"] for page in pages for item in page.get("Contents", [])]

    def uploads(self) -> list[str]:
        """Return the keys of the multipart uploads that are neither completed nor aborted."""
        reply = self.client.list_multipart_uploads(Bucket=self.name)
        return [str(upload["Key"]) for upload in reply.get("Uploads", [])]

    def parts(self) -> list[int]:
        """Return how many parts each of these has."""
        reply = self.client.list_multipart_uploads(Bucket=self.name)
        return [
            len(
                self.client.list_parts(
                    Bucket=self.name, Key=upload["Key"], UploadId=upload["UploadId"]
                ).get("Parts", [])
            )
            for upload in reply.get("Uploads", [])
        ]

    def put_many(self, contents: Iterable[tuple[str, bytes]]) -> None:
        """Store objects, several at a time."""
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
            for _ in threads.map(lambda item: self.put(*item), contents):
                pass

    def put_tree(self, directory: Path, prefix: str = "") -> int:
        """Store every regular file below a directory; return how many there were."""
        files = list(files_below(directory))
        self.put_many(
            (prefix + str(path.relative_to(directory)), path.read_bytes()) for path in files
        )
        return len(files)

    def empty(self) -> None:
        """Remove everything, unfinished uploads too."""
        for upload in self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", []):
            self.client.abort_multipart_upload(
                Bucket=self.name, Key=upload["Key"], UploadId=upload["UploadId"]
            )
        keys = self.keys()
        for at in range(0, len(keys), _BATCH):
            batch = [{"Key": key} for key in keys[at : at + _BATCH]]
            self.client.delete_objects(Bucket=self.name, Delete={"Objects": batch, "Quiet": True})


def files_below(directory: Path) -> Iterator[Path]:
    """Yield the regular files below a directory, not the links."""
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield path


def wait_for_s3(store: Store, *servers: Child) -> None:
    """Return once the store lists its buckets.

    Raises:
        ChildEndedError: one of its servers ended.
        TimeoutError: they do not answer.
    """
    client = store.client()

    def answers() -> bool:
        for server in servers:
            server.must_live()
        try:
            client.list_buckets()
        except (BotoCoreError, ClientError):
            return False
        return True

    try:
        wait_until(answers, f"{store.name} at {store.endpoint}")
    finally:
        client.close()
