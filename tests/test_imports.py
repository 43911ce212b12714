import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import recbole_llminit

PACKAGE = Path(recbole_llminit.__file__).parent
# A folder or module imports only from its own layer and those before it; within a layer nothing goes round in a circle.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "suggest", "files", "settings", "processes", "spectrum", "text_table"),
    ("vectors",),
    ("strategies",),
    ("initialization",),
    ("encode",),
    ("models",),
    ("integration",),
    ("inspection",),
    ("compare",),
    ("cli",),
    ("__main__",),
)
WITHOUT_RECBOLE = {name for layer in LAYERS[:5] for name in layer}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def layer_of(name: str) -> int:
    """The layer of a module by its dotted name within the package."""
    return next(number for number, layer in enumerate(LAYERS) if name.partition(".")[0] in layer)


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def internal_imports(path: Path) -> set[str]:
    """The modules of this package that a module imports, inside functions as well, and not for its types alone."""
    modules = {dotted(other) for other in MODULES}
    found = {name.removeprefix("recbole_llminit.") for name in imports(path) if name.startswith("recbole_llminit.")}
    return {name for name in found if name in modules} - {dotted(path)}


def test_every_folder_and_module_has_its_layer():
    top = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert top - {"__init__"} == {name for layer in LAYERS for name in layer}


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_imports_only_from_its_layer_and_those_before_it(path):
    assert {name for name in internal_imports(path) if layer_of(name) > layer_of(dotted(path))} == set()


def test_no_import_goes_round_in_a_circle():
    graph = {dotted(path): internal_imports(path) for path in MODULES if path.name != "__init__.py"}
    assert list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    "path", [path for path in MODULES if dotted(path).partition(".")[0] in WITHOUT_RECBOLE], ids=dotted
)
def test_the_science_needs_no_recbole(path):
    assert not {name for name in imports(path) if name == "recbole" or name.startswith("recbole.")}


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
    code = "import recbole_llminit.integration.quick_start, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    assert not {"ray", "sentence_transformers", "transformers", "hyperopt"} & set(run(code).split())


def test_public_names():
    assert sorted(recbole_llminit.__all__) == recbole_llminit.__all__
    assert all(getattr(recbole_llminit, name) is not None for name in recbole_llminit.__all__)
    assert len(recbole_llminit.__all__) <= 14
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        recbole_llminit.nothing  # noqa: B018
