"""What a mount's options say of the objects that it stores: class, access, encryption, type."""

from collections.abc import Mapping

from fuse_s3_worker.config.options import Settings
from fuse_s3_worker.store.contenttypes import content_type_of
from fuse_s3_worker.store.encryption import Encryption

__all__ = ["NewObjects"]

_STORAGE_CLASS = "x-amz-storage-class"
_ACL = "x-amz-acl"


class NewObjects:
    """The headers of new objects."""

    def __init__(self, settings: Settings, encryption: Encryption) -> None:
        self._encryption = encryption
        self._content_type = settings.content_type
        self._headers = {_STORAGE_CLASS: settings.storage_class, _ACL: settings.acl}

    def headers(
        self, key: str, asked: Mapping[str, str] | None, content_type: str = ""
    ) -> dict[str, str]:
        """Return the headers of a new object: the mount's, and instead of them what is asked."""
        headers = self._headers | self._encryption.of_object(key, asked or {})
        if content_type or not (asked and "content-type" in asked):
            headers["content-type"] = content_type or self._guess(key)
        headers |= asked or {}
        return {name: value for name, value in headers.items() if value}

    def headers_of_copy(self, key: str) -> dict[str, str]:
        """Return the headers of a copy that has type, metadata and storage class of its source."""
        headers = self._headers | {_STORAGE_CLASS: ""} | self._encryption.of_object(key, {})
        return {name: value for name, value in headers.items() if value}

    def _guess(self, key: str) -> str:
        chosen = self._content_type
        return content_type_of(key) if chosen == "auto" else "" if chosen == "off" else chosen
