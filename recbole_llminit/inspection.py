"""What can be seen of vectors before training, and of trained tables: lengths, angles, spectrum, neighbors."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from recbole_llminit.encode.dataset_texts import read_texts
from recbole_llminit.encode.options import EncodeOptions
from recbole_llminit.errors import LLMInitError
from recbole_llminit.integration.config import Config
from recbole_llminit.integration.dataset import id_fields, training_interactions
from recbole_llminit.integration.init_inputs import InitInputs
from recbole_llminit.integration.model import build_model_from, find_tables
from recbole_llminit.integration.options import options_of
from recbole_llminit.integration.quick_start import load_data, load_data_and_model
from recbole_llminit.spectrum import Spectrum
from recbole_llminit.strategies.base import Fit, unit_rows
from recbole_llminit.strategies.canonical_correlation import CanonicalCorrelation, CanonicalFit
from recbole_llminit.strategies.co_consumption import item_degrees
from recbole_llminit.strategies.projection import Moments
from recbole_llminit.text_table import draw_table
from recbole_llminit.vectors.embeddings import AlignedEmbeddings, aligned_in_order
from recbole_llminit.vectors.tokens import examples

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_QUERIES = 5
_NEAREST = 3
_SHOWN = 70


@dataclass(frozen=True)
class Neighbors:
    """The items nearest to one by cosine.

    Parameters
    ----------
    item : str
        The item's text, or its token where there are no texts.
    interactions : int
        Its training interactions.
    nearest : tuple of (str, float)
        The others, and their cosines.
    """

    item: str
    interactions: int
    nearest: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Measurement:
    """What was measured of a matrix with a row for each item or user.

    Parameters
    ----------
    name : str
        What it is.
    source : str
        Where it came from.
    rows, missing : int
        The numbers of items or users with a row, and without.
    lengths : tuple of float
        The smallest, the median and the largest length of a row.
    mean_cosine : float
        The mean cosine of all pairs of different rows: 0 for directions without a preference (anisotropy: Ethayarajh,
        EMNLP 2019). Rows of zeros are not counted.
    spectrum, centered : Spectrum
        The singular values of the rows, and of the rows less their mean.
    variance : ndarray of float, shape [width]
        The variance of each dimension.
    chosen : tuple of int
        The dimensions that a strategy keeps; empty where it mixes all, or where no strategy is asked.
    neighbors : tuple of Neighbors
        The neighbors of the most popular items.
    adjusted_correlation : float or None
        The adjusted correlation of the vectors of co-consumed items (`CanonicalDirections`), where it was measured.
    """

    name: str
    source: str
    rows: int
    missing: int
    lengths: tuple[float, float, float]
    mean_cosine: float
    spectrum: Spectrum
    centered: Spectrum
    variance: npt.NDArray[np.float64] = field(compare=False)
    chosen: tuple[int, ...] = ()
    neighbors: tuple[Neighbors, ...] = ()
    adjusted_correlation: float | None = None

    @classmethod
    def of(
        cls,
        name: str,
        embeddings: AlignedEmbeddings,
        *,
        chosen: tuple[int, ...] = (),
        neighbors: tuple[Neighbors, ...] = (),
        adjusted_correlation: float | None = None,
    ) -> Measurement:
        """Measure aligned vectors, a block at a time."""
        lengths, directions = np.zeros(embeddings.n_items), np.zeros(embeddings.width)
        for ids, block in embeddings.blocks():
            rows = block.astype(np.float64)
            lengths[ids] = np.linalg.norm(rows, axis=1)
            directions += (rows / np.where(lengths[ids] > 0, lengths[ids], 1)[:, None]).sum(axis=0)
        moments = Moments.of(embeddings, np.ones(embeddings.n_items))
        count = moments.count
        of_rows = lengths[embeddings.items]
        pairs = int((of_rows > 0).sum())
        return cls(
            name=name,
            source=embeddings.embeddings.source,
            rows=count,
            missing=embeddings.n_items - 1 - count,
            lengths=(float(of_rows.min()), float(np.median(of_rows)), float(of_rows.max())),
            mean_cosine=float(directions @ directions - pairs) / (pairs * (pairs - 1)) if pairs > 1 else 0.0,
            spectrum=Spectrum.of_gram(count * (moments.covariance + np.outer(moments.mean, moments.mean))),
            centered=Spectrum.of_gram(count * moments.covariance),
            variance=np.diag(moments.covariance).copy(),
            chosen=chosen,
            neighbors=neighbors,
            adjusted_correlation=adjusted_correlation,
        )

    def __str__(self) -> str:
        """Draw the figures as a table, and the neighbors below it."""
        width = len(self.variance)
        rows = [
            ["source", self.source],
            ["rows", f"{self.rows:,} of {width} dimensions; {self.missing:,} without"],
            ["length", "{:.4f} to {:.4f}, median {:.4f}".format(*(self.lengths[place] for place in (0, 2, 1)))],
            ["mean cosine", f"{self.mean_cosine:.3f} over all pairs"],
            ["effective rank", f"{self.spectrum.effective_rank:.1f} (centered {self.centered.effective_rank:.1f})"],
            [
                "information abundance",
                f"{self.spectrum.information_abundance:.1f} (centered {self.centered.information_abundance:.1f})",
            ],
            ["variance", f"{self._directions_of(0.9)} of {width} directions hold 90%, {self._unused}"],
        ]
        if self.chosen:
            share = self.variance[list(self.chosen)].sum() / (self.variance.sum() or 1)
            rows.append(
                [
                    "chosen",
                    f"{len(self.chosen)} dimensions ({examples(self.chosen, 8)}) hold {share:.0%} of the variance",
                ]
            )
        if self.adjusted_correlation is not None:
            rows.append(
                ["adjusted correlation", f"{self.adjusted_correlation:.2f}, of the vectors of co-consumed items"]
            )
        lines = [draw_table(["inspect", self.name], rows)]
        for found in self.neighbors:
            lines.append(f"{_shortened(found.item)} ({found.interactions:,} training interactions)")
            lines += [f"  {cosine:.3f}  {_shortened(other)}" for other, cosine in found.nearest]
        return "\n".join(lines)

    @property
    def _unused(self) -> str:
        constant = int((self.variance <= 1e-12 * (self.variance.max() or 1)).sum())
        return f"{constant or 'none'} of the dimensions {'is' if constant in (0, 1) else 'are'} constant"

    def _directions_of(self, share: float) -> int:
        """Count the leading directions that hold a share of the variance."""
        variances = np.asarray(self.centered.singular_values) ** 2
        return int(np.searchsorted(np.cumsum(variances), share * variances.sum()) + 1) if variances.any() else 0


@dataclass(frozen=True)
class Inspection:
    """What was measured of vectors or tables; prints as tables.

    Parameters
    ----------
    title : str
        The dataset, or the checkpoint.
    parts : tuple of Measurement
        The vectors and the values a strategy makes of them, or the tables of a model.
    notes : tuple of str
        What looked wrong.
    """

    title: str
    parts: tuple[Measurement, ...]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n\n".join([*(str(part) for part in self.parts), *self.notes])

    def save_png(self, path: str | Path) -> None:
        """Draw the spectra, and the variance of each dimension with the chosen ones marked.

        Raises
        ------
        LLMInitError
            If matplotlib is not installed, or there is no such folder.
        """
        check_png(path)
        self._draw().savefig(path, dpi=130, facecolor="white")

    def _draw(self) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.6 * (1 + len(self.parts)), 3.4), layout="constrained")
        spectra, *variances = figure.subplots(1, 1 + len(self.parts))
        for part in self.parts:
            values = np.asarray(part.centered.singular_values)
            label = f"{part.name}: effective rank {part.centered.effective_rank:.0f}"
            spectra.plot(np.arange(1, len(values) + 1), values / (values[0] or 1), label=label)
        spectra.set(
            yscale="log", ylim=(1e-3, 1.5), xlabel="direction", ylabel="singular value over the largest, centered"
        )
        spectra.legend(frameon=False, fontsize=8, loc="lower left")
        for panel, part in zip(variances, self.parts, strict=True):
            kept = np.isin(np.arange(len(part.variance)), part.chosen)
            panel.bar(np.arange(len(kept)), part.variance, width=1, color=np.where(kept, "#d95f02", "#8c8c8c"))
            panel.set(
                xlabel="dimension", ylabel="variance", title=f"{part.name}, chosen marked" if part.chosen else part.name
            )
        for panel in (spectra, *variances):
            panel.spines[["top", "right"]].set_visible(False)
        figure.suptitle(self.title, fontsize=10)
        return figure


def check_png(path: str | Path) -> None:
    """Raise `LLMInitError` where `Inspection.save_png` could not write, before anything is measured."""
    if importlib.util.find_spec("matplotlib") is None:
        raise LLMInitError(
            'a figure needs matplotlib: pip install "recbole-llminit[compare]" (in a clone: ".[compare]")'
        )
    path = Path(path)
    if path.suffix.lower() != ".png" or not path.absolute().parent.is_dir():
        raise LLMInitError(f"the figure cannot be written to {path}: expected a file .png in a folder that is there")


def inspect_vectors(config: Config) -> Inspection:
    """Measure the vectors of a configuration's dataset, and the tables of its model as initialized from them.

    Parameters
    ----------
    config : Config
        With an ``init_strategy`` that reads vectors.

    Raises
    ------
    LLMInitError
        If there is no such strategy, or the model could not be initialized from the vectors.
    """
    options = options_of(config)
    if options.strategy is None or not options.strategy.needs_vectors:
        raise LLMInitError(f"init_strategy is {config['init_strategy']}, which reads no vectors: give one that does")
    dataset, train_data = load_data(config)
    inputs = InitInputs.read(options, config, train_data)
    if inputs is None or options.encode is None:
        raise LLMInitError("init_strategy is none: a stock run has no vectors")
    model = build_model_from(None, config, train_data)
    fit = inputs.fit(model)
    report = inputs.initialize_(model, fit)
    # Of a model's tables of several widths the items' first.
    width = next(table.shape[1] for table in report.tables if table.side == "item")
    chosen = tuple(report.reductions[width].get("dimensions", ()))
    notes, adjusted_correlation = report.warnings, None
    try:
        adjusted_correlation = _adjusted_correlation(fit, inputs)
    except LLMInitError as error:
        notes = (*notes, f"no adjusted correlation was measured: {error}")
    items = _Items(config, dataset, inputs.interactions, options.encode)
    parts = (
        Measurement.of(
            "vectors",
            inputs.vectors,
            chosen=chosen,
            neighbors=tuple(items.neighbors(inputs.vectors)),
            adjusted_correlation=adjusted_correlation,
        ),
        *items.measure_tables(model, f"the initialization, {report.strategy}"),
    )
    return Inspection(f"{config['dataset']}, {inputs.vectors.embeddings.encoder}", parts, notes)


def _adjusted_correlation(fit: Fit, inputs: InitInputs) -> float:
    """Return that of the vectors under cca's defaults: from the fit where it is one of these, else from a new one."""
    defaults = CanonicalCorrelation()
    if not isinstance(fit, CanonicalFit) or fit.strategy != defaults or fit.embeddings is not inputs.vectors:
        fit = defaults.fit(inputs.vectors, 1, interactions=inputs.interactions, seed=inputs.seed)
    return fit.canonical.adjusted_correlation


