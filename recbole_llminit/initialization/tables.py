"""Where a model keeps a row for each user and each item."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from recbole_llminit.errors import LLMInitError
from recbole_llminit.suggest import suggest

Side = Literal["user", "item"]

_UNREAD = "RecBole makes it, and the model never reads it"

# Tables that their number of rows would take for the users' or the items': (model, parameter) and what they are.
OTHER_MEANING: Mapping[tuple[str, str], str] = {
    ("NNCF", "user_neigh_embedding.weight"): "items in their role as neighbours of a user, filtered and pooled",
    ("NNCF", "item_neigh_embedding.weight"): "users in their role as neighbours of an item, filtered and pooled",
    ("TransRec", "bias.weight"): "a bias per item",
    ("FOSSIL", "user_lambda.weight"): "how much each of a user's last items weighs",
    ("KSR", "entity_embedding.weight"): "pre-trained vectors of the items' entities",
    ("GRU4RecKG", "entity_embedding.weight"): "pre-trained vectors of the items' entities",
    ("LR", "token_embedding_table.embedding.weight"): _UNREAD,
    ("FFM", "token_embedding_table.embedding.weight"): _UNREAD,
    ("DIN", "embedding_layer.token_embedding_table.user.embedding.weight"): _UNREAD,
    ("NPE", "embedding_seq_item.weight"): _UNREAD,
}


# Layers whose columns are the items and then others: DiffRec's time steps.
_FURTHER_COLUMNS = (("DiffRec", "mlp.mlp_layers.mlp_layers.1"),)

# What the rows of a table can be, and the sides it then belongs to where no entities come into it.
_Meaning = Literal["user", "item", "entity", "both"]
_SIDES: Mapping[_Meaning, tuple[Side, ...]] = {"user": ("user",), "item": ("item",), "both": ("user", "item")}
_WORDS = {"user": "user", "item": "item", "entity": "(?<![a-z])entit(y|ies)"}
_PLURAL = {"user": "users", "item": "items", "entity": "entities", "both": "users and items together"}


@dataclass(frozen=True)
class EmbeddingTable:
    """The part of a trainable matrix that has one row (or column) per user or per item.

    Parameters
    ----------
    name : str
        The parameter's name in the model's ``state_dict``.
    side : {"user", "item"}
        What its rows stand for.
    weight : torch.nn.Parameter
        The whole parameter, two-dimensional.
    rows : int
        How many users or items.
    first : int
        Where their rows begin: row ``first + i`` is RecBole's id ``i``.
    columns : bool
        Whether they are columns instead, as in the first layer of an autoencoder.
    """

    name: str
    side: Side
    weight: nn.Parameter
    rows: int
    first: int = 0
    columns: bool = False

    @property
    def values(self) -> Tensor:
        """A view of the weight, without gradient, shape ``[rows, width]``."""
        return view(self.weight, self.first, self.rows, columns=self.columns)

    @property
    def label(self) -> str:
        """The part of the parameter it is, as in Python: ``name``, ``name.T`` or ``name[41:71]``."""
        name = f"{self.name}.T" if self.columns else self.name
        whole = self.weight.shape[1 if self.columns else 0]
        return name if self.rows == whole else f"{name}[{self.first}:{self.first + self.rows}]"

    @property
    def width(self) -> int:
        """The number of values per user or item."""
        return int(self.weight.shape[0 if self.columns else 1])


@dataclass(frozen=True)
class FoundTables:
    """What there is to write in a model, and what is not written.

    Parameters
    ----------
    tables : tuple of EmbeddingTable
        The tables of users and items.
    skipped : mapping of str to str
        Why not, for each other table by name.
    """

    tables: tuple[EmbeddingTable, ...]
    skipped: Mapping[str, str]


def view(weight: Tensor, first: int, rows: int, *, columns: bool) -> Tensor:
    """Return ``rows`` rows (or columns) of a matrix as a view without gradient, shape ``[rows, width]``."""
    whole = weight.detach()
    return (whole.T if columns else whole)[first : first + rows]


def find_embedding_tables(
    model: nn.Module,
    n_users: int,
    n_items: int,
    named: Mapping[Side, Sequence[str]] | None = None,
    id_fields: Mapping[Side, str] | None = None,
) -> FoundTables:
    """Find the user and item tables of a built model: by their number of rows, or by ``named``.

    Looked at are the trainable weights of ``torch.nn.Embedding`` modules and two-dimensional parameters that a module
    holds itself. A table belongs to users or items if it has a row for each; to items if its name says so and it has
    one row more (a mask token) or a row for each entity (``model.n_entities``; the items come first); and to both if
    it has ``n_users + n_items`` rows (users first) or is the table of all token fields of a context-aware model.
    Entities are the items where there is no other item table. What a name says counts: 'user', 'item', 'entity' in it
    rule out the others, and a table whose name says nothing is left alone where others' say whose they are.

    Parameters
    ----------
    model : torch.nn.Module
        The model, after its constructor.
    n_users, n_items : int
        RecBole's counts, with ``[PAD]``.
    named : mapping, optional
        ``{"user": [...], "item": [...]}``, parameter names that replace the search (``init_tables``): ``name``,
        ``name.T`` where users or items are the columns, ``name[41:71]`` where they are these rows.
    id_fields : mapping, optional
        The fields of user and item ids in a table of token fields (``user_id`` and ``item_id`` if left out).

    Raises
    ------
    LLMInitError
        If there is no item table (items in linear layers are not taken unless named), a name does not exist or does not
        fit, or the numbers of rows and the names do not tell whose a table is.
    """
    counts: dict[Side, int] = {"user": n_users, "item": n_items}
    fields = id_fields or {"user": "user_id", "item": "item_id"}
    if named:
        tables = _named_tables(model, counts, fields, named)
        written = {table.name for table in tables}
        others = [name for name, _, is_embedding in _candidates(model) if is_embedding and name not in written]
        return FoundTables(tuple(tables), dict.fromkeys(others, "not named in init_tables"))
    tables, skipped = _search(model, counts, fields)
    if not any(table.side == "item" for table in tables):
        raise LLMInitError(_nothing_found(model, counts, tables, skipped))
    return FoundTables(tuple(tables), skipped)


def model_name(model: nn.Module) -> str:
    """Return the name of the user's model, whatever the subclass made of it is called."""
    return str(getattr(model, "stock_class", type(model)).__name__)


