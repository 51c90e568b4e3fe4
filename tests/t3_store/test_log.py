"""The log: one line an event, no forged fields, no secrets, and every place it can go to."""

import ast
import io
import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse_s3_worker import log
from fuse_s3_worker.log import JournalHandler, Redaction, event, quote, set_up

LOGGER = logging.getLogger("fuse_s3_worker.tests")
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}"


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """`set_up` is for a process of its own: it replaces every handler there is."""
    root, ours = logging.getLogger(), logging.getLogger("fuse_s3_worker")
    before = root.handlers[:], root.level, ours.level, logging.raiseExceptions
    root.handlers.clear()
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    LOGGER.setLevel(logging.NOTSET)
    logging.raiseExceptions = before[3]


# -- one word --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("plain", "plain"),
        ("a/b-c_d.e:f,g'h", "a/b-c_d.e:f,g'h"),
        (42, "42"),
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "hi"', '"say \\"hi\\""'),
        ('it\'s "both"', '"it\\\'s \\"both\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("line\nfeed", '"line\\nfeed"'),
        ("\x1b[31mred\x07", '"\\x1b[31mred\\x07"'),
        ("ümlaut", '"ümlaut"'),
        ("\u202eright to left", '"\\u202eright to left"'),
        (b"caf\xe9", '"caf\\udce9"'),
        (b"plain", "plain"),
    ],
)
def test_a_value_is_one_word(value: object, word: str) -> None:
    assert quote(value) == word


@given(st.text())
def test_every_value_is_one_word_and_can_be_read_back(value: str) -> None:
    word = quote(value)
    assert word.isprintable()
    if word.startswith('"'):
        assert ast.literal_eval(word) == value
    else:
        assert word == value
        assert not re.search(r'[\s="\\]', word)


@given(st.dictionaries(st.sampled_from(["key", "path", "reason"]), st.text()))
def test_nobody_can_forge_a_field_or_a_line(details: dict[str, str]) -> None:
    """Names of files are chosen by anybody: `x" level=error user=root` is one of them."""
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.DEBUG)
    event(LOGGER, logging.INFO, "name", details)
    LOGGER.removeHandler(handler)
    (line,) = seen
    assert "\n" not in line
    fields = re.findall(r' (\w+)=("(?:[^"\\]|\\.)*"|[^" ]+)', line)
    assert [name for name, _ in fields] == list(details)
    assert line == "name" + "".join(f" {name}={word}" for name, word in fields)


def test_an_event_in_its_order_without_what_is_none() -> None:
    stream = io.StringIO()
    set_up(logging.INFO, file=stream)
    event(LOGGER, logging.WARNING, "upload_failed", {"key": "a b", "size": 7, "code": None})
    event(LOGGER, logging.DEBUG, "too_quiet", {"key": "x"})
    event(LOGGER, logging.INFO, "bare")
    lines = stream.getvalue().splitlines()
    assert re.fullmatch(
        rf'{STAMP} WARNING fuse-s3\[{os.getpid()}\] upload_failed key="a b" size=7', lines[0]
    )
    assert re.fullmatch(rf"{STAMP} INFO fuse-s3\[{os.getpid()}\] bare", lines[1])
    assert len(lines) == 2


# -- secrets ---------------------------------------------------------------------------------------


def logged(redaction_of: str = SECRET) -> tuple[io.StringIO, Redaction]:
    stream = io.StringIO()
    redaction = set_up(logging.DEBUG, file=stream)
    redaction.add(redaction_of)
    return stream, redaction


def test_secrets_are_blotted_out_of_messages() -> None:
    stream, redaction = logged()
    redaction.add("second-secret", None, "")
    LOGGER.error("the key %s and %s", SECRET, "second-secret")
    event(LOGGER, logging.INFO, "e", {"value": f"x{SECRET}y", "plain": SECRET})
    text = stream.getvalue()
    assert SECRET not in text
    assert "second-secret" not in text
    assert "the key *** and ***" in text