def inspect_checkpoint(path: str | Path, *, trust_pickles: bool = False) -> Inspection:
    """Measure the user and item tables of a trained model; no vectors are needed.

    Parameters
    ----------
    path : path
        A checkpoint.
    trust_pickles : bool
        Whether you trust whoever made it; see `load_data_and_model`.

    Raises
    ------
    LLMInitError
        If it is no checkpoint of RecBole's, or the model has no tables that can be found.
    """
    config, model, dataset, train_data, _, _ = load_data_and_model(path, trust_pickles=trust_pickles)
    interactions = training_interactions(train_data._dataset, config)
    encode = EncodeOptions.from_settings(config.final_config_dict, Path(config["data_path"]))
    parts = _Items(config, dataset, interactions, encode).measure_tables(model, str(path))
    return Inspection(f"{config['dataset']}, {config['model']}, {Path(path).name}", tuple(parts))


class _Items:
    """The items of a dataset: their titles, how popular they are, and their nearest neighbors in a table."""

    def __init__(self, config: Any, dataset: Any, interactions: csr_matrix, encode: EncodeOptions) -> None:
        self._config = config
        self._dataset = dataset
        self._degrees = item_degrees(interactions)
        self._tokens = {side: dataset.field2id_token[field] for side, field in id_fields(dataset).items()}
        # Vectors that came from elsewhere: there need not be any texts.
        texts = read_texts(encode) if encode.text_file.is_file() else None
        self._texts = {} if texts is None else dict(zip(texts.ids, texts.texts, strict=True))

    def measure_tables(self, model: Any, source: str) -> Iterator[Measurement]:
        """Yield the measurements of a model's user and item tables, without ``[PAD]``."""
        for table in find_tables(model, self._config, self._dataset).tables:
            values = table.values[1:].float().cpu().numpy()
            aligned = aligned_in_order(self._tokens[table.side], values, source, "")
            neighbors = tuple(self.neighbors(aligned)) if table.side == "item" else ()
            yield Measurement.of(table.label, aligned, neighbors=neighbors)

    def neighbors(self, embeddings: AlignedEmbeddings) -> Iterator[Neighbors]:
        """Yield the nearest of the most popular items that have a vector."""
        items = embeddings.items
        popular = items[np.argsort(-self._degrees[items], kind="stable")[:_QUERIES]]
        asked = dict(pair for ids, block in embeddings.blocks(popular) for pair in zip(ids, block, strict=True))
        queries = unit_rows(np.stack([asked[item] for item in popular]))
        cosines = np.full((len(popular), embeddings.n_items), -np.inf, dtype=np.float32)
        for ids, block in embeddings.blocks():
            cosines[:, ids] = queries @ unit_rows(block).T
        cosines[np.arange(len(popular)), popular] = -np.inf
        for item, row in zip(popular, cosines, strict=True):
            nearest = [other for other in np.argsort(-row, kind="stable")[:_NEAREST] if row[other] > -np.inf]
            named = tuple((self._title(other), float(row[other])) for other in nearest)
            yield Neighbors(self._title(item), int(self._degrees[item]), named)

    def _title(self, item: int) -> str:
        token = str(self._tokens["item"][item])
        return self._texts.get(token, token)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."
