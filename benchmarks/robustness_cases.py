"""Bad configurations: a declarative table of values for every key, with what has to become of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from recbole.utils.argument_list import (
    dataset_arguments,
    evaluation_arguments,
    general_arguments,
    training_arguments,
)
from robustness_values import BAD, BAD_ARGS, BAD_COMPARE, BAD_ENCODE, BAD_OURS, FROM_VECTORS, NAMES, ODD, RIGHT

from recbole_llminit.cli import main
from recbole_llminit.compare.options import COMPARE_KEYS
from recbole_llminit.integration.options import KEYS
from recbole_llminit.processes import LAUNCH_KEYS

Expected = Literal["error", "right", "either"]

CANARY = "PWNED"
"""The name of a file that appears where something was executed."""

PAYLOAD = f"__import__('os').system('touch {CANARY}')"
PLAN = ("compare", "--config_files=base.yaml", "--models=BPR", "--strategies=none", "--baselines=none", "--dry-run")


@dataclass(frozen=True)
class Case:
    """A bad (or an unusual) input.

    Parameters
    ----------
    group : str
        Its class.
    what : str
        The command, or what is called.
    act : callable
        Run in a child whose working folder has `robustness_inputs.write_home`'s files; returns the exit status.
    expected : {"error", "right", "either"}
        Whether it has to be one clear error, has to succeed, or may do either.
    names : str
        A regular expression that the message has to match: what the user gave, at least.
    late : bool
        Whether the error may come after training has begun, as where a disk is full.
    prepare : callable, optional
        Makes files in the working folder before.
    spoiled : callable, optional
        Says what is wrong with the folder afterwards; empty where nothing is.
    file_limit : int
        The largest file that may be written, in bytes; 0 for any.
    """

    group: str
    what: str
    act: Callable[[], int]
    expected: Expected = "error"
    names: str = ""
    late: bool = False
    prepare: Callable[[], object] | None = None
    spoiled: Callable[[Path], str] | None = None
    file_limit: int = 0


def command(
    group: str,
    *arguments: str,
    expected: Expected = "error",
    names: str = "",
    late: bool = False,
    prepare: Callable[[], object] | None = None,
    spoiled: Callable[[Path], str] | None = None,
    what: str = "",
    file_limit: int = 0,
) -> Case:
    """Return the case of a command line."""
    shown = " ".join(_shortened(text if text.isprintable() else repr(text)) for text in arguments)
    return Case(
        group, what or shown, lambda: main(list(arguments)), expected, names, late, prepare, spoiled, file_limit
    )


def run(group: str, *arguments: str, model: str = "BPR", expected: Expected = "error", names: str = "") -> Case:
    """Return the case of one short training run."""
    return command(group, "run", "-m", model, "--config_files=base.yaml", *arguments, expected=expected, names=names)


def with_file(name: str, content: str | bytes) -> Callable[[], None]:
    """Return what writes a file into the working folder."""
    return lambda: _write(Path(name), content)


def _write(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def cases() -> Iterator[Case]:
    """Yield the table."""
    yield from _recbole_keys()
    yield from _our_keys()
    yield from _unknown_keys()
    yield from _repeated()
    yield from _compare_keys()
    yield from _executed()
    yield from _usage()


def _recbole_keys() -> Iterator[Case]:
    for key, texts in BAD.items():
        for text in texts:
            yield run("value of RecBole's key", f"--{key}={text}", names=NAMES.get(key, key))
    for key, texts in ODD.items():
        for text in texts:
            yield run("odd value of RecBole's key", f"--{key}={text}", expected="either")
    for arguments in RIGHT:
        yield run("right", *arguments, expected="right")
    one = ("--train_neg_sample_args=None", "--loss_type=CE")
    yield run("right", *one, model="SASRec", expected="right")
    yield run("right", model="LightGCN", expected="right")
    yield run("right", *FROM_VECTORS, model="LightGCN", expected="right")
    for text in ("foo", "5", "None", "[CE]", ""):
        yield run("value of RecBole's key", f"--loss_type={text}", one[0], model="SASRec", names="loss_type|loss")
    yield run("value of RecBole's key", "--loss_type=CE", model="SASRec", names="train_neg_sample_args")
    for key, text in (("MAX_ITEM_LIST_LENGTH", "0"), ("MAX_ITEM_LIST_LENGTH", "-1"), ("MAX_ITEM_LIST_LENGTH", "abc"),
                      ("MAX_ITEM_LIST_LENGTH", "1.5"), ("n_layers", "abc"), ("n_layers", "-1"), ("n_heads", "3"),
                      ("n_heads", "0"), ("hidden_dropout_prob", "2"), ("hidden_act", "foo")):  # fmt: skip
        yield run("value of RecBole's key", f"--{key}={text}", *one, model="SASRec", names=f"{key}|n_heads|heads")
    for key, text in (("n_layers", "abc"), ("n_layers", "1.5"), ("reg_weight", "abc"), ("require_pow", "abc")):
        own: Expected = "either" if key == "require_pow" else "error"
        yield run("value of RecBole's key", f"--{key}={text}", model="LightGCN", names=key, expected=own)


def _our_keys() -> Iterator[Case]:
    group = "value of an init_ or llm_ key"
    for text in ("foo", "5", "", "[var]", "{var: 1}", "True", "vaar"):
        yield run(group, f"--init_strategy={text}", "--llm_embedding=store", names="init_strategy|strategy")
    for key, texts in BAD_OURS.items():
        for text in texts:
            # Each key once, also where it is one of these.
            others = [argument for argument in FROM_VECTORS if not argument.startswith(f"--{key}=")]
            yield run(group, *others, f"--{key}={text}", names=_named(key, text))
    for strategy, text in BAD_ARGS:
        vectors = () if strategy == "noise" else ("--llm_embedding=store",)
        name = re.findall(r"\w+", text)[0]
        yield run(group, f"--init_strategy={strategy}", f"--init_args={text}", *vectors, names=name)
    for key, texts in BAD_ENCODE.items():
        for text in texts:
            yield command(
                group, "encode", "--config_files=base.yaml", "--dry-run", f"--{key}={text}",
                names=_named(key, text),
            )  # fmt: skip
    yield run(group, "--init_strategy=noise", "--init_shuffle=True", names="init_shuffle")
    yield run(group, "--init_strategy=var", model="EASE", names="EASE")
    yield run(group, "--init_strategy=var", "--llm_embedding=store", model="NCEPLRec", names="NCEPLRec")
    yield run(
        group, "--init_strategy=cca", "--llm_embedding=store", "--embedding_size=4096", names="4,?096|embedding_size"
    )
    yield run(group, "--init_strategy=var", "--llm_embedding=store", "--embedding_size=81", names="81|embedding_size")
    both = ("--llm_text_fields=[title]", "--llm_text_template={title}")
    yield command(group, "encode", "--config_files=base.yaml", "--dry-run", *both, names="llm_text_template")
    yield command(group, "encode", "--config_files=base.yaml", "--dry-run", expected="right")
    for text in (
        "foo",
        "ftp://x/v1",
        "http://",
        "http://[::1",
        "http://a:b@c/v1",
        "http://x/v1?k=1",
        "http://x:99999/v1",
    ):
        yield command(group, "encode", "--config_files=base.yaml", "--llm_encoder=openai:x", f"--llm_base_url={text}",
                      names="llm_base_url|http")  # fmt: skip


_UNKNOWN = (
    ("epochz", "3"), ("foo_bar_baz", "2"), ("embeding_size", "8"), ("Epochs", "3"), ("epochs ", "3"),
    ("learning-rate", "0.1"), ("initstrategy", "var"), ("init_strateggy", "var"), ("llm_embeding", "x"),
    ("dropout_prob_foo", "1"), ("config_file", "x.yaml"), ("gpu", "0"), ("n_layers_foo", "2"),
)  # fmt: skip


def _unknown_keys() -> Iterator[Case]:
    group = "unknown key"
    for key, text in _UNKNOWN:
        yield run(group, f"--{key}={text}", names=re.escape(key.strip()))
        if key == key.strip():
            yield in_yaml(group, f"{key}: {text}\n", names=re.escape(key))
    own = "from recbole.model.general_recommender import BPR\n\n\nclass Mine(BPR):\n    pass\n"
    yield command(
        group, "run", "-m", "my_own.Mine", "--config_files=base.yaml", "--foo_bar_baz=2", expected="right",
        prepare=with_file("my_own.py", own),
    )  # fmt: skip
    # One file may serve several models.
    yield run(group, "--n_layers=2", expected="either")
    for key in ("epochz", "foo_bar_baz"):
        yield _compare_in_yaml(group, f"{key}: 3\n", names=key)


def in_yaml(
    group: str, text: str | bytes, *arguments: str, expected: Expected = "error", names: str = "", model: str = "BPR"
) -> Case:
    """Return the case of a run with a second configuration file."""
    first = ("-m", model) if model else ()
    found = command(
        group, "run", *first, "--config_files=base.yaml more.yaml", *arguments, expected=expected, names=names
    )
    shown = text if isinstance(text, str) else repr(text)
    return replace(found, what=f"run, YAML {_shortened(shown)!r}", prepare=with_file("more.yaml", text))


def _compare_in_yaml(group: str, text: str, *, expected: Expected = "error", names: str = "") -> Case:
    arguments = ("compare", "--config_files=base.yaml more.yaml", "--dry-run")
    defaults = "models: [BPR]\nstrategies: [none]\nbaselines: none\ncontrols: none\n"
    key = text.partition(":")[0]
    kept = "".join(line + "\n" for line in defaults.splitlines() if not line.startswith(f"{key}:"))
    found = command(group, *arguments, expected=expected, names=names, prepare=with_file("more.yaml", kept + text))
    return replace(found, what=f"compare --dry-run, YAML {_shortened(text)!r}")


# What the message may say in the place of a key.
_SAID = {"datasets": "dataset", "strategies": "strateg|initialization", "field_separator": "field"}


def _named(key: str, text: str) -> str:
    """Return what a message has to name: the key, or a part of the value."""
    return "|".join([_SAID.get(key, key), *map(re.escape, re.findall(r"[\w./-]{2,60}|^[.{].{,3}$", text))])


def _shortened(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."


def _repeated() -> Iterator[Case]:
    group = "repeated argument"
    base = "--config_files=base.yaml"
    for arguments, names in (
        (("run", "-m", "BPR", "--model=LightGCN", base), "model"),
        (("run", "-m", "BPR", "-m", "LightGCN", base), "model"),
        (("run", "--model=BPR", "--model=LightGCN", base), "model"),
        (("run", "-m", "BPR", "-d", "tiny", "--dataset=other", base), "dataset"),
        (("run", "-m", "BPR", "-d", "tiny", "-d", "other", base), "dataset"),
        (("run", "-m", "BPR", base, "--config_files=nowhere.yaml"), "config_files"),
        (("run", "-m", "BPR", base, "--epochs=1", "--epochs=2"), "epochs"),
        (("run", "-m", "BPR", base, "--resume=bpr.pth", "--resume=lightgcn.pth"), "resume"),
        (("encode", "-d", "tiny", "--dataset=other", base, "--dry-run"), "dataset"),
        (("inspect", "--checkpoint=bpr.pth", "--checkpoint=lightgcn.pth"), "checkpoint"),
        (("inspect", "--png=a.png", "--png=b.png", base), "png"),
        (("stores", "--llm_cache_dir=cache", "--llm_cache_dir=nowhere"), "llm_cache_dir"),
        (("stores", "--export", "store", "a.npy", "--export", "store", "b.npy"), "export"),
        ((*PLAN, "--seeds=1", "--seeds=2"), "seeds"),
        ((*PLAN, "--models=LightGCN"), "models"),
        ((*PLAN, "--jobs=1", "--jobs=2"), "jobs"),
        ((*PLAN, "--out=a", "--out=b"), "out"),
    ):
        yield command(group, *arguments, names=names)
    for others in (
        ("epochs=2",),
        ("--epochs", "2"),
        ("-epochs=2",),
        ("---epochs=2",),
        ("--=2",),
        ("--epochs",),
        ("2",),
    ):
        yield run("argument of another form", *others, names=re.escape(others[0].strip("-")[:6]))


def _compare_keys() -> Iterator[Case]:
    group = "value of compare's key"
    for key, texts in BAD_COMPARE.items():
        for text in texts:
            arguments = [argument for argument in PLAN if not argument.startswith(f"--{key}=")]
            if key == "baselines" or "--jobs" in key:
                arguments = [argument for argument in arguments if argument != "--baselines=none"]
            if key == "out":
                arguments.remove("--dry-run")
            if key == "tune_grid":
                arguments.append("--tune=stock")
            yield command(group, *arguments, f"--{key}={text}", names=_named(key, text))
    yield command(group, "compare", "--report", "--out=nowhere", names="nowhere")
    yield command(group, "compare", "--report", "--out=a_file", names="a_file")
    yield command(group, "compare", "--dry-run", names="models")
    yield command(group, *PLAN, "--epochs=1", "--controls=noise", expected="right")
    yield command(group, *PLAN, "--metrics=[Recall, NDCG]", "--valid_metric=NDCG@10", "--epochs=1", "--controls=none",
                  expected="right")  # fmt: skip
    for label in ("strategies", "models", "datasets"):
        text = f"{label}: {{'<script>alert(1)</script>': {{init_strategy: noise}}}}\n"
        expected: Expected = "either" if label == "strategies" else "error"
        yield _compare_in_yaml(group, text, expected=expected)


_EXPRESSIONS = (
    f"[{PAYLOAD}]",
    f"{{'a': {PAYLOAD}}}",
    f"lambda: {PAYLOAD}",
    f"[x for x in [{PAYLOAD}]]",
    f"f'{{{PAYLOAD}}}'",
    f"({PAYLOAD})",
    f"{PAYLOAD} or 3",
    f"1 if {PAYLOAD} else 2",
)
_TAGS = (
    f'!!python/object/apply:os.system ["touch {CANARY}"]',
    f'!!python/object/new:os.system ["touch {CANARY}"]',
    f"!!python/object/apply:subprocess.Popen [[touch, {CANARY}]]",
    f"!!python/object/new:subprocess.Popen [[touch, {CANARY}]]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/object:os.system {}",
)


def _executed() -> Iterator[Case]:
    group = "executed"
    known = [*general_arguments, *training_arguments, *evaluation_arguments, *dataset_arguments, *KEYS, *LAUNCH_KEYS]
    known += ["embedding_size", "drop_train", "resume", "encoding", "worker", "foo_bar_baz", "model", "dataset"]
    for key in dict.fromkeys(known):
        yield run(group, f"--{key}={PAYLOAD}", model="BPR", expected="either")
        yield in_yaml(group, f'{key}: "{PAYLOAD}"\n', expected="either", model="" if key == "model" else "BPR")
    for key in dict.fromkeys([*COMPARE_KEYS, "epochs", "embedding_size", "eval_args", "seed"]):
        arguments = [argument for argument in PLAN if not argument.startswith(f"--{key}=")]
        yield command(group, *arguments, f"--{key}={PAYLOAD}", expected="either")
        yield _compare_in_yaml(group, f'{key}: "{PAYLOAD}"\n', expected="either")
    for text in (
        f'strategies: {{x: {{init_strategy: noise, init_scale: "{PAYLOAD}"}}}}',
        f'strategies: {{x: {{init_strategy: noise, epochs: "{PAYLOAD}"}}}}',
        f'strategies: {{x: {{init_strategy: "{PAYLOAD}"}}}}',
        f'strategies: {{x: {{init_strategy: noise, init_args: {{std: "{PAYLOAD}"}}}}}}',
        f'models: {{BPR: {{embedding_size: "{PAYLOAD}"}}}}',
        f'datasets: {{tiny: {{epochs: "{PAYLOAD}"}}}}',
        f'tune: stock\ntune_grid: {{learning_rate: ["{PAYLOAD}"]}}',
        f'baselines: {{EASE: {{reg_weight: ["{PAYLOAD}"]}}}}',
        f'cold_start: ["{PAYLOAD}"]',
    ):
        yield _compare_in_yaml(group, text + "\n")
    for tag in _TAGS:
        yield in_yaml(group, f"epochs: {tag}\n", names="more.yaml|epochs")
        yield _compare_in_yaml(group, f"epochs: {tag}\n", names="more.yaml|epochs")
        yield run(group, f"--eval_args={{split: {tag}}}", names="eval_args|split")
        yield run(group, *FROM_VECTORS, f"--init_args={{popular_ratio: {tag}}}", names="init_args|popular_ratio")
    for text in _EXPRESSIONS:
        for key in ("epochs", "metrics", "eval_args", "nproc", "drop_train"):
            yield run(group, f"--{key}={text}")


_EXPORTS = (
    ("nowhere", "x.npy"), ("store", "x.csv"), ("store", "/dev/null"), ("store", "/dev/full"), ("store", "a_folder"),
    ("store", "a_file"), ("store", "a_file/x.npy"), ("store", "/proc/x/y.npy"), ("store", "x" * 300 + ".npy"),
    ("store", "/proc/x.npy"), ("a_file", "x.npy"), ("a_folder", "x.npy"), ("/dev/zero", "x.npy"), ("", "x.npy"),
)  # fmt: skip
_USAGE: Sequence[Sequence[str]] = (
    (), ("nope",), ("--foo",), ("run",), ("run", "-m", "BPR"), ("run", "-d", "tiny"), ("run", "--resume"),
    ("stores", "--export", "x"), ("stores", "--foo=1"), *(("stores", "--export", *each) for each in _EXPORTS),
    ("models", "nope"), ("models", ""), ("models", "--foo"), ("compare", "--jobs=abc"), ("encode",), ("inspect",),
    *(("inspect", "--config_files=base.yaml", argument)
      for argument in ("--png=x.jpg", "--png=nowhere/x.png", "--checkpoint=bpr.pth", "--init_strategy=noise",
                       "--init_strategy=none", "--llm_embedding=nowhere")),
)  # fmt: skip
_USED: Sequence[Sequence[str]] = (
    ("--help",), *((name, "--help") for name in ("run", "encode", "stores", "models", "inspect", "compare")),
    ("models",), ("models", "BPR"), ("stores",), ("stores", "--llm_cache_dir=cache"),
    ("stores", "--llm_cache_dir=nowhere"), ("stores", "--export", "store", "x.npy"),
    ("stores", "--export", "store", "x.parquet"), ("stores", "--export", "store", "new/x.npy"),
    ("inspect", "--checkpoint=bpr.pth"), ("inspect", "--checkpoint=lightgcn.pth", "--png=x.png"),
    ("inspect", "--config_files=base.yaml", "--llm_embedding=store"), ("compare", "--report", "--out=comparison"),
)  # fmt: skip


def _usage() -> Iterator[Case]:
    for arguments in _USAGE:
        yield command("usage", *arguments)
    for arguments in _USED:
        yield command("right", *arguments, expected="right")
