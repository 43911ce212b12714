"""Settings read without RecBole: YAML files and ``--key=value`` arguments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_llminit.errors import LLMInitError
from recbole_llminit.strategy import suggest


def is_none(value: Any) -> bool:
    """Whether a value means none, in YAML (``~``, ``null``, ``none``) or as an argument (``None``)."""
    return value is None or str(value).lower() in ("none", "null")


def parse_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """Split ``--key=value`` arguments at the first ``=``.

    Raises
    ------
    LLMInitError
        If an argument has another form (RecBole ignores it), or a key stands twice with different values.
    """
    parsed: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals or not key or key.startswith("-"):
            raise LLMInitError(f"the argument {argument!r} would be ignored by RecBole: write it as --key=value")
        if parsed.setdefault(key, value) != value:
            raise LLMInitError(f"the argument --{key} is given twice, as {parsed[key]!r} and {value!r}: give it once")
    return parsed


def unknown_key(key: str, known: Sequence[str]) -> LLMInitError:
    """Make the error for a key that nothing reads."""
    normalized = key.replace("-", "_").lower()
    return LLMInitError(f"the key {key!r} is unknown{suggest(normalized, known)} ({', '.join(known)})")


def check_files(paths: Sequence[str | Path]) -> None:
    """Raise `LLMInitError` where a configuration file is not there."""
    for path in paths:
        if not Path(path).is_file():
            raise LLMInitError(f"there is no configuration file {path} (looked in {Path.cwd()})")


def read_settings(paths: Sequence[str | Path], arguments: Sequence[str]) -> dict[str, Any]:
    """Return the settings of YAML files, later ones winning, and of ``--key=value`` arguments, which win over all.

    Raises
    ------
    LLMInitError
        If a file is not there or holds no mapping, or an argument is not ``--key=value``.
    """
    check_files(paths)
    settings: dict[str, Any] = {}
    for path in paths:
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise LLMInitError(f"{path} is not YAML ({error})") from error
        if not isinstance(content, dict | None):
            raise LLMInitError(f"{path} holds a {type(content).__name__}: expected lines of key: value")
        settings.update(content or {})
    return {**settings, **parse_arguments(arguments)}
