"""Trying again: for how long, with which pauses, and how loudly. In virtual time."""

import asyncio
import errno
import logging
import random
from collections.abc import Callable

import pytest

from fuse_s3_worker.errors import Fault, StoreError
from fuse_s3_worker.store.retry import PATIENT, STARTING, Patience, Retrier
from support.virtualtime import run

THROTTLED = StoreError(Fault.THROTTLED, "slow down", status=503, code="SlowDown", request_id="R")
UNREACHABLE = StoreError(Fault.UNREACHABLE, "no answer")


class Operation:
    """Fails as it is told; keeps the time of every attempt."""

    def __init__(self, outcome: Callable[[int], StoreError | None]) -> None:
        self.times: list[float] = []
        self._outcome = outcome

    async def __call__(self) -> str:
        self.times.append(asyncio.get_running_loop().time())
        error = self._outcome(len(self.times))
        if error is not None:
            raise error
        return "done"

    @property
    def pauses(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]

    @property
    def lasted(self) -> float:
        return self.times[-1] - self.times[0]


def always(error: StoreError) -> Operation:
    return Operation(lambda _: error)


def fails(operation: Operation, retrier: Retrier) -> StoreError:
    with pytest.raises(StoreError) as caught:
        run(retrier.run(operation), may_log=["retry"])
    return caught.value


@pytest.fixture(autouse=True)
def same_dice_every_time() -> None:
    random.seed(7)


def test_success_needs_no_second_attempt() -> None:
    operation, retrier = Operation(lambda _: None), Retrier()
    assert run(retrier.run(operation)) == "done"
    assert (len(operation.times), retrier.retries) == (1, 0)


@pytest.mark.parametrize("fault", [fault for fault in Fault if not StoreError(fault, "").temporary])
def test_what_is_not_temporary_fails_at_once(fault: Fault) -> None:
    operation = always(StoreError(fault, "no"))
    assert fails(operation, Retrier()).fault is fault
    assert len(operation.times) == 1


@pytest.mark.parametrize("fault", [fault for fault in Fault if StoreError(fault, "").temporary])
def test_what_is_temporary_is_tried_until_it_succeeds(fault: Fault) -> None:
    operation = Operation(lambda attempt: StoreError(fault, "later") if attempt < 4 else None)
    retrier = Retrier()
    assert run(retrier.run(operation)) == "done"
    assert (len(operation.times), retrier.retries) == (4, 3)


@pytest.mark.parametrize("patience", [PATIENT, STARTING])
@pytest.mark.parametrize("error", [THROTTLED, UNREACHABLE])
def test_patience_ends(patience: Patience, error: StoreError) -> None:
    operation = always(error)
    assert fails(operation, Retrier(patience)) is error
    limit = patience.throttled if error is THROTTLED else patience.otherwise
    assert limit - patience.longest_pause <= operation.lasted <= limit


@pytest.mark.parametrize(("error", "limit"), [(THROTTLED, 300.0), (UNREACHABLE, 60.0)])
def test_how_long_users_wait(error: StoreError, limit: float) -> None:
    """[S71] Throttling is waited out for up to 5 minutes, any other temporary failure for up to
    one; after that it is EIO.
    """
    operation = always(error)
    assert fails(operation, Retrier()).errno == errno.EIO
    assert limit - 10.0 <= operation.lasted <= limit


def test_ten_seconds_of_throttling_are_outlasted_with_few_requests() -> None:
    operation = Operation(lambda _: THROTTLED if operation.lasted < 10.0 else None)
    assert run(Retrier().run(operation), may_log=["retry"]) == "done"
    assert 10.0 <= operation.lasted < 10.0 + PATIENT.longest_pause
    assert len(operation.times) < 20


def test_throttling_gets_the_most_patience_and_mount_gets_its_answer() -> None:
    assert PATIENT.throttled > PATIENT.otherwise
    assert max(STARTING.throttled, STARTING.otherwise) < 22, "mount gives up after 30 s"


def test_the_error_of_the_last_attempt_is_raised() -> None:
    operation = Operation(
        lambda attempt: UNREACHABLE if attempt < 3 else StoreError(Fault.FORBIDDEN, "no")
    )
    assert fails(operation, Retrier()).fault is Fault.FORBIDDEN


def test_another_error_is_none_of_its_business() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(Retrier().run(broken))


# -- pauses ----------------------------------------------------------------------------------------


