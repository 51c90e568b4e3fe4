"""The servers of a test run: each is started when the first test asks for it, and stopped once."""

import contextlib
from typing import Self

from support.moto import Moto
from support.rgw import Rgw
from support.s3 import Store

__all__ = ["STORES", "Servers"]

STORES = ("moto", "rgw")


class Servers:
    """A context manager; what was started is stopped at its end."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._rgw: Rgw | Exception | None = None
        self._moto: Moto | None = None
        self._moto_with_users: Moto | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def store(self, name: str) -> Store:
        """Return the store of one of STORES.

        Raises:
            RgwUnavailableError: Ceph cannot be had; found out once, said to everybody who asks.
        """
        return self.rgw.store if name == "rgw" else self.moto.store

    @property
    def moto(self) -> Moto:
        """The moto server that believes every signature."""
        if self._moto is None:
            self._moto = self._stack.enter_context(Moto())
        return self._moto

    @property
    def moto_with_users(self) -> Moto:
        """The moto server that verifies signatures."""
        if self._moto_with_users is None:
            self._moto_with_users = self._stack.enter_context(Moto(users=True))
        return self._moto_with_users

    @property
    def rgw(self) -> Rgw:
        """The Ceph gateway."""
        if self._rgw is None:
            try:
                self._rgw = self._stack.enter_context(Rgw())
            except Exception as error:
                self._rgw = error
                raise
        if isinstance(self._rgw, Exception):
            raise self._rgw
        return self._rgw
