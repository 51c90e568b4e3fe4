"""Where answers to READs go when there is no kernel."""

import asyncio

from fuse_s3_worker.errors import ServeError
from fuse_s3_worker.transfer.readstream import Answer

__all__ = ["Answers"]


class Answers:
    """Keeps what a reader would see; each READ is answered once.

    Attributes:
        data: the bytes, by the READ's unique number.
        errors: the errors, by the same.
    """

    def __init__(self) -> None:
        self.data: dict[int, bytes] = {}
        self.errors: dict[int, ServeError] = {}
        self._news = asyncio.Event()

    def reply(self, unique: int, *body: memoryview) -> None:
        """Take bytes; the memory is used again as soon as this returns."""
        assert unique not in self
        self.data[unique] = b"".join(body)
        self._tell()

    def fail(self, unique: int, error: ServeError) -> None:
        """Take an error."""
        assert unique not in self
        self.errors[unique] = error
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def wait(self) -> None:
        """Wait for the next answer."""
        await self._news.wait()

    async def bytes_of(self, unique: int) -> bytes:
        """Wait for the answer to a READ, which must be bytes."""
        while unique not in self:
            await self.wait()
        return self.data[unique]

    def __contains__(self, unique: object) -> bool:
        return unique in self.data or unique in self.errors

    @property
    def errnos(self) -> dict[int, int]:
        """The errors as the kernel would see them."""
        return {unique: error.errno for unique, error in self.errors.items()}


def _conforms(answers: Answers) -> Answer:
    """Have the type checker hold this class against the protocol."""
    return answers
