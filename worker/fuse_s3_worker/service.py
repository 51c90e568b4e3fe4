"""The life of a worker: the first one of a mount, which talks to the helper, and its successors.

A successor starts with what was stored by the one before it. It has no helper to talk to and
nobody to tell what is wrong, so what it cannot do becomes EIO for programs, a line in the log and
one in `systemctl status`: a mount must not hang.
"""

import asyncio
import contextlib
import gc
import logging
import socket
import time

import uvloop

from fuse_s3_worker import errand, sandbox
from fuse_s3_worker.config.parse import ConfigurationError
from fuse_s3_worker.control.facts import Facts
from fuse_s3_worker.control.opening import Control
from fuse_s3_worker.conversation import Helper, HelperGoneError
from fuse_s3_worker.fs.filesystem import FileSystem
from fuse_s3_worker.fuse.abi import InitFlag
from fuse_s3_worker.fuse.channel import Channel
from fuse_s3_worker.log import event
from fuse_s3_worker.preparation import (
    Prepared,
    leave_terminal,
    log_to,
    prepare,
    reach_store,
    stage_directory,
    start_log,
)
from fuse_s3_worker.serve import End, LibfuseSession, Serving, Session, build_file_system
from fuse_s3_worker.store.client import S3Store
from fuse_s3_worker.store.examine import examine
from fuse_s3_worker.store.opening import CannotServeError
from fuse_s3_worker.survival import holding
from fuse_s3_worker.survival.multiparts import abort_all, remembering
from fuse_s3_worker.survival.recorder import StateRecorder
from fuse_s3_worker.survival.records import DamagedError
from fuse_s3_worker.survival.refuser import refuse_all
from fuse_s3_worker.survival.state import Mounting, State
from fuse_s3_worker.survival.supervisor import Supervisor
from fuse_s3_worker.transfer.stagedir import CacheDirectoryError, StageDirectory

__all__ = ["HANDED_OVER", "serve_first", "serve_on"]

_log = logging.getLogger(__name__)

HANDED_OVER = 75  # EX_TEMPFAIL of sysexits.h: start the next one
_USELESS = (ConfigurationError, CannotServeError, CacheDirectoryError, sandbox.NotConfinedError)
_EXTEND_EVERY, _EXTEND_BY = 5.0, 30.0  # seconds


# -- the first worker of a mount ------------------------------------------------------------------


def serve_first(supervisor: Supervisor, connection: int, level: sandbox.Level) -> int:
    """Take a mount from the helper and serve it; return an exit status.

    Raises:
        HelperGoneError: it came to nothing.
        RefusedError: it must not be served.
    """
    with socket.socket(fileno=connection) as sock:
        helper = Helper(sock)
        order = helper.order()
        task, order = errand.taken(order)
        if task is not None and not errand.leave(supervisor):
            return 0  # the helper waits for the end of the process that it knows
        redaction = start_log(order)
        with helper.told(
            redaction, ConfigurationError, CacheDirectoryError, sandbox.NotConfinedError
        ):
            prepared = prepare(order, redaction, level, in_unit=supervisor.is_systemd)
        if task is not None:
            return uvloop.run(_run_errand(helper, prepared, task))
        return uvloop.run(_make_mount(supervisor, helper, prepared))


async def _run_errand(helper: Helper, prepared: Prepared, task: errand.Errand) -> int:
    """Say that the bucket is reached, and then do what is to be done there."""
    spec, settings, _ = prepared.configuration
    with helper.told(prepared.redaction, CannotServeError, CacheDirectoryError):
        store = await reach_store(prepared, anew=True)
        stage = stage_directory(prepared, store)
    helper.ready(*prepared.owner)
    helper.close()
    fs = build_file_system(store, settings, prepared.owner, spec.prefix, stage)
    if stage is not None:
        await errand.run(task, fs.staging, stage)
    return 0


async def _make_mount(supervisor: Supervisor, helper: Helper, prepared: Prepared) -> int:
    order = prepared.order
    store = stage = None
    if prepared.examines or not order.mount.dry_run:
        with helper.told(prepared.redaction, CannotServeError, CacheDirectoryError):
            store = await reach_store(prepared, anew=True)
            stage = stage_directory(prepared, store)
            if prepared.examines:
                prefix = prepared.configuration.spec.prefix
                await examine(store, prefix, read_only=order.mount.read_only)
    helper.ready(*prepared.owner)
    if store is None or order.mount.dry_run:
        return 0
    device = await helper.device()
    recorder = holding.begin(order)
    made_at = time.time_ns()
    fs = _file_system(prepared, store, stage, made_at, recorder)
    session = _session(prepared, device, fs)
    session.start()
    await session.adapter.initialized.wait()
    facts = _facts(prepared, session, fs, store)
    agreed = session.adapter.agreed
    if isinstance(session, LibfuseSession):
        event(_log, logging.INFO, "no_successor", {"reason": "engine=libfuse"})
    elif agreed is not None and InitFlag.HAS_RESEND in agreed.flags:
        recorder.settled(Mounting(*prepared.owner, made_at, agreed.minor, agreed.flags))
        # Before anybody can rely on the mount.
        holding.store(supervisor, device, order, recorder)
        facts.hand_over = session.begin_to_hand_over
    else:
        # What a dead worker had read would never be answered, and who waits would for ever.
        event(_log, logging.WARNING, "no_successor", {"reason": "Linux 6.9 or newer is needed"})
    order.close_copies()
    helper.serving()
    facts.directory = await _take_place(helper, prepared, recorder)
    return await _until_the_end(supervisor, session, prepared, recorder, facts)


