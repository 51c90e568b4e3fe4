"""Options of s3fs and Mountpoint that need nothing here, and options that must be refused.

An fstab line of theirs works when its type is changed: what they have to be told, we do by
ourselves or do not need, and the log says so, option by option.
"""

__all__ = ["NO_EFFECT", "REFUSED"]

_BY_ITSELF = "done by itself"
_NO_SUCH_CACHE = "there is no such cache here"
_ALWAYS_ON = "always so here"
_FOUND_OUT = "found out"
_COPIES = "by one request up to 5 GiB, by parts above"
_NOT_HERE = "this version has no such thing"

NO_EFFECT: dict[str, str] = {
    # s3fs
    "iam_role": "the credential chain asks the instance by itself",
    "ecs": "the credential chain asks the container by itself",
    "imdsv1only": "the credential chain uses IMDSv2 where there is one",
    "use_session_token": "a session token is used when there is one",
    "sigv4": _ALWAYS_ON,
    "listobjectsv2": _ALWAYS_ON,
    "compat_dir": "implicit directories are always seen",
    "notsup_compat_dir": "implicit directories are always seen",
    "complement_stat": "what an object does not keep is shown as uid=, gid= and umask= say",
    "mime": "see content_type",
    "use_cache": _NOT_HERE,
    "check_cache_dir_exist": _NO_SUCH_CACHE,
    "del_cache": _NO_SUCH_CACHE,
    "ensure_diskfree": _NO_SUCH_CACHE,
    "free_space_ratio": _NO_SUCH_CACHE,
    "fake_diskfree": _NO_SUCH_CACHE,
    "tmpdir": "uploads need no temporary files",
    "max_dirty_data": "uploads run while a program writes; see memory_target",
    "max_stat_cache_size": "bounded by what the kernel keeps",
    "enable_noobj_cache": _ALWAYS_ON,
    "disable_noobj_cache": "see metadata_ttl",
    "enable_negative_cache": _ALWAYS_ON,
    "disable_negative_cache": "see metadata_ttl",
    "stat_cache_interval_expire": "see metadata_ttl",
    "retries": "temporary failures are retried for a bounded time",
    "connect_timeout": "5 seconds an address",
    "readwrite_timeout": "30 seconds without a byte",
    "list_object_max_keys": "1,000, the most that S3 allows",
    "nodnscache": _NO_SUCH_CACHE,
    "nosscache": _NO_SUCH_CACHE,
    "nomixupload": _NOT_HERE,
    "nocopyapi": _FOUND_OUT,
    "norenameapi": _NOT_HERE,
    "nomultipart": _BY_ITSELF,
    "multipart_copy_size": _COPIES,
    "multipart_threshold": "a file of more than one part",
    "putheader_mp_threshold": _COPIES,
    "singlepart_copy_limit": _COPIES,
    "streamupload": _ALWAYS_ON,
    "enable_content_md5": "see upload_checksum",
    "enable_unsigned_payload": "over https payloads are not signed, over http they are",
    "hard_remove": _ALWAYS_ON,
    "bucket_size": _NOT_HERE,
    "noua": _NOT_HERE,
    "cipher_suites": "those of this machine's OpenSSL",
    "ipresolve": "IPv4 and IPv6, whichever answers",
    "insecure_logging": "secrets are never logged",
    "use_wtf8": "names that are not UTF-8 are refused",
    "parallel_upload": _ALWAYS_ON,
    "noxmlns": _ALWAYS_ON,
    "instance_name": "the log names the mount",
    "curldbg": "see log_level",
    "no_time_stamp_msg": "the journal has its own times",
    "set_check_cache_sigusr1": _NO_SUCH_CACHE,
    "update_parent_dir_stat": _NOT_HERE,
    "mp_umask": "the root directory has the mode of all directories: see umask and dir_mode",
    # Mountpoint for Amazon S3
    "allow-delete": _ALWAYS_ON,
    "allow-overwrite": _ALWAYS_ON,
    "incremental-upload": _NOT_HERE,
    "cache-xz": _NOT_HERE,
    "max-cache-size": _NO_SUCH_CACHE,
    "negative-metadata-ttl": "see metadata_ttl",
    "max-threads": "one event loop does it all",
    "maximum-throughput-gbps": "see max_connections",
    "read-part-size": "read-ahead finds its own sizes",
    "user-agent-prefix": _NOT_HERE,
    "bucket-type": _FOUND_OUT,
    "log-directory": "see log_file",
    "log-metrics": _NOT_HERE,
    "debug-crt": "see log_level",
    "no-log": "see log_level",
    "bind": _NOT_HERE,
    "otlp-endpoint": _NOT_HERE,
    "otlp-export-interval": _NOT_HERE,
}
"""Accepted without effect: the name, and what the log says about it."""

_KEY_IN_OPTIONS = "keys do not belong into options, which everybody can read: see passwd_file="

REFUSED: dict[str, str] = {
    "accessKeyId": _KEY_IN_OPTIONS,
    "secretAccessKey": _KEY_IN_OPTIONS,
    "access_key": _KEY_IN_OPTIONS,
    "secret_key": _KEY_IN_OPTIONS,
    "access_key_id": _KEY_IN_OPTIONS,
    "secret_access_key": _KEY_IN_OPTIONS,
    "session_token": _KEY_IN_OPTIONS,
    "sigv2": "signature version 2 is not spoken: leave it out if the server knows version 4",
    "load_sse_c": "give the file as sse_c_key_file=, and say in sse= how new objects are encrypted",
    "ahbe_conf": "extra headers are not supported by this version",
    "ssl_client_cert": "client certificates are not supported by this version",
    "proxy": "set HTTPS_PROXY or HTTP_PROXY in the environment",
    "proxy_cred_file": "give the proxy's user and password in HTTPS_PROXY or HTTP_PROXY",
    "servicepath": "give the path at the end of endpoint_url=",
    "credlib_opts": "credential libraries are not loaded: use credential_process in a profile",
    "credlib": "credential libraries are not loaded: use credential_process in a profile",
    "ibm_iam_auth": "IBM's own authentication is not supported: use HMAC keys",
}
"""Refused, whatever their value: the name, and the next step."""