def _search(
    model: nn.Module, counts: Mapping[Side, int], fields: Mapping[Side, str]
) -> tuple[list[EmbeddingTable], dict[str, str]]:
    """Return a model's tables, and for its other embeddings the reason why they are none."""
    tables: list[EmbeddingTable] = []
    skipped: dict[str, str] = {}
    unsaid: list[tuple[str, nn.Parameter, list[_Meaning]]] = []
    entities: list[tuple[str, nn.Parameter]] = []
    slices = _token_slices(model, fields)
    for name, weight, is_embedding in _candidates(model):
        said = [word for word in ("user", "item", "entity") if re.search(_WORDS[word], name.lower())]
        meanings = _meanings(weight.shape[0], said, counts, getattr(model, "n_entities", None))
        reason = _other_meaning(model, name, weight)
        if reason or (name not in slices and not meanings):
            if is_embedding:
                whose = f"not those of the {_joined(said)}" if said else "neither users nor items"
                skipped[name] = reason or f"{weight.shape[0]:,} rows, {whose}"
        elif name in slices:
            tables += _placed(name, weight, slices[name], counts)
            if not slices[name]:
                skipped[name] = "features, no ids"
        elif meanings == ["entity"]:
            entities.append((name, weight))
        elif said:
            tables += _placed(name, weight, _decided(model, name, weight, meanings, counts), counts)
        else:
            unsaid.append((name, weight, meanings))
    names_speak = bool(tables or entities)
    for name, weight, meanings in unsaid:
        if names_speak:
            skipped[name] = f"as many rows as {_joined(meanings)}, but other tables' names say whose they are"
        else:
            tables += _placed(name, weight, _decided(model, name, weight, meanings, counts), counts)
    items_have_a_table = any(table.side == "item" for table in tables)
    for name, weight in entities:
        if items_have_a_table:
            skipped[name] = "entities, beside the items' own table"
        else:
            tables.append(EmbeddingTable(name, "item", weight, counts["item"]))
    for label, side in _linear_layers(model, counts):
        skipped[label] = f"a linear layer as long as there are {side}s, not named in init_tables"
    return tables, skipped


