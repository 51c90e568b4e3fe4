r"""Splitting and joining a mount option string.

mount(8) hands over `-o a,b=c,d="e,f"` as one word. Three rules, and nothing else is special:
a comma separates options; double quotes, anywhere, protect commas; a backslash makes the next
character ordinary when that is a comma, a quote or a backslash. libmount keeps the quotes of
`key="a,b"`, and it turns `\054` of an fstab line into a bare comma before anyone sees it, so
the backslash form is the one that survives fstab.
"""

from typing import NamedTuple

_ESCAPABLE = frozenset(',\\"')


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
    options = [_option(word) for word in _words(text) if word]
    for option in options:
        if not option.name:
            raise OptionSyntaxError(f"option '={option.value}' has a value but no name")
    return options


def join_options(options: list[MountOption]) -> str:
    """Return the text that `split_options` turns back into `options`."""
    return ",".join(map(str, options))


def _words(text: str) -> list[list[tuple[str, bool]]]:
    """Cut at the bare commas. A word is a list of (character, was protected)."""
    words: list[list[tuple[str, bool]]] = [[]]
    quoted = False
    characters = enumerate(text)
    for at, char in characters:
        if char == "\\" and text[at + 1 : at + 2] in _ESCAPABLE and at + 1 < len(text):
            words[-1].append((next(characters)[1], True))
        elif char == '"':
            quoted = not quoted
        elif char == "," and not quoted:
            words.append([])
        else:
            words[-1].append((char, quoted))
    if quoted:
        raise OptionSyntaxError(f"a double quote is never closed in the options: {text}")
    return words


def _option(word: list[tuple[str, bool]]) -> MountOption:
    """Cut a word at its first bare equals sign."""
    text = "".join(char for char, _ in word)
    for at, (char, protected) in enumerate(word):
        if char == "=" and not protected:
            return MountOption(text[:at], text[at + 1 :])
    return MountOption(text)


def _escape(value: str) -> str:
    return "".join("\\" + char if char in _ESCAPABLE else char for char in value)
