"""The measurements of vectors and of trained tables."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from recbole_llminit.cli import main
from recbole_llminit.encode.item_text import read_item_texts
from recbole_llminit.errors import LLMInitError
from recbole_llminit.inspection import Measurement, inspect_checkpoint, inspect_vectors
from recbole_llminit.integration.config import Config
from recbole_llminit.integration.dataset import training_interactions
from recbole_llminit.integration.quick_start import load_data, load_data_and_model, run_recbole_llminit
from recbole_llminit.strategies.canonical_correlation import CanonicalCorrelation
from recbole_llminit.strategies.co_consumption import CoConsumption
from recbole_llminit.vectors.embeddings import AlignedEmbeddings
from recbole_llminit.vectors.readers import read_embeddings
from recbole_llminit.vectors.shard import append_shard, hash_text
from tests.conftest import METADATA
from tests.messages import naming
from tests.stock import DATA


@pytest.fixture(scope="module")
def checkpoint(llm_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained BPR; no test changes it."""
    folder = tmp_path_factory.mktemp("trained")
    run_recbole_llminit("BPR", config_dict={**llm_settings, "checkpoint_dir": str(folder)})
    (path,) = folder.glob("*.pth")
    return path


@pytest.fixture(scope="session")
def titles() -> dict[str, str]:
    """The titles of the tiny dataset's items, by item id."""
    found = read_item_texts(DATA / "tiny" / "tiny.item")
    return dict(zip(found.ids, found.texts, strict=True))


def test_a_measurement_literally(embed: Callable[..., AlignedEmbeddings]) -> None:
    # Lengths 5, 1, 1 and none; cosines 0.6, 0.8 and 0 between the three.
    found = Measurement.of("vectors", embed([3, 4], None, [1, 0], [0, 1], [0, 0]))
    assert (found.rows, found.missing) == (4, 1)
    assert found.lengths == (0, 1, 5)
    assert found.mean_cosine == pytest.approx((0.6 + 0.8 + 0) / 3)
    assert found.variance == pytest.approx([1.5, 2.6875])
    assert found.spectrum.singular_values == pytest.approx(np.linalg.svd([[3, 4], [1, 0], [0, 1]], compute_uv=False))


def test_a_measurement_restated(embed: Callable[..., AlignedEmbeddings], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 9))
    rows[:, 0] += 2
    rows[:, 5] = 1
    monkeypatch.setattr("recbole_llminit.vectors.embeddings._BLOCK_NUMBERS", 13 * 9)
    found = Measurement.of("vectors", embed(*rows), chosen=(0, 5))
    assert found.mean_cosine == pytest.approx(cosine_similarity(rows)[~np.eye(60, dtype=bool)].mean(), abs=1e-6)
    np.testing.assert_allclose(found.variance, rows.var(axis=0), atol=1e-5)
    centered = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(found.centered.singular_values, centered, atol=1e-4)
    variances = centered**2
    needed = next(count for count in range(10) if variances[:count].sum() >= 0.9 * variances.sum())
    assert f"{needed} of 9 directions hold 90%, 1 of the dimensions is constant" in str(found)
    share = rows.var(axis=0)[[0, 5]].sum() / rows.var(axis=0).sum()
    assert f"2 dimensions (0, 5) hold {share:.0%} of the variance" in str(found)


@pytest.mark.parametrize("rows", [[[1, 2]], [[0, 0], [0, 0]], [[1, 2], [1, 2]]], ids=["one item", "zeros", "equal"])
def test_little_to_measure(embed: Callable[..., AlignedEmbeddings], rows: list[list[float]]) -> None:
    found = Measurement.of("vectors", embed(*rows))
    assert np.isfinite([found.mean_cosine, found.centered.effective_rank, found.spectrum.information_abundance]).all()
    assert "0 of 2 directions hold 90%, 2 of the dimensions are constant" in str(found)


def test_vectors_of_a_dataset(llm: dict[str, Any], tiny_vectors: dict[str, np.ndarray]) -> None:
    config = Config("BPR", config_dict={**llm, "embedding_size": 8})
    vectors, users, initialized = inspect_vectors(config).parts
    dataset, _ = load_data(config)
    assert (users.name, initialized.name) == ("user_embedding.weight", "item_embedding.weight")
    tokens = [str(token) for token in dataset.field2id_token["item_id"][1:]]
    rows = np.stack([tiny_vectors[token] for token in tokens])
    assert (vectors.rows, vectors.missing) == (len(tokens), 0)
    assert len(vectors.chosen) == len(initialized.variance) == 8
    np.testing.assert_allclose(vectors.variance, rows.var(axis=0), rtol=1e-4)
    np.testing.assert_allclose(initialized.variance, rows[:, list(vectors.chosen)].var(axis=0), rtol=1e-4)