def test_secrets_are_blotted_out_of_tracebacks() -> None:
    stream, _ = logged()

    def fail(secret: str) -> None:
        raise ValueError(f"cannot use {secret}")

    def fail_again() -> None:
        try:
            fail(SECRET)
        except ValueError as error:
            raise RuntimeError("again") from error

    try:
        fail_again()
    except RuntimeError:
        LOGGER.exception("bug")
    text = stream.getvalue()
    assert "Traceback" in text
    assert "ValueError: cannot use ***" in text
    assert "RuntimeError: again" in text
    assert SECRET not in text


def test_libraries_are_cleaned_too() -> None:
    stream, _ = logged()
    logging.getLogger("botocore.auth").warning("header: %s", SECRET)
    logging.getLogger("botocore.auth").info("quiet")
    assert "header: ***" in stream.getvalue()
    assert "quiet" not in stream.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: AWS4-HMAC-SHA256 Credential=AK/20260101/r/s3/aws4_request, "
        "SignedHeaders=host, Signature=HIDEME",
        "GET /k?X-Amz-Signature=HIDEME&x=1",
        "https://h/k?X-Amz-Credential=HIDEME&X-Amz-Security-Token=HIDEME",
        "x-amz-security-token: HIDEME",
        "X-AMZ-SECURITY-TOKEN=HIDEME",
        "{'signature': 'x', 'Signature': HIDEME}".replace("': H", "=H"),
        "Proxy-Authorization: Basic HIDEME",
        "authorization: bearer HIDEME",
        'authorization="HIDEME"',
        "'x-amz-security-token': 'HIDEME'",
        "b'x-amz-security-token: HIDEME\\r\\n'",
    ],
)
def test_what_looks_like_a_signature_is_blotted_out(text: str) -> None:
    clean = Redaction().clean(text)
    assert "HIDEME" not in clean
    assert "***" in clean


def test_innocent_text_stays() -> None:
    redaction = Redaction()
    redaction.add("short", None, "")
    for text in ("a short word", "the signature is wrong", "SignatureDoesNotMatch", "key=value"):
        assert redaction.clean(text) == text


def test_a_line_has_a_bound() -> None:
    stream, _ = logged()
    event(LOGGER, logging.INFO, "long", {"key": "x" * 100_000})
    assert len(stream.getvalue()) < 5000


# -- where it goes ---------------------------------------------------------------------------------


def test_a_file_gets_each_line_at_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        set_up(logging.INFO, file=file)
        event(LOGGER, logging.INFO, "first", {"key": "ü"})
        assert path.read_text().endswith('first key="ü"\n')
        LOGGER.info("odd \udcff name")
        assert path.read_text().endswith("odd \\udcff name\n")
        logging.getLogger().handlers.clear()


def test_setting_up_again_replaces_what_was_there() -> None:
    first, second = io.StringIO(), io.StringIO()
    set_up(logging.INFO, file=first)
    set_up(logging.INFO, file=second)
    LOGGER.info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


def test_a_full_disk_is_no_reason_to_print(capfd: pytest.CaptureFixture[str]) -> None:
    full = Path("/dev/full").open("w")  # noqa: SIM115  how it closes is the point
    set_up(logging.INFO, file=full)
    LOGGER.error("nobody will read this")
    logging.getLogger().handlers.clear()
    with pytest.raises(OSError, match="No space left"):
        full.close()
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.settimeout(10)
        yield listening


def fields_of(datagram: bytes) -> dict[str, bytes]:
    """Read a datagram by systemd.journal-fields(7): two forms of a field."""
    fields = {}
    while datagram:
        name, separator, rest = datagram.partition(b"\n")
        if b"=" in name:
            key, _, value = name.partition(b"=")
            datagram = rest
        else:
            assert separator
            key, size = name, int.from_bytes(rest[:8], "little")
            value, datagram = rest[8 : 8 + size], rest[8 + size :]
            assert datagram.startswith(b"\n")
            datagram = datagram[1:]
        fields[key.decode()] = value
    return fields


