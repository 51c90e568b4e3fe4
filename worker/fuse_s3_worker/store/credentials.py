"""Where the access key comes from: a passwd file, nowhere (anonymous), or botocore's chain.

The chain is botocore's alone: environment, profiles, shared files, SSO, processes, web identity,
containers, instance metadata. It may block for seconds, so it runs in a thread; requests use the
key that is at hand, which is renewed before it expires.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Protocol

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.log import Redaction, event
from fuse_s3_worker.store.programs import Programs
from fuse_s3_worker.store.sigv4 import Credentials

if TYPE_CHECKING:
    from botocore.credentials import Credentials as BotoCredentials
    from botocore.session import Session

__all__ = ["Chain", "Fixed", "Provider", "Secrets", "environment_key"]

_log = logging.getLogger(__name__)

_METADATA_SERVICES = ("container-role", "iam-role")
# With one of these in the environment, a key beside it is not all there is to know.
_FOR_THE_CHAIN = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
)
_CHECK_EVERY = 5.0  # seconds between looks at the expiry; botocore renews 15 minutes ahead


class Provider(Protocol):
    """A source of credentials."""

    async def current(self) -> Credentials | None:
        """Return the key to sign with, None for anonymous requests.

        Raises:
            StoreError: NO_CREDENTIALS or EXPIRED_CREDENTIALS.
        """

    async def renew(self) -> bool:
        """Get another key, this one being over; tell whether there is one."""


class Fixed:
    """Credentials that never change; None is anonymous."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials

    async def current(self) -> Credentials | None:
        """Return them."""
        return self._credentials

    async def renew(self) -> bool:
        """There are no others."""
        return False


