"""Initialize a built model's user and item tables from LLM vectors, in place: the steps in their order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from scipy.sparse import csr_matrix
from torch import Tensor, nn

from recbole_llminit.errors import LLMInitError
from recbole_llminit.initialization import checks
from recbole_llminit.initialization.embedding_table import EmbeddingTable, Exclusion, FoundTables, Side, model_name
from recbole_llminit.initialization.propagation import undo_propagation_
from recbole_llminit.initialization.report import InitReport, TableReport
from recbole_llminit.initialization.rows import Rows, reduce_rows
from recbole_llminit.initialization.scaling import factor_for_items, factor_for_model_scores, factor_for_scores
from recbole_llminit.initialization.tables import find_embedding_tables
from recbole_llminit.initialization.users import FromStrategy, UserInitialization
from recbole_llminit.initialization.writer import rewrite_rows_, write_rows_
from recbole_llminit.strategies.base import Factors, Fit, Scale, Strategy, Values
from recbole_llminit.vectors.embeddings import AlignedEmbeddings, no_vectors

Missing = Literal["model", "mean", "error"]


@dataclass(frozen=True)
class InitSettings:
    """How values become rows of tables; the defaults are those of the configuration keys.

    Parameters
    ----------
    scale : {"raw", "model", "score"} or float, optional
        The standard deviation of all values written to an item table: as the strategy made them, as the model's own
        initial values had it, or this number. With ``score`` the model's scores get a standard deviation instead, the
        strategy's ``score_std``. Left out, it is the strategy's ``default_scale``. User values are aggregated from the
        scaled item values and not scaled again.
    user : UserInitialization
        How user rows are initialized.
    missing : {"model", "mean", "error"}
        Items without a vector keep the model's own row, get the mean of all written rows, or are an error.
    trainable : bool
        Whether training may change the item rows that were written; see `freeze_rows_`.
    shuffle : bool
        Whether the vectors go to the items that have one in random order: a control, which keeps everything of the
        vectors except what they say about an item.
    tables, id_fields : mapping, optional
        ``named`` and ``id_fields`` of `find_embedding_tables`.
    score_std : callable, optional
        Returns the standard deviation of a model's own scores, for the scale ``score``. Left out, and where it returns
        None, that of the dot products of user and item values is taken.
    final_vectors : callable, optional
        Returns for a model a function that returns the vectors of users and items that it scores by, by side; None
        where they are the tables, or unknown. Values that were fitted to be those vectors are written so that they are.
    sizes : mapping
        The model's configured sizes by key, to name the one to change in the error for a table that is too wide.
    """

    scale: Scale | None = None
    user: UserInitialization = field(default_factory=FromStrategy)
    missing: Missing = "model"
    trainable: bool = True
    shuffle: bool = False
    tables: Mapping[Side, Sequence[str]] | None = None
    id_fields: Mapping[Side, str] | None = None
    score_std: Callable[[nn.Module], float | None] | None = None
    final_vectors: Callable[[nn.Module], Callable[[], Mapping[Side, Tensor]] | None] | None = None
    sizes: Mapping[str, int | Sequence[int]] = field(default_factory=dict)


def initialize_embeddings_(
    model: nn.Module,
    embeddings: AlignedEmbeddings,
    interactions: csr_matrix,
    strategy: Strategy | Fit,
    *,
    seed: int,
    settings: InitSettings | None = None,
) -> InitReport:
    """Write LLM vectors into a built model's user and item tables, in place.

    Parameters
    ----------
    model : torch.nn.Module
        A model after its own constructor. Its parameters stay the same objects; only rows are overwritten.
    embeddings : AlignedEmbeddings
        Item vectors by item id.
    interactions : csr_matrix of 0 and 1, shape [n_users, n_items]
        The training interactions.
    strategy : Strategy or Fit
        Reduces the vectors to each table's width; or its fit to these vectors and interactions, if there is one.
    seed : int
        The seed of the strategy's own generator.
    settings : InitSettings, optional
        Scale, users, missing items and the rest.

    Returns
    -------
    InitReport
        What was written and what was skipped.

    Raises
    ------
    LLMInitError
        If the model has no such table, a table is wider than the vectors, a vector is not finite, all items would get
        the same values, the values of a table are so small that every score is 0, or ``missing`` is ``"error"`` and an
        item has no vector. Nothing is written then.

    Notes
    -----
    No global random state is read or advanced, only the training interactions are read, and a row without a value
    (``[PAD]``, a user without training items) keeps the model's own.
    """
    began = time.perf_counter()
    run = _Initialization(model, embeddings, interactions, strategy, seed, settings or InitSettings())
    run.check()
    run.use(run.fit())
    run.compute()
    run.check_values()
    written = run.write_()
    run.undo_propagation_()
    return run.report(run.rescale_by_model_(written), time.perf_counter() - began)


def fit_to_tables(
    model: nn.Module,
    embeddings: AlignedEmbeddings,
    interactions: csr_matrix,
    strategy: Strategy,
    *,
    seed: int,
    settings: InitSettings | None = None,
) -> Fit:
    """Fit a strategy as `initialize_embeddings_` would for a model, which may be given the fit afterwards.

    The parameters and errors are those of `initialize_embeddings_`. Nothing is written.
    """
    run = _Initialization(model, embeddings, interactions, strategy, seed, settings or InitSettings())
    run.check()
    return run.fit()


def shuffled_control(
    strategy: Strategy, embeddings: AlignedEmbeddings, n_components: int, interactions: csr_matrix, seed: int
) -> tuple[Strategy, AlignedEmbeddings]:
    """Return strategy and vectors of the control ``init_shuffle``; the parameters are those of `Strategy.fit`.

    The data decide before they are shuffled: the control has to shuffle what it is the control of.
    """
    resolved = strategy.resolve(embeddings, n_components, interactions=interactions, seed=seed)
    return resolved, embeddings.shuffled(seed)


class _Initialization:
    """One initialization: what each step finds is what the next one reads."""

    def __init__(
        self,
        model: nn.Module,
        embeddings: AlignedEmbeddings,
        interactions: csr_matrix,
        strategy: Strategy | Fit,
        seed: int,
        settings: InitSettings,
    ) -> None:
        self._model = model
        self._embeddings = embeddings
        self._interactions = interactions
        self._strategy = strategy.strategy if isinstance(strategy, Fit) else strategy
        # Shuffled vectors have to be fitted anew.
        self._given_fit = strategy if isinstance(strategy, Fit) and not settings.shuffle else None
        self._seed = seed
        self._settings = settings
        self._user = settings.user
        n_users, n_items = interactions.shape
        self._search: FoundTables = find_embedding_tables(model, n_users, n_items, settings.tables, settings.id_fields)
        self._tables = [table for table in self._search.tables if table.side == "item" or self._user.writes_tables]
        self._reductions: dict[int, Values] = {}
        self._writes: list[tuple[EmbeddingTable, Rows]] = []

    def check(self) -> None:
        """Refuse what can be refused in milliseconds."""
        if not self._tables:
            raise LLMInitError(
                f"nothing of {model_name(self._model)} would be written (init_user: {self._user.label}, init_tables: "
                f"{self._settings.tables}): name a table, or remove init_strategy"
            )
        widest = max(self._tables, key=lambda table: table.width)
        if self._given_fit is not None and widest.width > self._given_fit.n_components:
            raise LLMInitError(
                f"{self._given_fit.strategy!r} was fitted for {self._given_fit.n_components} components, and the table "
                f"{widest.label} has {widest.width} columns: fit it for at least as many"
            )
        if self._strategy.needs_vectors and self._strategy.is_reduction:
            checks.refuse_narrow(self._tables, self._embeddings, self._settings.sizes)
        self._user.check(self._embeddings, self._strategy)
        if self._settings.missing == "error":
            checks.refuse_missing(self._embeddings)

    def use(self, fit: Fit) -> None:
        """Take a fit, and settle the scale."""
        self._fit = fit
        default_scale = self._fit.strategy.default_scale or "raw"
        self._scale = default_scale if self._settings.scale is None else self._settings.scale

    def fit(self) -> Fit:
        """Fit the strategy to the widest table, unless its fit was given."""
        if self._given_fit is not None:
            return self._given_fit
        strategy, embeddings, interactions = self._strategy, self._embeddings, self._interactions
        widest = max(table.width for table in self._tables)
        if self._settings.shuffle:
            strategy, embeddings = shuffled_control(strategy, embeddings, widest, interactions, self._seed)
        return strategy.fit(embeddings, widest, interactions=interactions, seed=self._seed)

    def compute(self) -> None:
        """Compute the values of all tables, a table width at a time."""
        for width in dict.fromkeys(table.width for table in self._tables):
            tables = [table for table in self._tables if table.width == width]
            self._reductions[width] = self._fit.reduction(width)
            items = reduce_rows(self._fit.embeddings, self._reductions[width], width)
            checks.refuse_equal_rows(items, self._describe_source())
            self._has_value = items.has_value
            users = self._scale_rows(tables, items, width)
            if self._settings.missing == "mean":
                items = items.filled_()
            for table in tables:
                if table.side == "item":
                    self._writes.append((table, items))
                elif users is not None:
                    self._writes.append((table, users))

    def _scale_rows(self, tables: Sequence[EmbeddingTable], items: Rows, width: int) -> Rows | None:
        """Scale the items' values in place, and return the users' where there are any."""
        reduction, wanted = self._reductions[width], any(table.side == "user" for table in tables)
        if self._scale != "score" and self._user.follows_items(reduction):
            items.multiply_(factor_for_items(self._scale, tables, items))
            return self._user.rows(items, self._interactions, reduction) if wanted else None
        kept = self._kept_users(width)
        users = kept or self._user.rows(items, self._interactions, reduction)
        if self._scale == "score":
            factor = factor_for_scores(users, items, self._fit.strategy.score_std, users_follow=kept is None)
        else:
            factor = factor_for_items(self._scale, tables, items)
        items.multiply_(factor)
        if kept is None:
            users.multiply_(factor)
        return users

    def _kept_users(self, width: int) -> Rows | None:
        """Return the model's own user rows where the model keeps them in a table of this width."""
        if self._user.writes_tables:
            return None
        kept = (table.values for table in self._search.tables if table.side == "user" and table.width == width)
        values = next(kept, None)
        return None if values is None else Rows.of_all_but_padding(values.float().cpu().numpy())

    def check_values(self) -> None:
        """Refuse values that do not fit a table, or that vanish."""
        for table, rows in self._writes:
            checks.refuse_overflow(table, rows)
            checks.refuse_vanishing(table, rows, self._scale)

    def write_(self) -> tuple[TableReport, ...]:
        """Write all tables."""
        return tuple(write_rows_(table, rows, trainable=self._settings.trainable) for table, rows in self._writes)

    def undo_propagation_(self) -> None:
        """Change written factors so that a graph model's final vectors, which it scores by, are the factors."""
        is_fitted = not any(self._user.follows_items(values) for values in self._reductions.values())
        is_fitted = is_fitted and all(isinstance(values, Factors) for values in self._reductions.values())
        has_both = sorted(table.side for table, _ in self._writes) == ["item", "user"]
        if not (is_fitted and has_both) or self._settings.final_vectors is None:
            return
        final_vectors = self._settings.final_vectors(self._model)
        if final_vectors is not None:
            undo_propagation_(self._writes, final_vectors)

    def rescale_by_model_(self, written: tuple[TableReport, ...]) -> tuple[TableReport, ...]:
        """Scale what was written until the model's own scores are as wide as ``score`` says; return the new reports."""
        ask = self._settings.score_std
        if self._scale != "score" or ask is None:
            return written

        def std_at(factor: float) -> float | None:
            for (table, rows), report in zip(self._writes, written, strict=True):
                if not report.unit:
                    rewrite_rows_(table, rows, factor)
            return ask(self._model)

        factor = factor_for_model_scores(std_at, self._fit.strategy.score_std)
        return tuple(
            report if report.unit else replace(report, std_after=report.std_after * factor) for report in written
        )

    def report(self, written: tuple[TableReport, ...], seconds: float) -> InitReport:
        """Say what was done."""
        embeddings = self._fit.embeddings
        read = embeddings.embeddings if self._fit.strategy.needs_vectors else no_vectors(embeddings.tokens).embeddings
        users = self._user.has_rows(self._has_value, self._interactions)
        kept = {table.label: str(Exclusion.KEPT.of()) for table in self._search.tables if table not in self._tables}
        return InitReport(
            model=model_name(self._model),
            strategy=repr(self._fit.strategy),
            shuffled=self._settings.shuffle,
            encoder=read.encoder,
            source=read.source,
            fingerprint=read.fingerprint,
            llm_dim=read.width,
            reductions={width: reduction.to_dict() for width, reduction in self._reductions.items()},
            scale=str(self._scale),
            user=self._user.describe(next(iter(self._reductions.values()))),
            items=embeddings.n_items - 1,
            items_with_vector=len(embeddings.items),
            users=self._interactions.shape[0] - 1,
            users_with_items=int(users.sum()),
            tables=written,
            skipped={**kept, **{name: str(reason) for name, reason in self._search.skipped.items()}},
            notes=(*embeddings.warnings, *self._user.warnings(embeddings)),
            seconds=seconds,
        )

    def _describe_source(self) -> str:
        """Name what the items' values came from, for a message."""
        if self._strategy.needs_vectors:
            return f"the vectors in {self._embeddings.embeddings.source}"
        return repr(self._strategy)
