"""Which folder imports which, and what an import loads."""

import ast
import functools
import graphlib
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import recbole_llminit

PACKAGE = Path(recbole_llminit.__file__).parent
ROOT = recbole_llminit.__name__
# A folder or module imports only from its own layer and those before it, and no imports form a cycle.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "suggest", "files", "data_frames", "settings", "processes", "spectrum", "text_table", "version"),
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
WITHOUT_RECBOLE = {name for layer in LAYERS[: LAYERS.index(("models",))] for name in layer}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def layer_of(name: str) -> int:
    """The number of a module's layer, by its dotted name within the package."""
    return next(number for number, layer in enumerate(LAYERS) if name.partition(".")[0] in layer)


def dotted(path: Path) -> str:
    """A module's dotted name within the package; a folder's name for its ``__init__.py``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


NAMES = {dotted(path) for path in MODULES}


@functools.cache
def imports(path: Path) -> frozenset[str]:
    """The absolute names of all that a module imports, inside functions and for its types alone as well."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path} has a relative import"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def internal_imports(path: Path) -> set[str]:
    """The modules of this package that a module imports."""
    found = {name.removeprefix(f"{ROOT}.") for name in imports(path) if name.startswith(f"{ROOT}.")}
    return (found & NAMES) - {dotted(path)}


def test_every_folder_and_module_has_its_layer() -> None:
    top = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert top - {"__init__"} == {name for layer in LAYERS for name in layer}


def test_every_folder_with_modules_is_a_package() -> None:
    assert {path.parent / "__init__.py" for path in PACKAGE.rglob("*.py")} <= {*MODULES, PACKAGE / "__init__.py"}


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_a_module_imports_only_from_its_layer_and_those_before_it(path: Path) -> None:
    assert {name for name in internal_imports(path) if layer_of(name) > layer_of(dotted(path))} == set()


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_no_module_takes_a_public_name_from_the_package_itself(path: Path) -> None:
    """It would hide from which layer the name comes."""
    assert not {f"{ROOT}.{name}" for name in recbole_llminit.__all__} & imports(path)


def test_no_imports_form_a_cycle() -> None:
    graph = {dotted(path): internal_imports(path) for path in MODULES if path.name != "__init__.py"}
    assert list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    "path", [path for path in MODULES if dotted(path).partition(".")[0] in WITHOUT_RECBOLE], ids=dotted
)
def test_the_layers_before_the_models_need_no_recbole(path: Path) -> None:
    assert not {name for name in imports(path) if name == "recbole" or name.startswith("recbole.")}


def functions_and_methods(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the names and lengths, in lines, of all functions in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("folder", [PACKAGE, PACKAGE.parent / "benchmarks"], ids=["package", "benchmarks"])
def test_no_function_has_more_than_60_lines_and_no_module_more_than_400(folder: Path) -> None:
    paths = list(folder.rglob("*.py"))
    assert paths
    long = [(path.name, *found) for path in paths for found in functions_and_methods(path) if found[1] > 60]
    assert not long
    assert not [path.name for path in paths if len(path.read_text().splitlines()) > 400]


def test_recboles_quick_start_is_never_imported() -> None:
    assert not [path for path in MODULES if any("recbole.quick_start" in name for name in imports(path))]


def modules_loaded_by(module: str) -> set[str]:
    """The top-level names of all modules that a fresh interpreter loads for an import."""
    code = f"import {module}, sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


@pytest.mark.parametrize("module", [ROOT, f"{ROOT}.compare", f"{ROOT}.cli"])
def test_importing_the_package_is_light(module: str) -> None:
    loaded = modules_loaded_by(module)
    assert ROOT in loaded
    assert not {"torch", "numpy", "pandas", "pyarrow", "scipy", "recbole", "sentence_transformers"} & loaded


def test_a_run_imports_neither_ray_nor_an_encoder() -> None:
    loaded = modules_loaded_by(f"{ROOT}.integration.quick_start")
    assert "recbole" in loaded
    assert not {"ray", "sentence_transformers", "transformers", "hyperopt"} & loaded


def test_public_names() -> None:
    assert sorted(recbole_llminit.__all__) == recbole_llminit.__all__
    assert len(recbole_llminit.__all__) <= 15
    with pytest.raises(AttributeError, match="recbole_llminit.*nothing"):
        recbole_llminit.nothing  # noqa: B018


@pytest.mark.parametrize("name", [ROOT, f"{ROOT}.compare"])
def test_type_checkers_see_the_public_names(name: str) -> None:
    """The imports under TYPE_CHECKING are those that a first use makes."""
    package = importlib.import_module(name)
    tree = ast.parse(Path(str(package.__file__)).read_text())
    seen = {
        alias.asname: getattr(importlib.import_module(str(node.module)), alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"{ROOT}.")
        for alias in node.names
        if alias.name != "__version__"
    }
    assert seen == {public: getattr(package, public) for public in package.__all__}