def test_the_neighbors_of_the_most_popular_items(
    llm: dict[str, Any], tiny_vectors: dict[str, np.ndarray], titles: dict[str, str]
) -> None:
    config = Config("BPR", config_dict=llm)
    vectors = inspect_vectors(config).parts[0]
    dataset, train = load_data(config)
    tokens = [str(token) for token in dataset.field2id_token["item_id"][1:]]
    degrees = np.bincount(train.inter_feat["item_id"].numpy(), minlength=len(tokens) + 1)[1:]
    cosines = cosine_similarity(np.stack([tiny_vectors[token] for token in tokens]))
    np.fill_diagonal(cosines, -1)
    assert len(vectors.neighbors) == 5
    popular = np.argsort(-degrees, kind="stable")[:5]
    for found, item in zip(vectors.neighbors, popular, strict=True):
        nearest = np.argsort(-cosines[item])[:3]
        assert (found.item, found.interactions) == (titles[tokens[item]], degrees[item])
        assert [title for title, _ in found.nearest] == [titles[tokens[other]] for other in nearest]
        assert [cosine for _, cosine in found.nearest] == pytest.approx(cosines[item][nearest], abs=1e-5)


@pytest.mark.parametrize("strategy", ["var", "cca"])
def test_the_adjusted_correlation_is_that_of_cca(strategy: str, llm: dict[str, Any], tiny_store: Path) -> None:
    """Whether the strategy has found the canonical directions for itself or not."""
    config = Config("BPR", config_dict={**llm, "init_strategy": strategy, "embedding_size": 8})
    vectors, users, initialized = inspect_vectors(config).parts
    dataset, train = load_data(config)
    aligned = read_embeddings(tiny_store, "item_id").align(dataset.field2id_token["item_id"], "tiny")
    fit = CanonicalCorrelation().fit(aligned, 8, interactions=training_interactions(train, config), seed=2020)
    assert vectors.adjusted_correlation == fit.canonical.adjusted_correlation
    assert users.adjusted_correlation is initialized.adjusted_correlation is None
    assert f"{vectors.adjusted_correlation:.2f}" in str(vectors)
    assert "adjusted correlation" in str(vectors) and "adjusted correlation" not in str(initialized)


