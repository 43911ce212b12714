"""A look at vectors and at trained tables."""

import shutil

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from recbole_llminit.cli import main
from recbole_llminit.errors import LLMInitError
from recbole_llminit.inspection import Measurement, inspect_checkpoint, inspect_vectors
from recbole_llminit.integration.config import Config
from recbole_llminit.integration.model import read_vectors, training_interactions
from recbole_llminit.integration.options import InitOptions
from recbole_llminit.integration.quick_start import load_data, load_data_and_model, run_recbole_llminit
from recbole_llminit.strategies.projection import CanonicalCorrelation
from recbole_llminit.vectors.store import append_shard, hash_text
from tests.conftest import METADATA
from tests.stock import DATA


def test_a_measurement_literally(embed):
    # Lengths 5, 1, 1 and none; cosines 0.6, 0.8 and 0 between the three.
    found = Measurement.of("vectors", embed([3, 4], None, [1, 0], [0, 1], [0, 0]))
    assert (found.rows, found.missing) == (4, 1)
    assert found.lengths == (0, 1, 5)
    assert found.mean_cosine == pytest.approx((0.6 + 0.8 + 0) / 3)
    assert found.variance == pytest.approx([1.5, 2.6875])
    assert found.spectrum.singular_values == pytest.approx(np.linalg.svd([[3, 4], [1, 0], [0, 1]], compute_uv=False))


def test_a_measurement_restated(embed, monkeypatch):
    rows = np.random.default_rng(0).normal(size=(60, 9))
    rows[:, 0] += 2
    rows[:, 5] = 1
    monkeypatch.setattr("recbole_llminit.vectors.embeddings._BLOCK_NUMBERS", 13 * 9)
    found = Measurement.of("vectors", embed(*rows), chosen=(0, 5))
    assert found.mean_cosine == pytest.approx(cosine_similarity(rows)[~np.eye(60, dtype=bool)].mean(), abs=1e-6)
    np.testing.assert_allclose(found.variance, rows.var(axis=0), atol=1e-5)
    centred = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
    np.testing.assert_allclose(found.centred.singular_values, centred, atol=1e-4)
    variances = centred**2
    needed = next(count for count in range(10) if variances[:count].sum() >= 0.9 * variances.sum())
    assert f"{needed} of 9 directions hold 90%, 1 of the dimensions is constant" in str(found)
    share = rows.var(axis=0)[[0, 5]].sum() / rows.var(axis=0).sum()
    assert f"2 dimensions (0, 5) hold {share:.0%} of the variance" in str(found)


@pytest.mark.parametrize("rows", [[[1, 2]], [[0, 0], [0, 0]], [[1, 2], [1, 2]]], ids=["one item", "zeros", "equal"])
def test_little_to_measure(embed, rows):
    found = Measurement.of("vectors", embed(*rows))
    assert np.isfinite([found.mean_cosine, found.centred.effective_rank, found.spectrum.information_abundance]).all()
    assert "0 of 2 directions hold 90%, 2 of the dimensions are constant" in str(found)


def test_vectors_of_a_dataset(llm, tiny_vectors):
    config = Config("BPR", config_dict={**llm, "embedding_size": 8})
    vectors, users, start = inspect_vectors(config).parts
    dataset, train = load_data(config)
    assert (users.name, start.name) == ("user_embedding.weight", "item_embedding.weight")
    tokens = [str(token) for token in dataset.field2id_token["item_id"][1:]]
    rows = np.stack([tiny_vectors[token] for token in tokens])
    assert (vectors.rows, vectors.missing, len(vectors.chosen), len(start.variance)) == (len(tokens), 0, 8, 8)
    np.testing.assert_allclose(vectors.variance, rows.var(axis=0), rtol=1e-4)
    np.testing.assert_allclose(start.variance, rows[:, list(vectors.chosen)].var(axis=0), rtol=1e-4)

    degrees = np.bincount(train.inter_feat["item_id"].numpy(), minlength=len(tokens) + 1)[1:]
    cosines = cosine_similarity(rows)
    np.fill_diagonal(cosines, -1)
    titles = titles_of_tiny()
    for found, item in zip(vectors.neighbours, np.argsort(-degrees, kind="stable"), strict=False):
        assert (found.item, found.interactions) == (titles[tokens[item]], degrees[item])
        assert [title for title, _ in found.nearest] == [
            titles[tokens[other]] for other in np.argsort(-cosines[item])[:3]
        ]
        assert [cosine for _, cosine in found.nearest] == pytest.approx(np.sort(cosines[item])[::-1][:3], abs=1e-5)
    assert len(vectors.neighbours) == 5

    agreement = CanonicalCorrelation().agreement(
        read_vectors(InitOptions.from_config(config), config, dataset),
        8,
        interactions=training_interactions(train, config),
    )
    assert vectors.agreement == agreement and users.agreement is start.agreement is None
    assert f"{agreement:.2f}, of the vectors of co-consumed items" in str(vectors) and "agreement" not in str(start)


def test_vectors_that_cannot_agree(llm):
    found = inspect_vectors(Config("BPR", config_dict={**llm, "embedding_size": 8, "drop_train": "all_but_one"}))
    assert found.parts[0].agreement is None
    assert "no agreement was measured" in str(found) and "no user has two training items with a vector" in str(found)


