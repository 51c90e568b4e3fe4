"""Who changes what: keys must not change while somebody stores under them.

A rename gives a file, or everything below a directory, other keys. Whoever stores, makes or
removes something computes a key first and sends requests then; so the one waits for the other.
Changes claim the node they are about (`changing`), and get on with each other. A rename claims
all that is at and below a node (`moving`). The kernel keeps apart what happens to the names of one
directory; this keeps apart what it does not know of: closing a file, and renaming what is above.

Claims are served in the order they come in, whole or not at all, so nobody waits in a circle and
nobody for ever. One rule: whoever has a claim does not ask for another.
"""

import asyncio
from types import TracebackType

from fuse_s3_worker.fs.nodes import Node

__all__ = ["Claims"]


class Claims:
    """All claims of a mount."""

    def __init__(self) -> None:
        self._queue: list[_Claim] = []  # as they came in, granted and waiting
        self._moves = 0  # of them, those of renames

    def changing(self, *nodes: Node) -> "_Claim":
        """Return a context in which these nodes keep their keys."""
        return _Claim(self, nodes, ())

    def moving(self, *nodes: Node, within: tuple[Node, ...]) -> "_Claim":
        """Return a context in which nobody changes anything at or below `nodes`.

        Those in `within`, the directories that lose and get a name, keep their keys.
        """
        return _Claim(self, within, nodes)

    def held(self, node: Node) -> bool:
        """Tell whether a change of `node` has to wait, or may have to."""
        return bool(self._moves) and any(_covers(claim.moved, (node,)) for claim in self._queue)

    # -- what a claim calls ---------------------------------------------------------------------

    def enter(self, claim: "_Claim") -> bool:
        """Put a claim into the queue; tell whether it is granted."""
        self._queue.append(claim)
        self._moves += bool(claim.moved)
        return not self.blocked(claim)

    def leave(self, claim: "_Claim") -> None:
        """Take it out, and grant what has waited for it."""
        self._queue.remove(claim)
        self._moves -= bool(claim.moved)
        for waiting in self._queue:
            if waiting.turn is not None and not self.blocked(waiting) and not waiting.turn.done():
                waiting.turn.set_result(None)

    def blocked(self, claim: "_Claim") -> bool:
        """Tell whether one that came before stands in the way."""
        if not self._moves:
            return False
        for earlier in self._queue:
            if earlier is claim:
                return False
            if _conflict(earlier, claim):
                return True
        return False


class _Claim:
    """One claim; a context manager."""

    __slots__ = ("_claims", "kept", "moved", "turn")

    def __init__(self, claims: Claims, kept: tuple[Node, ...], moved: tuple[Node, ...]) -> None:
        self._claims = claims
        self.kept = kept
        self.moved = moved
        self.turn: asyncio.Future[None] | None = None

    async def __aenter__(self) -> None:
        if self._claims.enter(self):
            return
        self.turn = asyncio.get_running_loop().create_future()
        try:
            await self.turn
        except BaseException:
            self._claims.leave(self)
            raise

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._claims.leave(self)


def _conflict(one: _Claim, other: _Claim) -> bool:
    return (
        _covers(one.moved, other.kept)
        or _covers(other.moved, one.kept)
        or _covers(one.moved, other.moved)
        or _covers(other.moved, one.moved)
    )


def _covers(moved: tuple[Node, ...], nodes: tuple[Node, ...]) -> bool:
    """Tell whether any of `nodes` is one that moves, or below one."""
    return bool(moved) and any(node.is_below(moved) for node in nodes)
