"""From the option string to valid settings, or one line that names the option and the range."""

import difflib
from collections.abc import Iterable
from typing import NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fuse_s3_shared.mountopts import MountOption, OptionSyntaxError, split_options
from fuse_s3_worker.config.foreign import NO_EFFECT, REFUSED
from fuse_s3_worker.config.options import Alias, Option, Settings
from fuse_s3_worker.config.spec import BucketSpec, SpecError, normal_prefix, parse_spec

__all__ = ["Configuration", "ConfigurationError", "configure", "option_of", "origins"]


class ConfigurationError(ValueError):
    """SPEC or the options are not right; one line for the user."""


class Configuration(NamedTuple):
    """What to mount and how, and remarks on it for the log."""

    spec: BucketSpec
    settings: Settings
    notes: list[str]


def option_of(field: str) -> Option:
    """Return the documentation row of a setting."""
    for metadata in Settings.model_fields[field].metadata:
        if isinstance(metadata, Option):
            return metadata
    raise LookupError(f"setting {field} has no Option beside its type")


_ALIASES: dict[str, list[tuple[str, Alias]]] = {}
for _name in Settings.model_fields:
    for _alias in option_of(_name).aliases:
        _ALIASES.setdefault(_alias.name, []).append((_name, _alias))


def configure(spec: str, options: str, *, sloppy: bool = False) -> Configuration:
    """Validate SPEC and the option string.

    Args:
        spec: the first word of the mount.
        options: what the helper did not need for itself.
        sloppy: note unknown options instead of refusing them (mount -s).

    Raises:
        ConfigurationError: something is wrong; the text names it and what would be right.
    """
    try:
        bucket = parse_spec(spec)
        values, notes = _resolve(split_options(options), sloppy=sloppy)
        if values.get("prefix"):
            if bucket.prefix:
                raise ConfigurationError(f"'{spec}' has a prefix and prefix= is another: keep one")
            bucket = bucket._replace(prefix=normal_prefix(values["prefix"]))
        settings = Settings.model_validate(values)
    except (SpecError, OptionSyntaxError) as error:
        raise ConfigurationError(str(error)) from None
    except ValidationError as error:
        raise ConfigurationError(_explain(error.errors()[0])) from None
    return Configuration(bucket, settings, notes)


def _resolve(options: Iterable[MountOption], *, sloppy: bool) -> tuple[dict[str, str], list[str]]:
    """Give each option its own name here; the last of equal ones counts."""
    values: dict[str, str] = {}
    notes: list[str] = []
    for option in options:
        name, value = option.name, option.value or ""
        underscored = name.replace("-", "_")
        if name in _ALIASES:
            meant = {target: alias.convert(value) for target, alias in _ALIASES[name]}
            values |= {target: word for target, word in meant.items() if word is not None}
        elif underscored in Settings.model_fields:
            values[underscored] = value
        elif name in NO_EFFECT:
            notes.append(f"option {name} has no effect: {NO_EFFECT[name]}")
        elif sloppy and name not in REFUSED:
            notes.append(f"unknown option {name} is tolerated (mount -s)")
        else:
            raise ConfigurationError(_unknown(name))
    return values, notes


def origins(options: str) -> dict[str, str]:
    """Return, for each setting that a valid option string gives, how: "given", or "given as NAME".

    An alias that says nothing of one of the settings it stands for does not give that one.
    """
    found: dict[str, str] = {}
    for option in split_options(options):
        underscored = option.name.replace("-", "_")
        if option.name in _ALIASES:
            for target, alias in _ALIASES[option.name]:
                if alias.convert(option.value or "") is not None:
                    found[target] = f"given as {option.name}"
        elif underscored in Settings.model_fields:
            found[underscored] = "given"
    return found


def _unknown(name: str) -> str:
    """Refuse an option; its value may be a secret in the wrong place and is not repeated."""
    if name in REFUSED:
        return f"option '{name}': {REFUSED[name]}"
    known = [*Settings.model_fields, *_ALIASES, *NO_EFFECT]
    close = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
    meant = f": did you mean '{close[0]}'?" if close else ": see mount.s3 --help"
    return f"unknown option '{name}'{meant}"


def _explain(error: ErrorDetails) -> str:
    """Turn pydantic's first finding into a line such as `part_size=1: give 5M to 5G`."""
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return message  # a rule about two options names them itself
    name = str(error["loc"][0])
    given = f"{name}={error['input']}" if isinstance(error["input"], str | int | float) else name
    reason = f"{message}; " if error["type"] == "value_error" else ""
    return f"{given}: {reason}give {option_of(name).values}"