def _exception(model: nn.Module, name: str) -> str | None:
    return next(
        (OTHER_MEANING[key] for entry in type(model).__mro__ if (key := (entry.__name__, name)) in OTHER_MEANING), None
    )


def _other_meaning(model: nn.Module, name: str, weight: nn.Parameter) -> str | None:
    exception = _exception(model, name)
    if exception:
        return exception
    if not weight.requires_grad:
        return "frozen by the model"
    if weight.shape[1] == 1:
        return "one number a row"
    return "positions" if re.search(r"(?<![a-z])position", name.lower()) else None


def _meanings(rows: int, said: Sequence[str], counts: Mapping[Side, int], n_entities: int | None) -> list[_Meaning]:
    """Return what a table of so many rows can be, given what its name says."""
    n_users, n_items = counts["user"], counts["item"]
    possible: dict[_Meaning, bool] = {
        "user": rows == n_users and said in ([], ["user"], ["user", "item"]),
        "item": (rows == n_items and said in ([], ["item"], ["user", "item"]))
        or (said == ["item"] and rows in (n_items + 1, n_entities)),
        "entity": rows == n_entities and said in ([], ["entity"]),
        "both": rows == n_users + n_items and said in ([], ["user", "item"]),
    }
    return [meaning for meaning, fits in possible.items() if fits]


def _decided(
    model: nn.Module, name: str, weight: nn.Parameter, meanings: Sequence[_Meaning], counts: Mapping[Side, int]
) -> dict[Side, int]:
    """Return where users and items begin in a table that can mean one thing."""
    if len(meanings) > 1:
        raise LLMInitError(
            f"{model_name(model)} has the table {name} of {weight.shape[0]:,} rows, and there are as many "
            f"{' as '.join(_PLURAL[meaning] for meaning in meanings)}: name its tables, e.g. "
            f"init_tables: {{user: [...], item: [{name}]}}"
        )
    return {side: counts["user"] if (side, meanings[0]) == ("item", "both") else 0 for side in _SIDES[meanings[0]]}


def _placed(
    name: str, weight: nn.Parameter, starts: Mapping[Side, int], counts: Mapping[Side, int]
) -> list[EmbeddingTable]:
    return [EmbeddingTable(name, side, weight, counts[side], first) for side, first in starts.items()]


def _joined(words: Sequence[str]) -> str:
    return " and ".join(_PLURAL[word] for word in words)


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """Yield the matrices that may be tables, and whether each is an embedding; else a module holds it itself."""
    of_embedding = (nn.Embedding, nn.EmbeddingBag)
    own: dict[int, bool] = {}
    for module in model.modules():
        base = next(entry for entry in type(module).__mro__ if entry.__module__.startswith("torch.nn."))
        if base in (*of_embedding, nn.Module, nn.ParameterList, nn.ParameterDict):
            own.update((id(parameter), base in of_embedding) for parameter in module.parameters(recurse=False))
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and id(parameter) in own:
            yield name, parameter, own[id(parameter)]


