"""The password file of s3fs: `AK:SK` for every bucket, `bucket:AK:SK` for one.

Its mode was checked where it was opened, by the helper. Source: s3fs(1), "AUTHENTICATION", and
what s3fs itself accepts.
"""

from fuse_s3_worker.store.sigv4 import Credentials

__all__ = ["PasswdFileError", "credentials_for"]

_KEYS = {"AWSAccessKeyId", "AWSSecretKey"}


class PasswdFileError(ValueError):
    """The file is malformed; the message names the line, never its content."""


def credentials_for(bucket: str, text: str, path: str) -> Credentials:
    """Return the key for `bucket`: its own, else the one for every bucket.

    Raises:
        PasswdFileError: a line is malformed, a bucket is there twice, or no key fits.
    """
    keys: dict[str, Credentials] = {}
    pairs: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if equals and name in _KEYS:
            pairs[name] = value
        else:
            _add(keys, line, f"{path}, line {number}")
    if pairs.keys() == _KEYS and all(pairs.values()):
        keys.setdefault("", Credentials(pairs["AWSAccessKeyId"], pairs["AWSSecretKey"]))
    elif pairs:
        raise PasswdFileError(
            f"{path}: AWSAccessKeyId= and AWSSecretKey= need each other, and values"
        )
    found = keys.get(bucket) or keys.get("")
    if found is None:
        raise PasswdFileError(f"{path}: no key for bucket {bucket}, and none for every bucket")
    return found


def _add(keys: dict[str, Credentials], line: str, where: str) -> None:
    fields = line.split(":")
    if line.startswith("[") or any(char.isspace() for char in line):
        raise PasswdFileError(f"{where}: spaces and sections have no place in a passwd file")
    match fields:
        case [access_key, secret_key]:
            bucket = ""
        case [bucket, access_key, secret_key] if bucket:
            pass
        case _:
            raise PasswdFileError(f"{where}: neither ACCESS:SECRET nor BUCKET:ACCESS:SECRET")
    if not access_key or not secret_key:
        raise PasswdFileError(f"{where}: an empty key")
    if bucket in keys:
        raise PasswdFileError(f"{where}: a second key for {bucket or 'every bucket'}")
    keys[bucket] = Credentials(access_key, secret_key)
