"""Bad calls from Python: arguments of other kinds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from robustness_cases import PAYLOAD, Case, Expected
from robustness_valid import DATA
from robustness_vectors import said

from recbole_llminit import load_data_and_model, read_embeddings, run_recbole_llminit
from recbole_llminit.compare import compare
from recbole_llminit.encode.item_text import read_item_texts
from recbole_llminit.errors import LLMInitError
from recbole_llminit.settings import read_settings

_SETTINGS: dict[Any, Any] = {
    "data_path": str(DATA),
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "epochs": 1,
    "show_progress": False,
}


def _run_with(*arguments: Any, **more: Any) -> Callable[[], Any]:
    """Return a run that is called from Python, with arguments of any kind."""
    settings = {} if "config_file_list" in more else {"config_dict": _SETTINGS}
    return lambda: run_recbole_llminit(*arguments, **{**settings, **more})


_FILE: dict[str, Any] = {"config_file_list": ["base.yaml"]}
_RUNS: Mapping[str, tuple[Callable[[], Any], Expected]] = {
    "()": (run_recbole_llminit, "error"),
    "(5, 'tiny')": (_run_with(5, "tiny"), "error"),
    "('BPR', 5)": (_run_with("BPR", 5), "error"),
    "('BPR', Path)": (_run_with("BPR", Path("tiny")), "either"),
    "(int, 'tiny')": (_run_with(int, "tiny"), "error"),
    "config_dict=5": (_run_with("BPR", "tiny", config_dict=5), "error"),
    "config_dict='abc'": (_run_with("BPR", "tiny", config_dict="abc"), "error"),
    "config_dict, a number as key": (_run_with("BPR", "tiny", config_dict={**_SETTINGS, 5: 1}), "error"),
    "config_dict, a payload": (_run_with("BPR", "tiny", config_dict={**_SETTINGS, "epochs": PAYLOAD}), "error"),
    "config_dict, a function": (_run_with("BPR", "tiny", config_dict={**_SETTINGS, "epochs": print}), "error"),
    "config_dict, an unknown key": (_run_with("BPR", "tiny", config_dict={**_SETTINGS, "epochz": 1}), "error"),
    "config_dict, NumPy": (_run_with("BPR", "tiny", config_dict={**_SETTINGS, "epochs": np.int64(1)}), "either"),
    "config_file_list='base.yaml'": (_run_with("BPR", config_file_list="base.yaml"), "either"),
    "config_file_list=5": (_run_with("BPR", config_file_list=5), "error"),
    "config_file_list=[5]": (_run_with("BPR", config_file_list=[5]), "error"),
    "config_file_list=[None]": (_run_with("BPR", config_file_list=[None]), "error"),
    "arguments='--epochs=1'": (_run_with("BPR", **_FILE, arguments="--epochs=1"), "error"),
    "arguments=[5]": (_run_with("BPR", **_FILE, arguments=[5]), "error"),
    "resume=5": (_run_with("BPR", **_FILE, resume=5), "error"),
    "resume=''": (_run_with("BPR", **_FILE, resume=""), "error"),
}
_COMPARED: Sequence[Any] = (
    {},
    None,
    5,
    "abc",
    [],
    {"models": 5},
    {5: 1},
    {"models": ["BPR"]},
    {"models": None, "datasets": None},
)
_READS: Sequence[tuple[str, Callable[[Any], Any], Sequence[Any]]] = (
    ("read_embeddings", read_embeddings, (None, 5, b"store", [], "", "a\0b", "x" * 300, 1.5, {}, "~/store")),
    ("load_data_and_model", load_data_and_model, (None, 5, "", b"bpr.pth", "a\0b", [])),
    ("read_item_texts", read_item_texts, (None, 5, "", "a\0b", [])),
    ("read_settings", lambda value: read_settings(value, ()), ([""], [5], [None], ["a\0b"], ["/dev/zero"], 5)),
    ("compare", lambda value: compare(value, "out"), _COMPARED),
    ("align", lambda value: read_embeddings("store").align(value, "tiny"),
     ([], [""], ["[PAD]"], [None], [5, 6], ["[PAD]", "x"])),
)  # fmt: skip


def cases() -> Iterator[Case]:
    """Yield the table: calls from Python, where a TypeError is as good as an `LLMInitError`."""
    group = "Python"
    for what, (call, expected) in _RUNS.items():
        yield Case(group, f"run_recbole_llminit, {what}", functools.partial(_called, call), expected)
    for name, function, arguments in _READS:
        for argument in arguments:
            call = functools.partial(function, argument)
            yield Case(group, f"{name}({_shown(argument)})", functools.partial(_called, call))
    folder_ = functools.partial(compare, {"models": ["BPR"], "datasets": ["tiny"]}, 5)  # type: ignore[arg-type]
    yield Case(group, "compare(..., 5)", functools.partial(_called, folder_))
    yield Case(
        group, "read_embeddings('store/')", functools.partial(_called, lambda: read_embeddings("store/")), "right"
    )


def _shown(argument: Any) -> str:
    return repr(argument) if len(repr(argument)) < 60 else f"{repr(argument)[:57]}..."


def _called(call: Callable[[], Any]) -> int:
    try:
        call()
    except (LLMInitError, TypeError) as error:
        return said(error)
    return 0