def _token_slices(model: nn.Module, fields: Mapping[Side, str]) -> dict[str, dict[Side, int]]:
    """Return where users and items begin in the tables of all token fields, by parameter name.

    Source: ``ContextRecommender`` (``recbole/model/abstract_recommender.py``), ``ContextSeqEmbAbstractLayer``
    (``recbole/model/layers.py``), ``FieldAwareFactorizationMachine`` (``context_aware_recommender/ffm.py``).
    """
    found: dict[str, dict[Side, int]] = {}
    for path, module in model.named_modules():
        names: Any = getattr(module, "token_field_names", None) or getattr(module, "token_feature_names", None)
        sizes: Any = getattr(module, "token_field_dims", None) or getattr(module, "token_feature_dims", None)
        if not names or not sizes:
            continue
        groups = (
            {f"{key}.": (names[key], sizes[key]) for key in names} if isinstance(names, dict) else {"": (names, sizes)}
        )
        for group, (of_group, sizes_of_group) in groups.items():
            starts = {field: sum(sizes_of_group[:index]) for index, field in enumerate(of_group)}
            slices: dict[Side, int] = {side: starts[field] for side, field in fields.items() if field in starts}
            pattern = re.compile(
                re.escape(f"{path}." if path else "") + r"token_embedding(s|_table)\." + re.escape(group)
            )
            for name, weight in model.named_parameters():
                if pattern.match(name) and weight.shape[0] == sum(sizes_of_group):
                    found[name] = slices
    return found


def _linear_layers(model: nn.Module, counts: Mapping[Side, int]) -> Iterator[tuple[str, Side]]:
    """Yield the linear layers with a row or a column for each user or item, as ``init_tables`` names them.

    A layer that fits in more than one way is not among them: with as many users as items, or as hidden units.
    """
    for path, module in model.named_modules():
        if not isinstance(module, nn.Linear) or not module.weight.requires_grad:
            continue
        sizes = {f"{path}.weight": module.out_features, f"{path}.weight.T": module.in_features}
        fitting = [(label, side) for label, size in sizes.items() for side, count in counts.items() if size == count]
        if len(fitting) == 1:
            yield fitting[0]
        elif (model_name(model), path) in _FURTHER_COLUMNS:
            yield f"{path}.weight.T", "item"


def _nothing_found(
    model: nn.Module, counts: Mapping[Side, int], tables: Sequence[EmbeddingTable], skipped: Mapping[str, str]
) -> str:
    name = model_name(model)
    linear = list(_linear_layers(model, counts))
    if any(side == "item" for _, side in linear):
        sides: dict[Side, list[str]] = {"user": [table.name for table in tables], "item": []}
        for label, side in linear:
            sides[side].append(label)
        line = ", ".join(f"{side}: [{', '.join(names)}]" for side, names in sides.items() if names)
        return (
            f"{name} has no item embedding table, its items are in linear layers: to start those from the vectors add "
            f"init_tables: {{{line}}}, or remove init_strategy"
        )
    layers = ", ".join(
        f"{path}.weight {tuple(module.weight.shape)}"
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and set(module.weight.shape) & set(counts.values())
    )
    if layers:
        return (
            f"{name} has no item embedding table, and of its linear layers {layers} it cannot be said which hold items "
            f"({counts['item']:,}; users: {counts['user']:,}): name them, e.g. init_tables: {{item: [NAME, NAME.T]}} "
            f"(.T where items are the columns), or remove init_strategy"
        )
    shapes = {label: tuple(weight.shape) for label, weight, _ in _candidates(model)}
    reasons = {**{table.name: "users" for table in tables}, **skipped}
    others = "; ".join(f"{label} {shapes[label]}: {reason}" for label, reason in reasons.items())
    return (
        f"{name} has no trainable item embedding table ({counts['item']:,} rows; it has {others or 'none'}): "
        f"remove init_strategy, choose a model that has one, or name its tables with init_tables"
    )


def _named_tables(
    model: nn.Module, counts: Mapping[Side, int], fields: Mapping[Side, str], named: Mapping[Side, Sequence[str]]
) -> list[EmbeddingTable]:
    # A weight that two modules share has two names.
    every = model.named_parameters(remove_duplicate=False)
    parameters = {name: weight for name, weight in every if weight.dim() == 2}
    slices = _token_slices(model, fields)
    tables: list[EmbeddingTable] = []
    for side, labels in named.items():
        for label in dict.fromkeys(labels):
            table = _named_table(model, label, side, parameters, counts, slices)
            for other in tables:
                if other.weight is table.weight and _overlap(other, table):
                    raise LLMInitError(f"init_tables names {label!r} and {other.label!r}, which overlap: leave one out")
            tables.append(table)
    return tables