def titles_of_tiny():
    from recbole_llminit.encode.item_text import read_item_texts

    found = read_item_texts(DATA / "tiny" / "tiny.item")
    return dict(zip(found.ids, found.texts, strict=True))


def test_a_strategy_that_mixes_marks_no_dimension(llm):
    vectors, _, start = inspect_vectors(Config("BPR", config_dict={**llm, "init_strategy": "whiten"})).parts
    assert vectors.chosen == () and "chosen" not in str(vectors)
    # The scale of the strategy where none is given.
    np.testing.assert_allclose(start.variance, 0.05**2, rtol=1e-4)
    assert start.centred.effective_rank == pytest.approx(16, rel=1e-4)


def test_a_model_of_items_alone_and_another_key_for_its_width(llm):
    settings = {**llm, "embedding_size": 7, "hidden_size": 24, "train_neg_sample_args": None}
    vectors, start = inspect_vectors(Config("SASRec", config_dict=settings)).parts
    assert (len(vectors.chosen), start.name, len(start.variance)) == (24, "item_embedding.weight", 24)


def test_items_without_texts_are_named_by_their_ids(llm, tmp_path):
    shutil.copytree(DATA / "tiny", tmp_path / "data" / "tiny")
    (tmp_path / "data" / "tiny" / "tiny.item").unlink()
    config = Config("BPR", config_dict={**llm, "data_path": str(tmp_path / "data")})
    dataset, _ = load_data(config)
    assert {found.item for found in inspect_vectors(config).parts[0].neighbours} <= set(
        dataset.field2id_token["item_id"]
    )


def test_a_misaligned_file_is_seen(llm, tiny_vectors, tmp_path):
    """Two items of one vector are each other's neighbours, whatever their titles."""
    items = list(tiny_vectors)
    titles = titles_of_tiny()
    config = Config("BPR", config_dict=llm)
    tokens = {title: item for item, title in titles.items()}
    first, second = (tokens[found.item] for found in inspect_vectors(config).parts[0].neighbours[:2])
    rows = np.stack([tiny_vectors[first if item == second else item] for item in items])
    append_shard(tmp_path / "store", items, [hash_text(item) for item in items], rows, METADATA)
    config["llm_embedding"] = str(tmp_path / "store")
    nearest = {found.item: found.nearest[0] for found in inspect_vectors(config).parts[0].neighbours}
    assert nearest[titles[first]] == (titles[second], pytest.approx(1, abs=1e-5))
    assert nearest[titles[second]] == (titles[first], pytest.approx(1, abs=1e-5))


def test_a_checkpoint(llm, tmp_path):
    run_recbole_llminit("BPR", config_dict=llm)
    (checkpoint,) = (tmp_path / "saved").glob("*.pth")
    users, items = inspect_checkpoint(checkpoint).parts
    model = load_data_and_model(checkpoint)[1]
    for part, table in ((users, model.user_embedding), (items, model.item_embedding)):
        rows = table.weight[1:].detach().numpy()
        assert (part.rows, part.missing) == (len(rows), 0)
        np.testing.assert_allclose(part.spectrum.singular_values, np.linalg.svd(rows, compute_uv=False), rtol=1e-4)
    assert not users.neighbours and len(items.neighbours) == 5


def test_the_command(llm, tmp_path, capsys):
    arguments = [
        f"--{key}={value}" for key, value in llm.items() if key in ("data_path", "llm_embedding", "embedding_size")
    ]
    assert main(["inspect", "-d", "tiny", *arguments, "--png=look.png"]) == 0
    printed = capsys.readouterr().out
    for part in ("vectors", "Variance(popular_ratio=0.2)", "mean cosine", "effective rank", "chosen", "look.png"):
        assert part in printed
    assert (tmp_path / "look.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_command_with_a_checkpoint(llm, tmp_path, capsys):
    run_recbole_llminit("BPR", config_dict={**llm, "epochs": 1})
    (checkpoint,) = (tmp_path / "saved").glob("*.pth")
    assert main(["inspect", f"--checkpoint={checkpoint}"]) == 0
    assert "item_embedding.weight" in capsys.readouterr().out
    assert main(["inspect", f"--checkpoint={checkpoint}", "-d", "tiny"]) == 2
    assert "--checkpoint has its configuration in it" in capsys.readouterr().err
    assert main(["inspect", "--checkpoint=nothing.pth"]) == 2
    assert "there is no nothing.pth" in capsys.readouterr().err


def test_what_is_refused(llm, capsys):
    with pytest.raises(LLMInitError, match="init_strategy is noise, which reads no vectors: give one that does"):
        inspect_vectors(Config("BPR", config_dict={**llm, "init_strategy": "noise"}))
    with pytest.raises(LLMInitError, match="embedding_size 100 is larger than the 80 dimensions of test-encoder"):
        inspect_vectors(Config("BPR", config_dict={**llm, "embedding_size": 100}))
    for name in ("nowhere/look.png", "look.svg"):
        assert main(["inspect", "-d", "nothing", f"--png={name}"]) == 2
        assert f"the figure cannot be written to {name}: expected a file .png" in capsys.readouterr().err