def environment_key(secrets: "Secrets", profile: str) -> Credentials | None:
    """Return the key in the environment, where botocore's chain would take it and look no further.

    The chain is half of the time that mounting takes. None: there is something that only the
    chain understands, a profile, files, a key with an end.
    """
    if profile or secrets.given or any(map(os.environ.get, _FOR_THE_CHAIN)):
        return None
    key, secret = map(os.environ.get, ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    token = os.environ.get("AWS_SECURITY_TOKEN") or os.environ.get("AWS_SESSION_TOKEN", "")
    return Credentials(key, secret, token) if key and secret else None


class Secrets:
    """Files of the AWS CLI as bytes: what the helper read, since the worker may not."""

    def __init__(self, credentials_file: bytes | None, config_file: bytes | None) -> None:
        self._files = {"credentials_file": credentials_file, "config_file": config_file}

    @property
    def given(self) -> bool:
        """Tell whether there are any."""
        return any(content is not None for content in self._files.values())

    @contextlib.contextmanager
    def as_paths(self) -> Iterator[dict[str, str]]:
        """Lend botocore, which wants paths, descriptors of memory that have one."""
        fds: list[int] = []
        paths: dict[str, str] = {}
        try:
            for name, content in self._files.items():
                if content is not None:
                    fds.append(os.memfd_create(name, os.MFD_CLOEXEC))
                    os.write(fds[-1], content)
                    paths[name] = f"/proc/self/fd/{fds[-1]}"
            yield paths
        finally:
            for fd in fds:
                os.close(fd)


class Chain:
    """botocore's chain.

    Attributes:
        region: what environment and profile say, found with the credentials.
        endpoint_url: the same.
    """

    def __init__(
        self,
        secrets: Secrets,
        redaction: Redaction,
        *,
        profile: str = "",
        programs: Programs | None = None,
    ) -> None:
        """Prepare to look for a key; without `programs`, programs are started by this process."""
        self._secrets = secrets
        self._programs = programs
        self._redaction = redaction
        self._profile = profile
        self._found: BotoCredentials | None = None
        self._frozen: Credentials | None = None
        self._checked = 0.0
        self._renewing: asyncio.Task[bool] | None = None
        self._left_out: tuple[str, ...] = ()
        self.region = ""
        self.endpoint_url = ""

    async def load(self, *, local_only: bool = False) -> None:
        """Run the chain for the first time; that it finds nothing shows in `current`.

        `local_only` leaves out the metadata services of containers and instances.
        """
        self._left_out = _METADATA_SERVICES if local_only else ()
        await asyncio.to_thread(self._run_chain)

    @property
    def found(self) -> bool:
        """Tell whether the chain found a key."""
        return self._found is not None

    async def current(self) -> Credentials | None:
        """Return the key at hand, renewed when it is about to expire."""
        now = asyncio.get_running_loop().time()
        if now - self._checked > _CHECK_EVERY:
            self._checked = now
            await asyncio.to_thread(self._refresh)
        if self._frozen is None:
            raise StoreError(
                Fault.NO_CREDENTIALS,
                "no credentials found: give passwd_file=, profile= or a role, or set "
                "AWS_ACCESS_KEY_ID; for a public bucket give no_sign_request",
            )
        return self._frozen

    async def renew(self) -> bool:
        """Run the chain again; requests that fail together share one run."""
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew())
            self._renewing.add_done_callback(self._renewed)
        return await asyncio.shield(self._renewing)

    def _renewed(self, _task: "asyncio.Task[bool]") -> None:
        self._renewing = None

    async def _renew(self) -> bool:
        before = self._frozen
        await asyncio.to_thread(self._run_chain)
        changed = self._frozen is not None and self._frozen != before
        event(_log, logging.INFO, "credentials_renewed", {"changed": changed})
        return changed

    # -- in a thread ----------------------------------------------------------------------------

    def _run_chain(self) -> None:
        # Imported here: it takes a tenth of a second and 20 MB, and other providers do without.
        from botocore.exceptions import ProfileNotFound  # noqa: PLC0415

        try:
            with self._secrets.as_paths() as paths:
                session = self._session(paths)
                self._found = session.get_credentials()
                self.region = session.get_config_variable("region") or ""
                self.endpoint_url = _endpoint_url(session)
            self._freeze()
        except ProfileNotFound as error:
            raise StoreError(Fault.NO_CREDENTIALS, f"profile: {error}") from None
        except Exception as error:  # noqa: BLE001  botocore lets through what its sources raise
            raise StoreError(Fault.NO_CREDENTIALS, f"credentials: {error}") from None

    def _session(self, paths: dict[str, str]) -> "Session":
        from botocore.session import Session  # noqa: PLC0415

        if self._programs is not None:
            _start_programs_by(self._programs)
        session = Session(profile=self._profile or None)
        # Before the resolver is made: it looks at them once.
        for name, path in paths.items():
            session.set_config_variable(name, path)
        resolver = session.get_component("credential_provider")
        for name in self._left_out:
            resolver.remove(name)
        return session

    def _refresh(self) -> None:
        try:
            self._freeze()
        except Exception as error:  # noqa: BLE001  as above
            raise StoreError(Fault.EXPIRED_CREDENTIALS, f"credentials: {error}") from None

    def _freeze(self) -> None:
        """Take a consistent copy; for temporary keys this renews them when it is time."""
        if self._found is None:
            self._frozen = None
            return
        frozen = self._found.get_frozen_credentials()
        self._redaction.add(frozen.secret_key, frozen.token)
        self._frozen = Credentials(frozen.access_key, frozen.secret_key, frozen.token or "")


def _start_programs_by(programs: Programs) -> None:
    """Have botocore start programs through somebody else, wherever in the chain it has to.

    It takes a function to start them by, and passes none to the providers that it makes when one
    profile refers to another; so the name under which it finds these gets another meaning.
    """
    from botocore import credentials  # noqa: PLC0415

    if isinstance(credentials.ProcessProvider, type):
        credentials.ProcessProvider = partial(credentials.ProcessProvider, popen=programs.popen)


def _endpoint_url(session: "Session") -> str:
    from botocore.configprovider import ConfiguredEndpointProvider  # noqa: PLC0415

    provider = ConfiguredEndpointProvider(
        full_config=session.full_config,
        scoped_config=session.get_scoped_config(),
        client_name="s3",
    )
    return provider.provide() or ""