def _named_table(
    model: nn.Module,
    label: str,
    side: Side,
    parameters: Mapping[str, nn.Parameter],
    counts: Mapping[Side, int],
    slices: Mapping[str, Mapping[Side, int]],
) -> EmbeddingTable:
    """Find what an entry of ``init_tables`` says, and raise where it does not fit."""
    name, columns, first, stop = label, False, None, None
    if label not in parameters:
        parts = re.fullmatch(r"(?P<name>.+?)(?P<columns>\.T)?(\[(?P<first>\d+):(?P<stop>\d+)\])?", label)
        if parts:
            name, columns = parts["name"], parts["columns"] is not None
            first, stop = (None if parts[key] is None else int(parts[key]) for key in ("first", "stop"))
    if name not in parameters:
        known = [f"{path}.T" if columns else path for path in parameters]
        raise LLMInitError(
            f"init_tables names {label!r}, which {model_name(model)} does not have{suggest(label, known, cutoff=0.7)} "
            f"(it has {', '.join(parameters) or 'no table'})"
        )
    if _exception(model, name) == _UNREAD:
        raise LLMInitError(f"init_tables names {label!r}, but {_UNREAD}: name another table, or remove init_strategy")
    weight, count = parameters[name], counts[side]
    if first is not None and stop is not None:
        if stop - first != count or stop > weight.shape[1 if columns else 0]:
            raise LLMInitError(
                f"init_tables names {label!r} as a table of {side}s: expected {count:,} rows or columns of its "
                f"{tuple(weight.shape)}, one for each of the {side}s"
            )
        return EmbeddingTable(name, side, weight, count, first, columns)
    if name in slices and not columns:
        if side not in slices[name]:
            raise LLMInitError(
                f"init_tables names {label!r} as a table of {side}s, but it holds features and no {side} ids"
            )
        return EmbeddingTable(name, side, weight, count, slices[name][side])
    if not columns and weight.shape[0] == counts["user"] + counts["item"]:
        return EmbeddingTable(name, side, weight, count, counts["user"] if side == "item" else 0)
    table = EmbeddingTable(name, side, weight, count, 0, columns)
    _refuse_misfit(model, table, counts)
    return table


def _refuse_misfit(model: nn.Module, table: EmbeddingTable, counts: Mapping[Side, int]) -> None:
    """Raise where the numbers of rows and columns say that something else was meant."""
    rows, others = (int(size) for size in (table.weight.shape[::-1] if table.columns else table.weight.shape))
    linear = {id(module.weight): path for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    if table.columns or id(table.weight) in linear:
        further = table.columns and (model_name(model), linear.get(id(table.weight))) in _FURTHER_COLUMNS
        fits = id(table.weight) in linear and (rows == table.rows or (further and rows > table.rows))
    else:
        # A mask token or entities may follow; but as many rows as the other side has are the other side's.
        entities = getattr(model, "n_entities", None) if table.side == "item" else None
        other_count = counts["user" if table.side == "item" else "item"]
        fits = rows == table.rows or (
            rows in (table.rows + 1, entities) and (rows != other_count or table.side in table.name.lower())
        )
    if not fits:
        name = f"{table.name}{'.T' * table.columns}"
        turned = f", or {table.name}{'.T' * (not table.columns)}, which has {others:,}"
        some = f", or which, as {name}[0:{table.rows}]" if rows > table.rows else ""
        raise LLMInitError(
            f"init_tables names {name} as a table of {table.side}s, but it has {rows:,} "
            f"{'columns' if table.columns else 'rows'} for {table.rows:,} {table.side}s: expected one for each{some}"
            f"{turned if id(table.weight) in linear and others == table.rows else ''}"
        )


def _overlap(one: EmbeddingTable, other: EmbeddingTable) -> bool:
    return one.columns != other.columns or max(one.first, other.first) < min(
        one.first + one.rows, other.first + other.rows
    )