def journal_logger(journal: socket.socket) -> JournalHandler:
    handler = JournalHandler(journal.getsockname())
    handler.addFilter(Redaction())
    return handler


def record(level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord("fuse_s3_worker.x", level, "file.py", 1, message, (), None)


def test_the_journal_gets_one_datagram_an_event(journal: socket.socket) -> None:
    handler = journal_logger(journal)
    handler.handle(record(logging.WARNING, 'upload_failed key="ü"'))
    assert (
        journal.recv(65536)
        == (
            'MESSAGE=upload_failed key="ü"\nPRIORITY=4\nSYSLOG_IDENTIFIER=fuse-s3\n'
            "LOGGER=fuse_s3_worker.x\n"
        ).encode()
    )
    handler.close()


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, b"7"), (logging.INFO, b"6"), (logging.WARNING, b"4"), (logging.ERROR, b"3"),
     (25, b"6")],
)  # fmt: skip
def test_the_priorities_of_the_journal(journal: socket.socket, level: int, priority: bytes) -> None:
    handler = journal_logger(journal)
    handler.handle(record(level, "x"))
    assert fields_of(journal.recv(65536))["PRIORITY"] == priority
    handler.close()


def test_lines_in_a_message_forge_no_field_of_the_journal(journal: socket.socket) -> None:
    handler = journal_logger(journal)
    text = "bug\nPRIORITY=0\n_UID=0\nSYSLOG_IDENTIFIER=sudo"
    handler.handle(record(logging.ERROR, text))
    datagram = journal.recv(65536)
    assert datagram.startswith(b"MESSAGE\n" + len(text).to_bytes(8, "little") + text.encode())
    assert fields_of(datagram) == {
        "MESSAGE": text.encode(),
        "PRIORITY": b"3",
        "SYSLOG_IDENTIFIER": b"fuse-s3",
        "LOGGER": b"fuse_s3_worker.x",
    }
    handler.close()


def test_a_journal_that_is_full_or_gone_holds_nobody_up(
    journal: socket.socket, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    handler = journal_logger(journal)
    for _ in range(2000):  # more than a socket's queue holds
        handler.handle(record(logging.INFO, "x" * 4000))
    journal.close()
    handler.handle(record(logging.INFO, "nobody listens"))
    handler.close()
    assert capfd.readouterr() == ("", "")


def test_the_system_log_is_the_journal_where_there_is_one(
    journal: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_JOURNAL", journal.getsockname())
    monkeypatch.setattr(JournalHandler.__init__, "__defaults__", (journal.getsockname(),))
    set_up(logging.INFO).add(SECRET)
    event(LOGGER, logging.INFO, "mounted", {"secret": SECRET})
    assert fields_of(journal.recv(65536))["MESSAGE"] == b"mounted secret=***"


def test_the_system_log_is_syslog_where_there_is_no_journal(
    journal: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "_JOURNAL", "/no/such/socket")
    monkeypatch.setattr(log, "_SYSLOG", journal.getsockname())
    set_up(logging.INFO)
    event(LOGGER, logging.WARNING, "mounted", {"key": "a\nb"})
    # Facility daemon (3) and severity warning (4): RFC 3164, 4.1.1.
    assert journal.recv(65536) == b'<28>fuse-s3: mounted key="a\\nb"'


def test_without_a_system_log_there_is_silence(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("_JOURNAL", "_SYSLOG"):
        monkeypatch.setattr(log, name, "/no/such/socket")
    set_up(logging.INFO)
    event(LOGGER, logging.ERROR, "nobody hears this")
    assert capfd.readouterr() == ("", "")


def test_the_levels_that_can_be_chosen() -> None:
    assert log.LEVELS == {
        "error": logging.ERROR,
        "warning": logging.WARNING,
        "info": logging.INFO,
        "debug": logging.DEBUG,
    }
