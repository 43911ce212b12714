"""Settings read without RecBole: YAML files, ``--key=value`` arguments, and their values.

No value is evaluated as code: a literal is read as a literal, everything else is text.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import foreign_reader, require_file
from recbole_llminit.suggest import suggest

_LARGEST_FILE = 1 << 20
_MOST_VALUES = 100_000
_LITERALS = (str, int, float, bool, list, tuple, dict, type(None))


class _Loader(yaml.SafeLoader):
    """YAML as RecBole reads it: ``1e-3`` is a number, and there are tuples."""


# Source: Config._build_yaml_loader in recbole/config/configurator.py.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"""^(?:
         [-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
        |\.[0-9_]+(?:[eE][-+][0-9]+)?
        |[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.X,
    ),
    list("-+0123456789."),
)
_Loader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)


def read_yaml(text: str) -> Any:
    """Read a YAML text. Its aliases may expand to 100,000 values at most.

    Raises
    ------
    yaml.YAMLError
        If the text is not YAML, a tag would make an object, an alias contains itself, or aliases expand to more values.
    RecursionError
        If the text is nested too deeply.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count_values(node, {}) > _MOST_VALUES:
            raise yaml.YAMLError(
                f"it makes more than {_MOST_VALUES:,} values, counting those of an alias each time: expected fewer"
            )
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count_values(node: yaml.Node, counted: dict[int, int]) -> int:
    """Count the values below a node as they would be printed: those of an alias each time it is used."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counted:
        # 0 while the node is being counted: met again meanwhile, it contains itself.
        counted[id(node)] = 0
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        counted[id(node)] = 1 + sum(_count_values(part, counted) for part in inner)
    if not counted[id(node)]:
        raise yaml.YAMLError("an alias contains itself: expected values without cycles")
    return counted[id(node)]


def read_value(text: str) -> Any:
    """Return the value that an argument's text stands for.

    That is a Python literal, ``true`` or ``false`` in any case, or a YAML list or mapping. Any other text stays a text.
    """
    try:
        value = ast.literal_eval(text)
        return value if isinstance(value, _LITERALS) else text
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text[:1] in ("[", "{"):
        try:
            return read_yaml(text)
        except (yaml.YAMLError, RecursionError, ValueError):
            return text
    return text


def read_values(settings: Mapping[str, Any], *, text_prefixes: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return settings with each value that is a text replaced by what `read_value` returns for it.

    Parameters
    ----------
    settings : mapping
        Keys and values. A value that is not a text stays as it is.
    text_prefixes : tuple of str
        Prefixes of keys whose values stay texts.

    Raises
    ------
    LLMInitError
        If a key is not a text.
    """
    for key in settings:
        _check_key(key, "the configuration")
    return {
        key: read_value(value) if isinstance(value, str) and not key.startswith(text_prefixes) else value
        for key, value in settings.items()
    }


def _check_key(key: Any, where: object) -> None:
    if not isinstance(key, str):
        raise LLMInitError(f"{where} has the key {key!r}, a {type(key).__name__}: expected keys that are texts")


def is_none(value: Any) -> bool:
    """Return whether a value means none: ``~``, ``null`` or ``none`` in YAML, ``None`` as an argument."""
    return value is None or str(value).lower() in ("none", "null")


def parse_arguments(arguments: Sequence[str]) -> dict[str, str]:
    """Split ``--key=value`` arguments at the first ``=`` into values by key.

    Raises
    ------
    LLMInitError
        If an argument has another form, which RecBole would ignore, or a key is given twice with different values.
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
    """Make the error for a key that nothing reads; it names the nearest known key and all others."""
    normalized = key.replace("-", "_").lower()
    return LLMInitError(f"the key {key!r} is unknown{suggest(normalized, known)} ({', '.join(known)})")


def read_yaml_file(path: str | Path) -> dict[str, Any]:
    """Return the settings of a YAML file; an empty dictionary for an empty file.

    Raises
    ------
    LLMInitError
        If there is no such file, it is not YAML, it is larger than 1 MB, or it holds no mapping whose keys are texts.
    """
    path = Path(path)
    require_file(path, "a configuration file")
    with foreign_reader(path, "a configuration in YAML, lines of key: value"):
        if path.stat().st_size > _LARGEST_FILE:
            raise LLMInitError(f"{path} has {path.stat().st_size:,} bytes: expected a configuration, of 1 MB at most")
        content = read_yaml(path.read_text(encoding="utf-8"))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise LLMInitError(f"{path} holds a {type(content).__name__}: expected lines of key: value")
    for key in content:
        _check_key(key, path)
    return content


def read_settings(paths: Sequence[str | Path], arguments: Sequence[str]) -> dict[str, Any]:
    """Return the settings of YAML files and arguments. A later file wins over earlier ones, an argument over all files.

    Parameters
    ----------
    paths : sequence of path
        YAML files; see `read_yaml_file`.
    arguments : sequence of str
        ``--key=value`` arguments; see `parse_arguments`.

    Raises
    ------
    LLMInitError
        If a file cannot be read or holds no mapping, or an argument has another form.
    """
    settings: dict[str, Any] = {}
    for path in as_paths(paths):
        settings.update(read_yaml_file(path))
    return {**settings, **parse_arguments(arguments)}


def as_paths(paths: Iterable[str | Path]) -> list[Path]:
    """Return the paths of configuration files as `Path`.

    Raises
    ------
    LLMInitError
        If a single path is given instead of a list of paths.
    """
    if isinstance(paths, str | Path) or not all(isinstance(path, str | Path) for path in paths):
        raise LLMInitError(f"config_file_list is {paths!r}: expected a list of paths")
    return [Path(path) for path in paths]