def test_pauses_grow_are_random_and_have_a_bound() -> None:
    patience = Patience(throttled=1e6, otherwise=1e6, pause=0.1, longest_pause=10.0)
    seen: list[list[float]] = [[] for _ in range(11)]
    for _ in range(200):
        operation = Operation(lambda attempt: THROTTLED if attempt < 12 else None)
        run(Retrier(patience).run(operation), logged=["retry"])
        for number, pause in enumerate(operation.pauses):
            seen[number].append(pause)
    for number, pauses in enumerate(seen):
        longest = min(0.1 * 2 ** (number + 1), 10.0)
        assert all(-1e-6 <= pause <= longest + 1e-6 for pause in pauses)
        # Over the whole length, the ends included: 200 throws leave no tenth of it empty.
        tenths = {min(int(pause / longest * 10), 9) for pause in pauses}
        assert tenths == set(range(10)), f"pause {number}"


def test_a_server_may_ask_for_a_longer_pause_but_not_for_any() -> None:
    error = StoreError(Fault.THROTTLED, "x", retry_after=4.0)
    operation = Operation(lambda attempt: error if attempt < 4 else None)
    run(Retrier().run(operation), may_log=["retry"])
    assert all(pause >= 4.0 for pause in operation.pauses)

    error = StoreError(Fault.THROTTLED, "x", retry_after=86400.0)
    operation = Operation(lambda attempt: error if attempt < 4 else None)
    run(Retrier().run(operation), may_log=["retry"])
    assert operation.pauses == pytest.approx([PATIENT.longest_pause] * 3)


def test_no_pause_reaches_beyond_the_patience() -> None:
    """Better an error now than one after a pause that cannot help any more."""
    error = StoreError(Fault.UNREACHABLE, "x", retry_after=10.0)
    operation = always(error)
    fails(operation, Retrier(Patience(throttled=99.0, otherwise=35.0)))
    assert operation.times[-1] - operation.times[0] == pytest.approx(30.0)


def test_many_attempts_do_not_overflow() -> None:
    patience = Patience(throttled=1e9, otherwise=1e9, pause=0.001, longest_pause=0.002)
    operation = Operation(lambda attempt: THROTTLED if attempt < 2000 else None)
    assert run(Retrier(patience).run(operation), logged=["retry"]) == "done"


# -- progress --------------------------------------------------------------------------------------


def test_progress_starts_the_patience_anew() -> None:
    done = 0

    def outcome(attempt: int) -> StoreError | None:
        nonlocal done
        done += attempt % 3 == 0  # a bit more every third time
        return UNREACHABLE if attempt < 200 else None

    operation = Operation(outcome)
    assert run(Retrier().run(operation, progress=lambda: done), may_log=["retry"]) == "done"
    assert operation.lasted > 0
    assert max(operation.pauses) <= 0.1 * 2**3, "after progress the pauses are short again"


def test_without_progress_it_ends_as_usual() -> None:
    operation = always(UNREACHABLE)
    with pytest.raises(StoreError):
        run(Retrier().run(operation, progress=lambda: 5), may_log=["retry"])
    assert operation.lasted <= 60.0


def test_progress_outlasts_the_patience() -> None:
    """A download over a bad line: every attempt brings a little, and takes a while."""
    filled = 0

    async def attempt() -> str:
        nonlocal filled
        await asyncio.sleep(50.0)
        filled += 1
        if filled < 20:
            raise UNREACHABLE
        return "whole"

    assert run(Retrier().run(attempt, progress=lambda: filled)) == "whole"


# -- what is logged --------------------------------------------------------------------------------


def test_the_log_gets_louder(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "fuse_s3_worker.store.retry")
    operation = Operation(lambda attempt: THROTTLED if attempt < 9 else None)
    run(Retrier().run(operation), logged=["retry"])
    assert [record.levelno for record in caplog.records] == (
        [logging.DEBUG] * 2 + [logging.INFO] * 3 + [logging.WARNING] * 3
    )
    first = caplog.records[0].getMessage()
    assert first.startswith('retry reason="slow down" attempt=1 pause=0.')
    assert first.endswith(" http=503 code=SlowDown request_id=R")


def test_cancellation_ends_a_pause() -> None:
    async def main() -> None:
        operation = always(StoreError(Fault.THROTTLED, "x", retry_after=10.0))
        task = asyncio.ensure_future(Retrier().run(operation))
        await asyncio.sleep(5.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(operation.times) == 1

    run(main())
