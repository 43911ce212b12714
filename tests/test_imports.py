import ast
import subprocess
import sys
from pathlib import Path

import pytest

import recbole_llminit

PACKAGE = Path(recbole_llminit.__file__).parent
# In the order of the data flow: a file imports only from those above it.
ORDER = ["errors", "reading", "writing", "embeddings", "co_consumption", "strategy", "selection", "projection", "auto", "control", "aggregation", "tables", "spectrum", "freeze", "support", "settings", "store", "files", "item_text", "adjacency",
         "encoder", "endpoint", "encode_options", "ranks", "encoding", "initializer", "checkpoint", "compat", "distributed", "models", "recbole_keys", "config", "model", "cold_start", "quick_start", "registration", "inspection", "compare.evaluation", "compare.trial",
         "compare.options", "compare.plan", "compare.grid", "compare.statistics", "compare.strata", "compare.report", "compare.figures", "compare.page", "compare.comparison", "cli", "__main__"]  # fmt: skip
WITHOUT_RECBOLE = ORDER[: ORDER.index("compat")]


def imports(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def test_every_module_has_its_place():
    paths = [path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py") if path.stem != "__init__"]
    found = [".".join(path.parts) for path in paths if path.parts[0] != "models"]
    assert sorted([*found, "models"]) == sorted(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_from_those_above_it(module):
    allowed = {f"recbole_llminit.{name}" for name in ORDER[: ORDER.index(module)]}
    path = PACKAGE / f"{module.replace('.', '/')}.py" if module != "models" else PACKAGE / "models" / "sgcl.py"
    ours = {name for name in imports(path) if name.startswith("recbole_llminit.")}
    known = {f"recbole_llminit.{name}" for name in ORDER}
    assert ours & known <= allowed


@pytest.mark.parametrize("module", WITHOUT_RECBOLE)
def test_the_science_needs_no_recbole(module):
    assert not {name for name in imports(PACKAGE / f"{module}.py") if name == "recbole" or name.startswith("recbole.")}


def test_recboles_quick_start_is_never_imported():
    assert not [path for path in PACKAGE.rglob("*.py") if any("recbole.quick_start" in name for name in imports(path))]


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_package_is_light():
    loaded = run(
        "import recbole_llminit, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    ).split()
    assert "recbole_llminit" in loaded
    assert not {"torch", "numpy", "pandas", "pyarrow", "scipy", "recbole", "sentence_transformers"} & set(loaded)


def test_a_run_imports_neither_ray_nor_an_encoder():
    code = "import recbole_llminit.quick_start, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    assert not {"ray", "sentence_transformers", "transformers", "hyperopt"} & set(run(code).split())


def test_public_names():
    assert sorted(recbole_llminit.__all__) == recbole_llminit.__all__
    assert all(getattr(recbole_llminit, name) is not None for name in recbole_llminit.__all__)
    assert len(recbole_llminit.__all__) <= 14
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        recbole_llminit.nothing  # noqa: B018