@pytest.mark.parametrize("strategy", ["cca", "var"])
def test_the_canonical_directions_are_computed_once(
    strategy: str, llm: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    moment, computed = CoConsumption.moment, []
    monkeypatch.setattr(CoConsumption, "moment", lambda *given: computed.append(1) or moment(*given))
    vectors = inspect_vectors(Config("BPR", config_dict={**llm, "init_strategy": strategy, "embedding_size": 8})).parts[
        0
    ]
    assert computed == [1] and vectors.adjusted_correlation is not None


@pytest.mark.parametrize("strategy", ["auto", "lae"])
def test_the_adjusted_correlation_beside_a_strategy_of_clicks(strategy: str, llm: dict[str, Any]) -> None:
    found, plain = (
        inspect_vectors(Config("BPR", config_dict={**llm, "init_strategy": name, "embedding_size": 8})).parts
        for name in (strategy, "var")
    )
    assert found[0].adjusted_correlation == plain[0].adjusted_correlation is not None
    assert found[0].chosen == ()
    assert [part.name for part in found] == [part.name for part in plain]


def test_where_no_adjusted_correlation_can_be_measured(llm: dict[str, Any]) -> None:
    found = inspect_vectors(Config("BPR", config_dict={**llm, "embedding_size": 8, "drop_train": "all_but_one"}))
    assert found.parts[0].adjusted_correlation is None
    assert any("no adjusted correlation" in note and "two training items with a vector" in note for note in found.notes)
    assert set(found.notes) <= set(str(found).splitlines())


def test_a_strategy_that_mixes_marks_no_dimension(llm: dict[str, Any]) -> None:
    vectors, _, initialized = inspect_vectors(Config("BPR", config_dict={**llm, "init_strategy": "whiten"})).parts
    assert vectors.chosen == () and "chosen" not in str(vectors)
    # The scale of the strategy where none is given.
    np.testing.assert_allclose(initialized.variance, 0.05**2, rtol=1e-4)
    assert initialized.centered.effective_rank == pytest.approx(16, rel=1e-4)


def test_a_model_of_items_alone_and_another_key_for_its_width(llm: dict[str, Any]) -> None:
    settings = {**llm, "embedding_size": 7, "hidden_size": 24, "train_neg_sample_args": None}
    vectors, initialized = inspect_vectors(Config("SASRec", config_dict=settings)).parts
    assert (len(vectors.chosen), initialized.name, len(initialized.variance)) == (24, "item_embedding.weight", 24)


def test_items_without_texts_are_named_by_their_ids(llm: dict[str, Any], tmp_path: Path, tiny_items: list[str]) -> None:
    shutil.copytree(DATA / "tiny", tmp_path / "data" / "tiny")
    (tmp_path / "data" / "tiny" / "tiny.item").unlink()
    config = Config("BPR", config_dict={**llm, "data_path": str(tmp_path / "data")})
    neighbors = inspect_vectors(config).parts[0].neighbors
    assert len(neighbors) == 5
    assert {found.item for found in neighbors} <= set(tiny_items)


def test_a_misaligned_file_is_seen(
    llm: dict[str, Any], tiny_vectors: dict[str, np.ndarray], titles: dict[str, str], tmp_path: Path
) -> None:
    """Two items of one vector are each other's neighbors, whatever their titles."""
    items = list(tiny_vectors)
    config = Config("BPR", config_dict=llm)
    tokens = {title: item for item, title in titles.items()}
    first, second = (tokens[found.item] for found in inspect_vectors(config).parts[0].neighbors[:2])
    rows = np.stack([tiny_vectors[first if item == second else item] for item in items])
    append_shard(tmp_path / "store", items, [hash_text(item) for item in items], rows, METADATA)
    config["llm_embedding"] = str(tmp_path / "store")
    nearest = {found.item: found.nearest[0] for found in inspect_vectors(config).parts[0].neighbors}
    assert nearest[titles[first]] == (titles[second], pytest.approx(1, abs=1e-5))
    assert nearest[titles[second]] == (titles[first], pytest.approx(1, abs=1e-5))


def test_a_checkpoint(checkpoint: Path) -> None:
    users, items = inspect_checkpoint(checkpoint).parts
    model = load_data_and_model(checkpoint)[1]
    for part, table in ((users, model.user_embedding), (items, model.item_embedding)):
        rows = table.weight[1:].detach().numpy()
        assert (part.rows, part.missing) == (len(rows), 0)
        np.testing.assert_allclose(part.spectrum.singular_values, np.linalg.svd(rows, compute_uv=False), rtol=1e-4)
    assert not users.neighbors and len(items.neighbors) == 5


def test_the_command(llm: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [f"--{key}={llm[key]}" for key in ("data_path", "llm_embedding", "embedding_size")]
    assert main(["inspect", "-d", "tiny", *arguments, "--png=look.png"]) == 0
    printed = capsys.readouterr().out
    for part in ("vectors", "Variance(popular_ratio=0.2)", "mean cosine", "effective rank", "chosen", "look.png"):
        assert part in printed
    assert (tmp_path / "look.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_command_with_a_checkpoint(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", f"--checkpoint={checkpoint}"]) == 0
    assert "item_embedding.weight" in capsys.readouterr().out


def test_the_command_refuses_a_checkpoint_and_a_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--checkpoint=nothing.pth", "-d", "tiny"]) == 2
    told = capsys.readouterr().err
    assert "--checkpoint" in told and "configuration" in told
    assert main(["inspect", "--checkpoint=nothing.pth"]) == 2
    assert "there is no nothing.pth" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "facts"),
    [
        ({"init_strategy": "noise"}, ("init_strategy", "noise", "reads no vectors")),
        ({"init_strategy": "none"}, ("init_strategy", "none", "vectors")),
        ({"embedding_size": 100}, ("embedding_size", "100", "80 dimensions", "test-encoder")),
    ],
    ids=["noise", "none", "width"],
)
def test_what_is_refused(settings: dict[str, Any], facts: tuple[str, ...], llm: dict[str, Any]) -> None:
    with pytest.raises(LLMInitError, match=naming(*facts)):
        inspect_vectors(Config("BPR", config_dict={**llm, **settings}))


@pytest.mark.parametrize("name", ["nowhere/look.png", "look.svg"])
def test_a_figure_that_cannot_be_written_is_refused_first(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the dataset, which is not there either, is looked for."""
    assert main(["inspect", "-d", "nothing", f"--png={name}"]) == 2
    told = capsys.readouterr().err
    assert name in told and ".png" in told and "nothing" not in told
