"""A look at vectors before training, and at trained tables after it: lengths, angles, spectrum, neighbours."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from texttable import Texttable

from recbole_llminit.co_consumption import item_degrees
from recbole_llminit.config import Config, InitOptions
from recbole_llminit.embeddings import AlignedEmbeddings, ItemEmbeddings
from recbole_llminit.encode_options import EncodeOptions
from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import read_embeddings
from recbole_llminit.model import find_tables, training_interactions
from recbole_llminit.quick_start import load_data, load_data_and_model
from recbole_llminit.spectrum import Spectrum
from recbole_llminit.strategy import Columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_QUERIES = 5
_NEAREST = 3
_SHOWN = 70


@dataclass(frozen=True)
class Neighbours:
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
        How many have a row, and how many have none.
    lengths : tuple of float
        The least, the median and the largest length of a row.
    mean_cosine : float
        The mean over all pairs of different rows, 0 for directions without a preference (anisotropy: Ethayarajh, EMNLP
        2019). Rows of zeros are left out.
    spectrum, centred : Spectrum
        Of the rows as they are, and less their mean.
    variance : ndarray of float, shape [width]
        Of each dimension.
    chosen : tuple of int
        The dimensions that a strategy keeps; empty where it mixes all, or none is asked.
    neighbours : tuple of Neighbours
        Of the most popular items.
    """

    name: str
    source: str
    rows: int
    missing: int
    lengths: tuple[float, float, float]
    mean_cosine: float
    spectrum: Spectrum
    centred: Spectrum
    variance: npt.NDArray[np.float64] = field(compare=False)
    chosen: tuple[int, ...] = ()
    neighbours: tuple[Neighbours, ...] = ()

    @classmethod
    def of(
        cls,
        name: str,
        embeddings: AlignedEmbeddings,
        *,
        chosen: tuple[int, ...] = (),
        neighbours: tuple[Neighbours, ...] = (),
    ) -> Measurement:
        """Measure aligned vectors in one pass."""
        lengths = np.zeros(embeddings.n_items)
        total, directions = np.zeros(embeddings.width), np.zeros(embeddings.width)
        gram = np.zeros((embeddings.width, embeddings.width))
        for ids, block in embeddings.blocks():
            rows = block.astype(np.float64)
            lengths[ids] = np.linalg.norm(rows, axis=1)
            total += rows.sum(axis=0)
            directions += (rows / np.where(lengths[ids] > 0, lengths[ids], 1)[:, None]).sum(axis=0)
            gram += rows.T @ rows
        count = len(embeddings.items)
        mean = total / count
        centred = gram - count * np.outer(mean, mean)
        of_rows = lengths[embeddings.items]
        pairs = int((of_rows > 0).sum())
        return cls(
            name=name,
            source=embeddings.embeddings.source,
            rows=count,
            missing=embeddings.n_items - 1 - count,
            lengths=(float(of_rows.min()), float(np.median(of_rows)), float(of_rows.max())),
            mean_cosine=float(directions @ directions - pairs) / (pairs * (pairs - 1)) if pairs > 1 else 0.0,
            spectrum=Spectrum.of_gram(gram),
            centred=Spectrum.of_gram(centred),
            variance=np.maximum(np.diag(centred), 0) / count,
            chosen=chosen,
            neighbours=neighbours,
        )

    def __str__(self) -> str:
        """Draw the figures as a table, and the neighbours below it."""
        width = len(self.variance)
        rows = [
            ["source", self.source],
            ["rows", f"{self.rows:,} of {width} dimensions; {self.missing:,} without"],
            ["length", "{:.4f} to {:.4f}, median {:.4f}".format(*(self.lengths[place] for place in (0, 2, 1)))],
            ["mean cosine", f"{self.mean_cosine:.3f} over all pairs"],
            ["effective rank", f"{self.spectrum.effective_rank:.1f} (centred {self.centred.effective_rank:.1f})"],
            [
                "information abundance",
                f"{self.spectrum.information_abundance:.1f} (centred {self.centred.information_abundance:.1f})",
            ],
            ["variance", f"{self._directions_of(0.9)} of {width} directions hold 90 %, {self._unused}"],
        ]
        if self.chosen:
            share = self.variance[list(self.chosen)].sum() / (self.variance.sum() or 1)
            first = ", ".join(str(dimension) for dimension in self.chosen[:8])
            rows.append(["chosen", f"{len(self.chosen)} dimensions ({first}, ...) hold {share:.0%} of the variance"])
        table = Texttable(max_width=0)
        table.set_deco(Texttable.BORDER | Texttable.HEADER | Texttable.VLINES)
        table.set_cols_dtype(["t", "t"])
        table.header(["inspect", self.name])
        table.add_rows(rows, header=False)
        lines = [str(table.draw())]
        for found in self.neighbours:
            lines.append(f"{_shortened(found.item)} ({found.interactions:,} training interactions)")
            lines += [f"  {cosine:.3f}  {_shortened(other)}" for other, cosine in found.nearest]
        return "\n".join(lines)

    @property
    def _unused(self) -> str:
        constant = int((self.variance <= 1e-12 * (self.variance.max() or 1)).sum())
        return f"{constant} dimensions are constant" if constant else "no dimension is constant"

    def _directions_of(self, share: float) -> int:
        """Count the leading directions that hold a share of the variance."""
        variances = np.asarray(self.centred.singular_values) ** 2
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
            If matplotlib is not installed, or the file cannot be written.
        """
        if importlib.util.find_spec("matplotlib") is None:
            raise LLMInitError('a figure needs matplotlib: pip install "recbole-llminit[compare]"')
        try:
            self._draw().savefig(path, dpi=130, facecolor="white", format="png")
        except OSError as error:
            raise LLMInitError(f"the figure cannot be written to {path} ({error})") from error

    def _draw(self) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(4.6 * (1 + len(self.parts)), 3.4), layout="constrained")
        spectra, *variances = figure.subplots(1, 1 + len(self.parts))
        for part in self.parts:
            values = np.asarray(part.centred.singular_values)
            label = f"{part.name}: effective rank {part.centred.effective_rank:.0f}"
            spectra.plot(np.arange(1, len(values) + 1), values / (values[0] or 1), label=label)
        spectra.set(
            yscale="log", ylim=(1e-3, 1.5), xlabel="direction", ylabel="singular value over the largest, centred"
        )
        spectra.legend(frameon=False, fontsize=8, loc="lower left")
        for panel, part in zip(variances, self.parts, strict=True):
            kept = np.isin(np.arange(len(part.variance)), part.chosen)
            panel.bar(np.arange(len(kept)), part.variance, width=1, color=np.where(kept, "#d95f02", "#8c8c8c"))
            panel.set(xlabel="dimension", ylabel="variance", title=part.name + ", chosen marked" * bool(part.chosen))
        for panel in (spectra, *variances):
            panel.spines[["top", "right"]].set_visible(False)
        figure.suptitle(self.title, fontsize=10)
        return figure


def inspect_vectors(config: Config) -> Inspection:
    """Measure the vectors of a configuration's dataset, and the item values that its strategy makes of them.

    Parameters
    ----------
    config : Config
        With an ``init_strategy`` that reads vectors; ``embedding_size`` is the number of values.

    Raises
    ------
    LLMInitError
        If there is no such strategy, the vectors cannot be had, or the table would be wider than they are.
    """
    options = InitOptions.from_config(config)
    if options.strategy is None or not options.strategy.needs_vectors:
        raise LLMInitError(f"init_strategy is {config['init_strategy']}, which reads no vectors: give one that does")
    dataset, train_data = load_data(config)
    interactions = training_interactions(train_data, config)
    tokens = dataset.field2id_token[dataset.iid_field]
    embeddings = read_embeddings(options.provide_embedding(), dataset.iid_field).align(tokens, config["dataset"])
    given = embeddings.shuffled(config["seed"]) if options.shuffle else embeddings
    prepared = options.strategy.prepare(given, interactions)
    size = config["embedding_size"]
    if size > embeddings.width:
        raise LLMInitError(
            f"embedding_size {size} is larger than the {embeddings.width} dimensions of {embeddings.embeddings.encoder}"
        )
    reduction = options.strategy.fit(prepared, size, interactions=interactions, seed=config["seed"])
    chosen = reduction.dimensions if isinstance(reduction, Columns) else ()
    values = np.concatenate([reduction(block) for _, block in prepared.blocks()])  # type: ignore[operator]
    order = np.concatenate([ids for ids, _ in prepared.blocks()])
    start = _aligned(values[np.argsort(order)], tokens, prepared.items, repr(options.strategy))
    titles = _titles(config, tokens)
    degrees = item_degrees(interactions)
    return Inspection(
        f"{config['dataset']}, {embeddings.embeddings.encoder}",
        (
            Measurement.of("vectors", given, chosen=chosen, neighbours=tuple(_neighbours(given, titles, degrees))),
            Measurement.of("start", start, neighbours=tuple(_neighbours(start, titles, degrees))),
        ),
        embeddings.warnings,
    )


def inspect_checkpoint(path: str | Path) -> Inspection:
    """Measure the user and item tables of a trained model; no vectors are needed.

    Parameters
    ----------
    path : path
        A checkpoint that you or someone you trust trained: RecBole's checkpoints are pickles.

    Raises
    ------
    LLMInitError
        If it is no checkpoint of RecBole's, or the model has no tables that can be found.
    """
    config, model, dataset, train_data, _, _ = load_data_and_model(path)
    degrees = item_degrees(training_interactions(train_data._dataset, config))
    fields = {"user": dataset.uid_field, "item": dataset.iid_field}
    parts = []
    for table in find_tables(model, config, dataset).tables:
        tokens = dataset.field2id_token[fields[table.side]]
        values = table.values[1:].float().cpu().numpy()
        aligned = _aligned(values, tokens, np.arange(1, table.rows), f"{table.side}s of {config['model']}, {path}")
        titles = _titles(config, tokens)
        neighbours = tuple(_neighbours(aligned, titles, degrees)) if table.side == "item" else ()
        parts.append(Measurement.of(table.label, aligned, neighbours=neighbours))
    return Inspection(f"{config['dataset']}, {config['model']}, {Path(path).name}", tuple(parts))


def _aligned(
    values: npt.NDArray[Any], tokens: Sequence[str], ids: npt.NDArray[np.int64], source: str
) -> AlignedEmbeddings:
    """Take the values of ascending ids as vectors."""
    rows = np.full(len(tokens), -1, dtype=np.int64)
    rows[ids] = np.arange(len(ids))
    named = np.asarray(tokens, dtype=object)[ids]
    return AlignedEmbeddings(ItemEmbeddings(named, (values,), source, ""), rows, tuple(str(token) for token in tokens))


def _titles(config: Any, tokens: Sequence[str]) -> Callable[[int], str]:
    """Return what names an item by its id: its text where there are any, else its token."""
    texts: Mapping[str, str] = {}
    try:
        found = EncodeOptions.from_settings(config.final_config_dict, Path(config["data_path"])).read_texts()
        texts = dict(zip(found.ids, found.texts, strict=True))
    except LLMInitError:
        # Vectors that came from elsewhere: there need not be any texts.
        texts = {}
    return lambda item: texts.get(str(tokens[item]), str(tokens[item]))


def _neighbours(
    embeddings: AlignedEmbeddings, titles: Callable[[int], str], degrees: npt.NDArray[np.float32]
) -> Iterator[Neighbours]:
    """Yield the nearest of the most popular items that have a vector."""
    items = embeddings.items
    popular = items[np.argsort(-degrees[items], kind="stable")[:_QUERIES]]
    asked = {int(item): row for ids, block in embeddings.blocks(popular) for item, row in zip(ids, block, strict=True)}
    queries = _unit(np.stack([asked[item] for item in popular]))
    cosines = np.full((len(popular), embeddings.n_items), -np.inf, dtype=np.float32)
    for ids, block in embeddings.blocks():
        cosines[:, ids] = queries @ _unit(block).T
    cosines[np.arange(len(popular)), popular] = -np.inf
    for item, row in zip(popular, cosines, strict=True):
        nearest = [other for other in np.argsort(-row, kind="stable")[:_NEAREST] if row[other] > -np.inf]
        yield Neighbours(
            titles(item), int(degrees[item]), tuple((titles(other), float(row[other])) for other in nearest)
        )


def _unit(rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    unit: npt.NDArray[np.float32] = rows.astype(np.float32)
    lengths = np.linalg.norm(unit, axis=1, keepdims=True)
    unit /= np.where(lengths > 0, lengths, 1)
    return unit


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]} ..."
