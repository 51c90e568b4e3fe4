"""Server-side encryption: what is asked for, whether it was done, and keys that S3 does not keep.

With keys of the customer's own (SSE-C) every request that touches bytes or metadata carries the
key. A listing does not tell which objects have one, nor which of several; so the one that was
right last is tried first, then the others, then none, and what was right for an object is
remembered.
"""

import base64
import binascii
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from fuse_s3_worker.errors import Fault, StoreError

__all__ = ["CustomerKey", "Encryption", "KeyFileError", "read_key_file"]

_T = TypeVar("_T")

_SSE = "x-amz-server-side-encryption"
_KMS_KEY = f"{_SSE}-aws-kms-key-id"
_CUSTOMER = f"{_SSE}-customer-"
_COPY_SOURCE = "x-amz-copy-source-server-side-encryption-customer-"
_KEY_SIZE = 32  # AES256, the only algorithm that S3 has for these
_REMEMBERED_MAX = 100_000  # objects
# What S3 says of a key that is missing, is another one, or is none too many.
_OTHER_KEY = frozenset({Fault.BAD_REQUEST, Fault.FORBIDDEN})


class KeyFileError(Exception):
    """A key file cannot be used; one line for the user, without anything of the keys."""


class CustomerKey(NamedTuple):
    """A key, as headers have it. Never print one."""

    key: str
    md5: str

    def __repr__(self) -> str:
        return "CustomerKey(***)"

    def headers(self, prefix: str = _CUSTOMER) -> dict[str, str]:
        """Return the headers that carry it."""
        return {
            f"{prefix}algorithm": "AES256",
            f"{prefix}key": self.key,
            f"{prefix}key-md5": self.md5,
        }


def read_key_file(text: str, path: str) -> list[CustomerKey]:
    """Read keys in the format of s3fs: one a line, 32 characters as they are or base64.

    Raises:
        KeyFileError: there is none, or one that is none.
    """
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        word = line.strip()
        if word and not word.startswith("#"):
            keys.append(_customer_key(word, f"{path}:{number}"))
    if not keys:
        raise KeyFileError(f"sse_c_key_file={path}: no key in it")
    return keys


def _customer_key(word: str, where: str) -> CustomerKey:
    raw = word.encode()
    try:
        if len(raw) > _KEY_SIZE:
            raw = base64.b64decode(raw, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != _KEY_SIZE:
        raise KeyFileError(
            f"sse_c_key_file={where}: not a key: give {_KEY_SIZE} characters, or "
            f"{_KEY_SIZE} bytes in base64, such as: openssl rand -base64 {_KEY_SIZE}"
        )
    md5 = hashlib.md5(raw, usedforsecurity=False).digest()
    return CustomerKey(base64.b64encode(raw).decode(), base64.b64encode(md5).decode())


class Encryption:
    """How objects of one mount are encrypted.

    Attributes:
        new_object: headers of an object that is stored.
    """

    def __init__(
        self, sse: str = "", kms_key_id: str = "", keys: Sequence[CustomerKey] = ()
    ) -> None:
        self._keys: tuple[CustomerKey | None, ...] = (*keys, None)
        self._right: OrderedDict[str, int] = OrderedDict()
        self._last = 0
        self._uploads: dict[str, Mapping[str, str]] = {}
        self.new_object: dict[str, str] = {}
        if sse not in {"", "customer"}:
            self.new_object = {_SSE: sse} | ({_KMS_KEY: kms_key_id} if kms_key_id else {})
        elif keys:
            self.new_object = keys[0].headers()

    # -- reading --------------------------------------------------------------------------------

    async def read(
        self, key: str, send: Callable[[dict[str, str]], Awaitable[_T]], *, copies: bool = False
    ) -> _T:
        """Return what `send` returns, which is given the headers that open the object `key`.

        Args:
            key: of the object.
            send: sends the request.
            copies: whether the object is the source of a copy.
        """
        if len(self._keys) == 1:
            return await send({})
        prefix = _COPY_SOURCE if copies else _CUSTOMER
        refused: StoreError | None = None
        for number in self._order(key):
            customer = self._keys[number]
            try:
                found = await send(customer.headers(prefix) if customer else {})
            except StoreError as error:
                if error.fault not in _OTHER_KEY:
                    raise
                refused = refused or error
            else:
                self._note(key, number)
                return found
        assert refused is not None  # noqa: S101  there is at least one way
        raise refused

    def _order(self, key: str) -> list[int]:
        first = self._right.get(key, self._last)
        return [first, *(n for n in range(len(self._keys)) if n != first)]

    def _note(self, key: str, number: int) -> None:
        self._right[key] = self._last = number
        self._right.move_to_end(key)
        if len(self._right) > _REMEMBERED_MAX:
            self._right.popitem(last=False)

    # -- writing --------------------------------------------------------------------------------

    def of_object(self, key: str, asked: Mapping[str, str]) -> dict[str, str]:
        """Return the headers of an object that is stored: the mount's, or else what is `asked`."""
        if any(name.startswith(_SSE) for name in asked):
            return {}
        self._stored(key)
        return self.new_object

    def _stored(self, key: str) -> None:
        if len(self._keys) > 1:
            customer = f"{_CUSTOMER}key" in self.new_object
            self._right[key] = 0 if customer else len(self._keys) - 1

    def same_as(self, key: str, headers: Mapping[str, str]) -> dict[str, str]:
        """Return headers for a copy of an object that is encrypted as it is.

        Args:
            key: of the object, which was looked at.
            headers: what HEAD said of it.
        """
        if f"{_CUSTOMER}algorithm" not in headers and _SSE in headers:
            return {}  # the headers say it themselves
        number = self._right.get(key)
        customer = None if number is None else self._keys[number]
        return customer.headers() if customer else {}

    def begun(self, upload_id: str, asked: Mapping[str, str]) -> None:
        """Take note of a multipart upload that was begun with the headers `asked`."""
        if f"{_CUSTOMER}key" in asked:
            self._uploads[upload_id] = {n: v for n, v in asked.items() if n.startswith(_CUSTOMER)}

    def of_part(self, upload_id: str) -> Mapping[str, str]:
        """Return the headers of a part."""
        return self._uploads.get(upload_id, {})

    def ended(self, upload_id: str) -> None:
        """Forget an upload."""
        self._uploads.pop(upload_id, None)

    @staticmethod
    def verify(what: str, asked: Mapping[str, str], replied: Mapping[str, str]) -> None:
        """See that the store did as it was asked.

        Raises:
            StoreError: NOT_ENCRYPTED, it did not.
        """
        for name in (_SSE, f"{_CUSTOMER}algorithm", f"{_CUSTOMER}key-md5"):
            wanted, got = asked.get(name), replied.get(name)
            if wanted is not None and wanted != got:
                raise StoreError(
                    Fault.NOT_ENCRYPTED,
                    f"{what}: the store was asked for {name}: {wanted} and replied "
                    f"{got or 'nothing of it'}: what it stored is not encrypted as sse= says",
                )
        wanted, got = asked.get(_KMS_KEY, ""), replied.get(_KMS_KEY, "")
        if wanted.startswith("arn:") and ":key/" in wanted and wanted != got:
            raise StoreError(
                Fault.NOT_ENCRYPTED, f"{what}: encrypted with the key {got!r}, not {wanted!r}"
            )
