r"""Splitting and joining a mount option string.

mount(8) hands over `-o a,b=c,d="e,f"` as one word. Three rules, and nothing else is special:
a comma separates options; double quotes, anywhere, protect commas; a backslash makes the next
character ordinary when that is a comma, a quote or a backslash. libmount keeps the quotes of
`key="a,b"`, and it turns `\054` of an fstab line into a bare comma before anyone sees it, so
the backslash form is the one that survives fstab.
"""

import re
from typing import NamedTuple

_SPECIAL = re.compile(r'[,"\\]')
_CHARACTER = re.compile(r'\\([,"\\])|(.)', re.DOTALL)  # a protected one, or a bare one


class OptionSyntaxError(ValueError):
    """An option string that cannot be split; the message names the place."""


class MountOption(NamedTuple):
    """One option: `name` alone (`value` is None) or `name=value` (`value` may be empty)."""

    name: str
    value: str | None = None

    def __str__(self) -> str:
        # A backslash does not protect an equals sign, quotes do.
        name = f'"{_escape(self.name)}"' if "=" in self.name else _escape(self.name)
        return name if self.value is None else f"{name}={_escape(self.value)}"


def split_options(text: str) -> list[MountOption]:
    """Split `text` into options, in order; empty ones between two commas are dropped.

    Raises:
        OptionSyntaxError: a quote is never closed, or an option has a value but no name.
    """
    options, quoted = [[""]], False  # each option: its name, and its value if it has one
    for protected, bare in _CHARACTER.findall(text):
        if bare == '"':
            quoted = not quoted
        elif bare == "," and not quoted:
            options.append([""])
        elif bare == "=" and not quoted and len(options[-1]) == 1:
            options[-1].append("")
        else:
            options[-1][-1] += protected or bare
    if quoted:
        raise OptionSyntaxError(f"a double quote is never closed in the options: {text}")
    for name, *value in options:
        if value and not name:
            raise OptionSyntaxError(f"option '={value[0]}' has a value but no name")
    return [MountOption(*option) for option in options if option != [""]]


def join_options(options: list[MountOption]) -> str:
    """Return the text that `split_options` turns back into `options`."""
    return ",".join(map(str, options))


def _escape(value: str) -> str:
    return _SPECIAL.sub(r"\\\g<0>", value)
