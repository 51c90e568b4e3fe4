r"""Option strings as mount(8) hands them over, and back.

What libmount does with quotes and with `\054` of fstab was looked up in mount(8) of util-linux.
"""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuse_s3_shared.mountopts import MountOption, OptionSyntaxError, join_options, split_options

CASES: dict[str, list[tuple[str, str | None]]] = {
    "": [],
    ",": [],
    ",,,": [],
    "rw": [("rw", None)],
    "rw,": [("rw", None)],
    ",rw,,_netdev,": [("rw", None), ("_netdev", None)],
    "uid=1000": [("uid", "1000")],
    "prefix=": [("prefix", "")],
    "a=b=c": [("a", "b=c")],
    "a==": [("a", "=")],
    # a URL has all of the other special characters, and none of ours
    "endpoint_url=https://host:9000/a?b=c&d": [("endpoint_url", "https://host:9000/a?b=c&d")],
    # the order and the repetitions stay: which one counts is decided elsewhere
    "ro,rw,ro": [("ro", None), ("rw", None), ("ro", None)],
    " a , b = c ": [(" a ", None), (" b ", " c ")],
    # libmount keeps the quotes of key="a,b"
    'context="system_u:object_r:httpd_t:s0:c1,c2",ro': [
        ("context", "system_u:object_r:httpd_t:s0:c1,c2"),
        ("ro", None),
    ],
    '"a=b",c': [("a=b", None), ("c", None)],
    '"a,b"=c': [("a,b", "c")],
    'a="b"c"d"': [("a", "bcd")],
    'a="",b': [("a", ""), ("b", None)],
    '""': [],
    'a="=,"': [("a", "=,")],
    # the form that survives fstab
    r"prefix=a\,b,ro": [("prefix", "a,b"), ("ro", None)],
    r"a=\"b\"": [("a", '"b"')],
    r"a=b\\": [("a", "b\\")],
    r"a=\\,b": [("a", "\\"), ("b", None)],
    r'a="\"x\",\\"': [("a", '"x",\\')],
    r"a=b\,": [("a", "b,")],
    # a backslash before anything else is a backslash
    r"a=C:\temp": [("a", r"C:\temp")],
    "a=b\\": [("a", "b\\")],
    r"a=\054": [("a", r"\054")],
    "a=b\\\nc": [("a", "b\\\nc")],
    "größe=1,\udcff=\udcfe": [("größe", "1"), ("\udcff", "\udcfe")],
}


@pytest.mark.parametrize("text", CASES)
def test_split(text: str) -> None:
    assert [tuple(option) for option in split_options(text)] == CASES[text]


@pytest.mark.parametrize("text", CASES)
def test_what_was_split_can_be_joined(text: str) -> None:
    options = split_options(text)
    assert split_options(join_options(options)) == options


ERRORS = {
    '"': "never closed",
    'a="b,c': "never closed",
    r'a="b\"': "never closed",
    "=x": "'=x' has a value but no name",
    "a,=": "'=' has a value but no name",
    '""=x': "has a value but no name",
}


@pytest.mark.parametrize("text", ERRORS)
def test_errors(text: str) -> None:
    with pytest.raises(OptionSyntaxError, match=ERRORS[text]):
        split_options(text)


JOINED = {
    "a": MountOption("a"),
    "a=": MountOption("a", ""),
    "a=b": MountOption("a", "b"),
    r"a=b\,c": MountOption("a", "b,c"),
    r"a=\"\\": MountOption("a", '"\\'),
}


@pytest.mark.parametrize("text", JOINED)
def test_join(text: str) -> None:
    assert join_options([JOINED[text]]) == text


# Few letters, so that the special ones meet often.
SPECIAL = st.text('a,="\\\n ü', max_size=8)
OPTIONS = st.lists(st.builds(MountOption, SPECIAL.filter(bool), st.none() | SPECIAL), max_size=5)


@settings(deadline=None, max_examples=2000)
@given(OPTIONS)
@example([MountOption("a,b")])
@example([MountOption("a=b")])
@example([MountOption("=", "=")])
def test_round_trip(options: list[MountOption]) -> None:
    assert split_options(join_options(options)) == options


@settings(deadline=None, max_examples=2000)
@given(st.text('a,="\\b', max_size=12) | st.text(max_size=30))
def test_any_text_is_split_or_refused(text: str) -> None:
    try:
        options = split_options(text)
    except OptionSyntaxError:
        return
    assert all(option.name for option in options)
    assert split_options(join_options(options)) == options
