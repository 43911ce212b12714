"""RecBole is missing, or is another version than this package works with."""

from __future__ import annotations

import importlib.util

import pytest

from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.patches.compat import apply
from recbole_llminit.integration.recbole_version import check_recbole_version
from tests.fresh_process import run_each
from tests.messages import naming

MISSING = ("RecBole is not installed", "pip install recbole==1.2.1")
OTHER = ("works with RecBole 1.2.1", "1.2.0", "pip install recbole==1.2.1")
WITHOUT_RECBOLE = """
import sys
sys.modules["recbole"] = None
"""
OTHER_RECBOLE = """
import importlib.machinery, sys, types
recbole = types.ModuleType("recbole")
recbole.__version__, recbole.__spec__ = "1.2.0", importlib.machinery.ModuleSpec("recbole", None)
sys.modules["recbole"] = recbole
"""
# What needs no RecBole is imported once for both.
PRELOAD = "import recbole_llminit.initialization.initializer, recbole_llminit.encode.pipeline"
IMPORTS = ("config", "model_class", "options", "quick_start", "registration")
IMPORT_AND_RUN = f"""
from recbole_llminit.cli import main
from recbole_llminit.errors import LLMInitError
for name in {IMPORTS}:
    try:
        __import__(f"recbole_llminit.integration.{{name}}")
    except LLMInitError as error:
        print(error)
print(main(["run", "-m", "BPR", "-d", "ml-100k"]))
"""


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole.__version__", "1.2.0")
    for check in (check_recbole_version, apply):
        with pytest.raises(LLMInitError, match=naming(*OTHER)):
            check()


def test_no_recbole_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for check in (check_recbole_version, apply):
        with pytest.raises(LLMInitError, match=naming(*MISSING)):
            check()


@pytest.mark.slow
def test_imports_and_the_command_say_so() -> None:
    found = run_each(
        {"missing": WITHOUT_RECBOLE + IMPORT_AND_RUN, "other": OTHER_RECBOLE + IMPORT_AND_RUN}, preload=PRELOAD
    )
    for name, facts in (("missing", MISSING), ("other", OTHER)):
        assert found[name].error == ""
        *messages, line, exit_status = found[name].output.splitlines()
        assert len(messages) == len(IMPORTS)
        assert line.startswith("recbole-llminit: ")
        assert all(fact in message for message in (*messages, line) for fact in facts)
        assert exit_status == "2"