def _session(prepared: Prepared, device: int, fs: FileSystem) -> Serving:
    if prepared.configuration.settings.engine == "libfuse":
        return LibfuseSession(device, fs)
    return Session(Channel(device), fs)


async def _take_place(helper: Helper, prepared: Prepared, recorder: StateRecorder) -> str:
    """Wait until the mount is in its place; return where that is."""
    spec, directory = prepared.order.mount.spec, ""
    try:
        directory = await helper.mounted()
        event(_log, logging.INFO, "mounted", {"spec": spec, "directory": directory})
        recorder.mounted(directory)
    except HelperGoneError:
        # It died after the mount was made. If that came to nothing, the device will say so.
        event(_log, logging.WARNING, "helper_gone", {"spec": spec})
    helper.close()
    for note in prepared.configuration.notes:
        event(_log, logging.INFO, "option", {"note": note})
    return directory


# -- a successor ----------------------------------------------------------------------------------


def serve_on(supervisor: Supervisor, level: sandbox.Level) -> int:
    """Go on with a mount that another worker has served; return an exit status.

    Raises:
        SecondWorkerError: that one still lives.
    """
    channel = Channel(supervisor.stored[holding.DEVICE])
    gc.disable()  # it would go through all nodes again and again while they are made
    try:
        state, recorder = holding.inherit(supervisor.stored)
        order = holding.order_of(state, supervisor.stored)
    except DamagedError as error:
        log_to(holding.log_of(supervisor.stored))
        return _refuse_all(supervisor, channel, level, f"what is recorded of it: {error}")
    redaction, at = start_log(order), holding.now()
    failures = holding.failures(state, at)
    recorder.start(at)
    try:
        prepared = prepare(order, redaction, level, in_unit=supervisor.is_systemd)
        order.close_copies()
        if failures <= prepared.configuration.settings.restart_limit:
            return uvloop.run(_go_on(supervisor, channel, prepared, state, recorder))
        reason = f"its worker failed {failures} times within a minute"
    except _USELESS as error:
        reason = redaction.clean(str(error))
    return _refuse_all(supervisor, channel, level, reason)


async def _go_on(
    supervisor: Supervisor,
    channel: Channel,
    prepared: Prepared,
    state: State,
    recorder: StateRecorder,
) -> int:
    store = await reach_store(prepared, anew=False)
    stage = stage_directory(prepared, store)
    fs = _file_system(prepared, store, stage, state.mounting.time, recorder)
    fs.restore(state.remains)
    gc.freeze()
    gc.enable()
    session = Session(channel, fs)
    session.resume()
    counts = fs.statistics()
    what = {"spec": prepared.order.mount.spec, "directory": state.directory}
    event(_log, logging.INFO, "resumed", what | {"nodes": counts.nodes, "files": counts.open_files})
    aborting = asyncio.create_task(abort_all(store, state.multiparts, recorder))
    facts = _facts(prepared, session, fs, store)
    facts.directory, facts.restarts = state.directory, len(state.starts)
    facts.hand_over = session.begin_to_hand_over
    try:
        return await _until_the_end(supervisor, session, prepared, recorder, facts)
    finally:
        aborting.cancel()


def _refuse_all(supervisor: Supervisor, channel: Channel, level: sandbox.Level, reason: str) -> int:
    """Answer EIO until there is no mount any more; tell everybody why."""
    with contextlib.suppress(OSError, sandbox.NotConfinedError):
        sandbox.enter(level, "best-effort", sandbox.Needs())
    text = f"the mount gives EIO, umount and mount it again: {reason}"
    event(_log, logging.ERROR, "refusing", {"reason": reason})
    supervisor.status(text)
    refuse_all(channel)
    return 0


# -- both -----------------------------------------------------------------------------------------


def _file_system(
    prepared: Prepared,
    store: S3Store,
    stage: StageDirectory | None,
    made_at: int,
    recorder: StateRecorder,
) -> FileSystem:
    spec, settings, _ = prepared.configuration
    reminder = remembering(store, recorder)
    fs = build_file_system(reminder, settings, prepared.owner, spec.prefix, stage, made_at)
    fs.record(recorder)
    recorder.attach(fs)
    return fs


def _facts(prepared: Prepared, session: Serving, fs: FileSystem, store: S3Store) -> Facts:
    """Return what can be asked of a mount."""
    mount = prepared.order.mount
    return Facts(
        spec=mount.spec,
        options=mount.options,
        configuration=prepared.configuration,
        level=prepared.level,
        fs=fs,
        store=store,
        device=session.device,
        channel=session.channel,
        kernel=session.adapter.statistics,
    )


async def _until_the_end(
    supervisor: Supervisor,
    session: Serving,
    prepared: Prepared,
    recorder: StateRecorder,
    facts: Facts,
) -> int:
    """Serve; return the exit status that says whether another worker is needed."""
    mount = prepared.order.mount
    if not mount.foreground:
        leave_terminal()
    supervisor.status(f"serves {mount.spec} on {facts.directory}")
    control = Control.open(prepared.socket_place, facts, prepared.owner.uid)
    try:
        how = await session.run(lambda: _say_stopping(supervisor))
    finally:
        if control is not None:
            await control.close()
    if how is End.HANDED_OVER:
        recorder.handed_over()
        supervisor.status("has handed over")
        return HANDED_OVER
    return 0


def _say_stopping(supervisor: Supervisor) -> None:
    supervisor.stopping()
    supervisor.status("unmounted, stores what was closed")
    _ask_for_time(supervisor)


def _ask_for_time(supervisor: Supervisor) -> None:
    """Every request to the store is bounded, and so is the time that all of them take."""
    supervisor.extend(_EXTEND_BY)
    asyncio.get_running_loop().call_later(_EXTEND_EVERY, _ask_for_time, supervisor)
