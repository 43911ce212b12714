"""The models that need an exception, in one list: what is special in each, and why.

A model stands here by the name of its class. What `find_entry` looks up holds for subclasses as well.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

OTHER_MEANING: Mapping[tuple[str, str], str] = {
    ("NNCF", "user_neigh_embedding.weight"): "items in their role as neighbors of a user, filtered and pooled",
    ("NNCF", "item_neigh_embedding.weight"): "users in their role as neighbors of an item, filtered and pooled",
    ("TransRec", "bias.weight"): "a bias per item",
    ("FOSSIL", "user_lambda.weight"): "how much each of a user's last items weighs",
    ("KSR", "entity_embedding.weight"): "pre-trained vectors of the items' entities",
    ("GRU4RecKG", "entity_embedding.weight"): "pre-trained vectors of the items' entities",
}
"""Tables (model, parameter) that their number of rows would take for the users' or the items', and what they are."""

NEVER_READ: frozenset[tuple[str, str]] = frozenset(
    {
        ("LR", "token_embedding_table.embedding.weight"),
        ("FFM", "token_embedding_table.embedding.weight"),
        ("DIN", "embedding_layer.token_embedding_table.user.embedding.weight"),
        ("NPE", "embedding_seq_item.weight"),
    }
)
"""Tables (model, parameter) that RecBole makes and the model never reads: they get no gradient."""

FURTHER_COLUMNS: frozenset[tuple[str, str]] = frozenset({("DiffRec", "mlp.mlp_layers.mlp_layers.1")})
"""Linear layers (model, module) whose columns are the items and then others: DiffRec appends its time steps."""

CLOSED_FORM: frozenset[str] = frozenset({"NCEPLRec"})
"""Models without a trainable table that RecBole calls general, and not traditional: NCEPLRec solves an SVD."""

PRETRAINED_KEYS: Mapping[str, tuple[str, ...] | None] = {
    "use_pretrain": None,
    "pretrain_path": None,
    "warm_up": None,
    "train_method": ("after_pretrain",),
    "train_stage": ("critic_pretrain", "finetune"),
}
"""Keys, and those of their values (None: any), that make the constructors of NeuMF, NAIS, KD_DAGFM, ConvNCF, RaCT and
S3Rec read a checkpoint."""

LINEAR_PROPAGATION: frozenset[str] = frozenset({"LightGCN", "NCL", "SGCL", "SGL"})
"""Models that score by vectors of the tables' width which their graph makes of the tables by a linear map."""

NOT_RESUMABLE: Mapping[str, str] = {"RecVAE": "its checkpoint holds one of its two optimizers"}
"""Models whose training RecBole cannot resume, and why."""

NAMED_AS_STOCK: frozenset[str] = frozenset({"Pop"})
"""Models whose subclass keeps the class's name: RecBole's get_flops knows Pop by it."""


UNLISTED_KEYS: Mapping[str, tuple[str, ...]] = {
    "AutoInt": ("has_residual",),
    "DiffRec": ("norm",),
    "FEARec": ("contrast", "sim", "tau", "use_filter"),
    "HRM": ("reg_weight",),
    "lightgbm": ("convert_token_to_onehot", "token_num_threshold"),
    "xgboost": ("convert_token_to_onehot", "token_num_threshold", "xgb_early_stopping_rounds"),
}
"""Configuration keys that a model's code reads and its property file does not list."""

OPTIONAL_PACKAGES: frozenset[str] = frozenset({"lightgbm", "xgboost"})
"""Models, in lower case, that need a package of the same name, which RecBole does not require."""


def find_entry(entries: Collection[tuple[str, str]], model_class: type, name: str) -> tuple[str, str] | None:
    """Return the entry (model, ``name``) of a class, or of the nearest of its base classes that has one."""
    keys = ((entry.__name__, name) for entry in model_class.__mro__)
    return next((key for key in keys if key in entries), None)
