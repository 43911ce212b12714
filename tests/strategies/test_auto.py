"""Which strategy auto takes for which data, and by which figures."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.sparse import csr_matrix
from torch import nn

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization.initializer import InitSettings, initialize_embeddings_
from recbole_llminit.inspection import inspect_vectors
from recbole_llminit.integration.config import Config
from recbole_llminit.strategies.auto import Auto
from recbole_llminit.strategies.base import Factors, Strategy, get_strategy, values_by_id
from recbole_llminit.strategies.canonical_correlation import CanonicalCorrelation
from recbole_llminit.strategies.held_out import HeldOut
from recbole_llminit.strategies.linear_autoencoder import LinearAutoencoder
from recbole_llminit.strategies.projection import Whitening
from recbole_llminit.vectors.embeddings import AlignedEmbeddings
from tests.messages import logged, naming
from tests.strategies.toy_data import align, interactions_of, tastes

CCA, WHITEN = CanonicalCorrelation(), Whitening(popularity=1.0)
Data = tuple[csr_matrix, npt.NDArray[np.float64]]


@pytest.fixture(scope="module")
def agreeing() -> Data:
    """Clicks by taste, and vectors that say the taste."""
    return tastes(n_users=150, n_items=60, clicks=3)


@pytest.fixture(scope="module")
def texts_alone() -> Data:
    """Forty users, each with four of six items of one of 20 tastes, and vectors that say the taste."""
    return tastes(n_users=40, n_items=120, clicks=4, n_tastes=20, noise=0.01)


def resolve(clicks: csr_matrix, vectors: AlignedEmbeddings, width: int = 4, seed: int = 0) -> Strategy:
    return Auto().resolve(vectors, width, interactions=clicks, seed=seed)


def gains_of(line: str) -> dict[str, float]:
    """The figures of the candidates in the line of the log, by the name of the class."""
    found = re.findall(r"(lae|cca|whiten) (\d\.\d{4})", line)
    return {type(get_strategy(name)).__name__: float(gain) for name, gain in found}


def line_of(caplog: pytest.LogCaptureFixture) -> str:
    (line,) = {text for record in caplog.records if "init_strategy auto is" in (text := record.getMessage())}
    return line


def test_the_factors_where_clicks_and_texts_agree(agreeing: Data) -> None:
    clicks, rows = agreeing
    chosen = resolve(clicks, align(rows))
    assert isinstance(chosen, LinearAutoencoder)
    # With the regularization that all training clicks choose.
    assert chosen == LinearAutoencoder().resolve(align(rows), 4, interactions=clicks, seed=0)


def test_the_best_of_the_figures_in_the_log(agreeing: Data, caplog: pytest.LogCaptureFixture) -> None:
    clicks, rows = agreeing
    for vectors in (align(rows), align(np.random.default_rng(3).normal(size=rows.shape))):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            chosen = resolve(clicks, vectors)
        line = line_of(caplog)
        figures = gains_of(line)
        assert set(figures) == {"LinearAutoencoder", "CanonicalCorrelation", "Whitening"}
        assert figures[type(chosen).__name__] == max(figures.values()) > 0
        assert "NDCG@10 of 150 held-out training clicks" in line and "left out" not in line
        assert line.startswith(f"init_strategy auto is {chosen!r}")


def test_a_figure_is_that_of_the_candidate_without_the_held_out_clicks(
    agreeing: Data, caplog: pytest.LogCaptureFixture
) -> None:
    clicks, rows = agreeing
    with caplog.at_level(logging.INFO):
        resolve(clicks, align(rows))
    figures = gains_of(line_of(caplog))
    held_out = HeldOut.of(clicks, 1)
    assert held_out is not None
    left = held_out.interactions
    lae = LinearAutoencoder().resolve(align(rows), 4, interactions=clicks, seed=0)
    for strategy in (lae, CCA, WHITEN):
        fit = strategy.fit(align(rows), 4, interactions=left, seed=0)
        values = fit.reduction(4)
        items = values_by_id(fit.embeddings, values, 4)
        if isinstance(values, Factors):
            users = values.users[held_out.users]
        else:
            users = left[held_out.users].toarray() @ items / left[held_out.users].sum(axis=1)
        gain = held_out.gains(np.asarray(users) @ items.T, 0).mean()
        assert figures[type(strategy).__name__] == pytest.approx(gain, abs=2e-3)


def test_the_same_choice_however_many_users_are_scored_at_a_time(
    agreeing: Data, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = []
    for scores in (1 << 24, 61 * 7, 1):
        monkeypatch.setattr("recbole_llminit.strategies.held_out._BLOCK_SCORES", scores)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            resolve(agreeing[0], align(agreeing[1]))
        lines.append(line_of(caplog))
    figures = [list(gains_of(line).values()) for line in lines]
    np.testing.assert_allclose(figures, [figures[0]] * 3, atol=1e-3)


def test_a_candidate_that_cannot_be_fitted_is_named_and_left_out(
    texts_alone: Data, caplog: pytest.LogCaptureFixture
) -> None:
    """Fewer users than columns: the factors of the clicks have no 48 directions."""
    clicks, rows = texts_alone
    wide = np.hstack([rows, 0.01 * np.random.default_rng(2).normal(size=(120, 60))])
    with caplog.at_level(logging.INFO):
        chosen = resolve(clicks, align(wide), width=48)
    assert chosen in (CCA, WHITEN)
    line = line_of(caplog)
    assert "LinearAutoencoder" not in gains_of(line)
    assert "left out" in line and "lae has" in line and "48 columns" in line


@pytest.mark.parametrize("histories", [[[1], [2], []], [[3]], [[], []]], ids=["one each", "one", "none"])
def test_whiten_where_no_user_has_two_clicks(
    histories: list[list[int]], caplog: pytest.LogCaptureFixture, embed: Callable[..., AlignedEmbeddings]
) -> None:
    clicks = interactions_of(*histories, n_items=6)
    with caplog.at_level(logging.INFO):
        chosen = resolve(clicks, embed(*np.random.default_rng(0).normal(size=(6, 4))), width=2)
    assert chosen == Whitening()
    assert logged(caplog, "init_strategy auto is", repr(Whitening()), "no user has two training clicks")


def test_none_can_be_fitted(agreeing: Data) -> None:
    """The error names what each one lacks."""
    with pytest.raises(
        LLMInitError, match=naming("auto", "no candidate", "lae has 61 directions", "12 directions", "70 columns")
    ):
        Auto().fit(align(agreeing[1]), 70, interactions=agreeing[0], seed=0)


def test_a_fit_is_that_of_what_is_taken_on_all_clicks(agreeing: Data) -> None:
    clicks, rows = agreeing
    fit = Auto().fit(align(rows), 4, interactions=clicks, seed=0)
    expected = fit.strategy.fit(align(rows), 4, interactions=clicks, seed=0)
    ours, theirs = fit.reduction(4), expected.reduction(4)
    assert fit.strategy == resolve(clicks, align(rows))
    assert isinstance(ours, Factors) and isinstance(theirs, Factors)
    assert np.array_equal(ours.items, theirs.items) and np.array_equal(ours.users, theirs.users)


def test_the_choice_is_that_of_the_seed_and_leaves_the_random_state(agreeing: Data) -> None:
    clicks, rows = agreeing
    state = np.random.get_state()[1].copy()
    assert resolve(clicks, align(rows), seed=5) == resolve(clicks, align(rows), seed=5)
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize("given_fit", [False, True], ids=["strategy", "fit"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_control_shuffles_what_is_taken_for_the_vectors(agreeing: Data, shuffle: bool, given_fit: bool) -> None:
    """What shuffled vectors have in common with the clicks, nothing, does not choose."""
    clicks, rows = agreeing
    vectors, strategy = align(rows), Auto()
    model = nn.ModuleDict({"user": nn.Embedding(151, 4), "item": nn.Embedding(61, 4)})
    report = initialize_embeddings_(
        model,
        vectors,
        clicks,
        strategy.fit(vectors, 4, interactions=clicks, seed=0) if given_fit else strategy,
        seed=0,
        settings=InitSettings(shuffle=shuffle),
    )
    taken = resolve(clicks, vectors)
    assert (report.strategy, report.scale, report.user) == (repr(taken), "score", "factors")
    assert isinstance(taken, LinearAutoencoder)
    expected = taken.fit(vectors.shuffled(0) if shuffle else vectors, 4, interactions=clicks, seed=0).reduction(4)
    assert isinstance(expected, Factors)
    written = model["item"].weight.detach().numpy()[1:]
    np.testing.assert_allclose(
        written / np.linalg.norm(written), expected.items[1:] / np.linalg.norm(expected.items[1:]), atol=1e-6
    )


def test_the_log_and_a_look_say_it_too(llm: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    settings = {**llm, "embedding_size": 4, "init_strategy": "auto"}
    with caplog.at_level(logging.INFO):
        inspection = inspect_vectors(Config("BPR", config_dict={**settings, "state": "INFO"}))
    name = line_of(caplog).removeprefix("init_strategy auto is ").partition("(")[0]
    assert name in str(inspection.parts[-1])


def test_it_takes_no_arguments() -> None:
    assert get_strategy("auto") == Auto() and repr(Auto()) == "Auto()"
    with pytest.raises(LLMInitError, match=naming("'threshold'", "'auto'", "takes none")):
        get_strategy("auto", {"threshold": 2})
