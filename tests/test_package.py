"""What ships inside the package."""

import re
from pathlib import Path

import numpy as np
import pytest
import recbole
import yaml
from sentence_transformers import SentenceTransformer

import recbole_llminit
from recbole_llminit.compare.options import CompareOptions
from recbole_llminit.compare.plan import make_plan
from recbole_llminit.encode.item_text import read_item_texts
from recbole_llminit.encode.model_files import hash_folder
from recbole_llminit.encode.pipeline import provide_vectors
from recbole_llminit.integration.config import Config
from recbole_llminit.integration.options import InitOptions
from recbole_llminit.integration.quick_start import run_recbole_llminit
from recbole_llminit.vectors.readers import read_embeddings
from tests.encoders import MINILM
from tests.stock import DATA

ROOT = Path(__file__).parents[1]
ML100K = Path(recbole_llminit.__file__).parent / "data" / "ml-100k"
ML100K_ITEMS = Path(recbole.__file__).parent / "dataset_example" / "ml-100k" / "ml-100k.item"


def test_the_packaged_vectors_are_those_of_their_items() -> None:
    """Rows against the encoder itself, item by item: row i is item i."""
    options = InitOptions.from_config(Config("BPR", "ml-100k", config_dict={"init_strategy": "var"}))
    store = read_embeddings(provide_vectors(options.embedding, options.encode))
    found = read_item_texts(ML100K_ITEMS)
    texts = dict(zip(found.ids, found.texts, strict=True))
    assert len(store.tokens) == 1682
    assert store.width == 384
    assert store.metadata["template"] == found.template == "{movie_title}. {class}"
    assert store.metadata["revision"] == hash_folder(MINILM)
    assert texts["1"] == "Toy Story. Animation Children's Comedy"
    some = [0, 1, 266, 777, 1681]
    encoder = SentenceTransformer(str(MINILM), device="cpu")
    expected = encoder.encode([texts[store.tokens[row].as_py()] for row in some], normalize_embeddings=True)
    found = np.concatenate(store.chunks)[some].astype(np.float32)
    cosines = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1)
    assert (cosines > 0.999).all()


def test_the_packaged_store_is_small() -> None:
    assert sum(path.stat().st_size for path in ML100K.iterdir()) < 2_000_000
    assert sorted(path.name for path in ML100K.iterdir()) == ["README.md", "part-00000.arrow"]


COMPARISONS = sorted(path for folder in ("compare*", "paper/*", "study/*") for path in ROOT.glob(f"yaml/{folder}.yaml"))


@pytest.mark.parametrize("path", sorted(set(ROOT.glob("yaml/*.yaml")) - {*COMPARISONS}), ids=lambda path: path.name)
def test_every_example_is_a_configuration(path: Path) -> None:
    settings = yaml.safe_load(path.read_text())
    config = Config(config_file_list=[path])
    assert InitOptions.from_config(config).strategy is not None
    assert path.name == f"{settings['model'].lower()}_{settings['dataset']}.yaml"
    assert documented(path) == set(settings)


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.name)
def test_every_comparison_can_be_planned(path: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(path.read_text())
    assert documented(path) == set(settings)
    (dataset,) = settings["datasets"]
    # Another dataset under its name: what is planned needs the keys alone, and vectors for its items.
    for source in (DATA / "tiny").iterdir():
        (tmp_path / dataset).mkdir(exist_ok=True)
        (tmp_path / dataset / source.name.replace("tiny", dataset)).write_bytes(source.read_bytes())
    arguments = [f"--data_path={tmp_path}", f"--llm_embedding={ML100K}"]
    options = CompareOptions.from_files([path], arguments)
    plan = make_plan(options)
    assert {trial.settings["train_batch_size"] for trial in plan.trials.values()} == {settings["train_batch_size"]}
    labels = [initialization.label for initialization in options.initializations]
    if path.parent.name == "study":
        controlled = "control" in {one.role for one in options.initializations}
        assert labels[0] == "none" and (controlled or settings["controls"] == "none")
        assert f"--config_files=yaml/study/{path.name} " in path.read_text()
    else:
        paper = ["none", "rand", "uni", "var"]
        assert labels == (paper if path.parent.name == "paper" else [*paper, "noise", "var shuffled"])


def documented(path: Path) -> set[str]:
    """The keys of a YAML file whose line says type and meaning."""
    found = re.findall(
        r"^([A-Za-z_]+):.*# \((?:str|int|float|bool|dict|list| or )+\) .+", path.read_text(), re.MULTILINE
    )
    return set(found)


def test_ml100k_trains_from_its_example() -> None:
    result = run_recbole_llminit(
        config_file_list=[ROOT / "yaml" / "lightgcn_ml-100k.yaml"],
        config_dict={"epochs": 1, "show_progress": False},
        saved=False,
    )
    report = result["init_report"]
    assert (report.items_with_vector, report.users_with_items) == (1682, 943)
    assert [table.name for table in report.tables] == ["user_embedding.weight", "item_embedding.weight"]
    assert result["test_result"]["recall@10"] > 0.1


def test_the_architecture_names_every_module() -> None:
    package = Path(recbole_llminit.__file__).parent
    paths = [path.relative_to(package).with_suffix("") for path in package.rglob("*.py") if path.name[:2] != "__"]
    named = re.findall(
        r"^\| `([a-z_.]+)` \| .+ \| .*\|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE
    )
    assert sorted(set(named)) == sorted(".".join(path.parts) for path in paths)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/models.md"])
def test_the_pages_name_what_is_there(page: str) -> None:
    """Paths within the repository, and tests; not those that a recipe has the reader add."""
    text = (ROOT / page).read_text()
    added = {"recbole_llminit/strategies/suffix.py", "tests/strategies/test_suffix.py",
             "recbole_llminit/encode/hash_encoder.py", "tests/encode/test_hash_encoder.py"}  # fmt: skip
    paths = set(re.findall(r"\b((?:tests|benchmarks|recbole_llminit|yaml|results|docs)/[\w./-]+\w)", text)) - added
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in tests] == []
