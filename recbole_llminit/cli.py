"""The console command ``recbole-llminit``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_llminit.errors import LLMInitError

_INTERRUPTED = 130
_LONGEST = 1500


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with its arguments (``sys.argv`` if left out); return the exit status."""
    parser = argparse.ArgumentParser(prog="recbole-llminit", allow_abbrev=False, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    training = commands.add_parser(
        "run",
        help="train and test a RecBole model from LLM embeddings",
        description="Train and test a RecBole model. All other arguments are configuration keys: --key=value.",
        allow_abbrev=False,
    )
    add_run_arguments(training)
    training.set_defaults(do=run)
    encoding = commands.add_parser(
        "encode",
        help="make the LLM embeddings of a dataset's items",
        description="Encode the item texts of a dataset that have no vector yet. All other arguments are configuration "
        "keys: --dataset, --data_path, --llm_encoder, --llm_text_template, ... as --key=value. Under torchrun the "
        "items are split over the processes.",
        allow_abbrev=False,
    )
    add_data_arguments(encoding)
    encoding.add_argument("--dry-run", action="store_true", help="print five texts and the counts, and encode nothing")
    encoding.set_defaults(do=encode)
    listing = commands.add_parser(
        "stores",
        help="list the embedding stores, or export one",
        description="List the embedding stores with their metadata and sizes, or export one.",
        allow_abbrev=False,
    )
    listing.add_argument("--llm_cache_dir", action=_Once, help="where stores lie (~/.cache/recbole-llminit)")
    listing.add_argument(
        "--export",
        action=_Once,
        nargs=2,
        metavar=("STORE", "FILE"),
        help="write a store to FILE, .parquet or .npy with ids beside it",
    )
    listing.set_defaults(do=stores)
    supporting = commands.add_parser(
        "models",
        help="list the models, and which of their tables start from LLM embeddings",
        description="List every model of RecBole: whether it starts from LLM embeddings, in which tables, and why not.",
        allow_abbrev=False,
    )
    supporting.add_argument("names", nargs="*", metavar="MODEL", help="only these")
    supporting.set_defaults(do=models)
    inspecting = commands.add_parser(
        "inspect",
        help="look at a dataset's item vectors, or at a trained model's tables",
        description="Measure the item vectors of a dataset and what a strategy (var unless --init_strategy is given) "
        "makes of them, or the tables of a trained model: coverage, lengths, angles, spectrum, variance, and the "
        "nearest neighbours of popular items. All other arguments are configuration keys, as --key=value.",
        allow_abbrev=False,
    )
    inspecting.add_argument(
        "-m", "--model", action=_Once, help="a RecBole model's name, for its split of the data (BPR)"
    )
    add_data_arguments(inspecting)
    inspecting.add_argument("--checkpoint", action=_Once, help="a trained model's file; the other arguments are in it")
    _add_trust(inspecting)
    inspecting.add_argument("--png", action=_Once, metavar="FILE", help="draw spectra and variances into FILE")
    inspecting.set_defaults(do=inspect)
    comparing = commands.add_parser(
        "compare",
        help="compare starts over models, datasets and seeds, with tests and controls",
        description="Train every model from every start with every seed, and write a report: --models=NAME,NAME, "
        "--datasets=, --strategies=, --seeds=, --tune, ... (README). All other arguments are configuration keys of "
        "every trial, as --key=value. What is finished in the folder is not run again.",
        allow_abbrev=False,
    )
    comparing.add_argument("--config_files", action=_Once, default="", help="YAML files, separated by spaces")
    comparing.add_argument(
        "--out", action=_Once, default="comparison", help="the folder of trials and report (comparison)"
    )
    comparing.add_argument(
        "--jobs", action=_Once, type=int, help="processes that train side by side (the cores of this machine)"
    )
    comparing.add_argument("--dry-run", action="store_true", help="print the plan and an estimate of the time")
    comparing.add_argument(
        "--report", action="store_true", help="write the report of what has finished, and train nothing"
    )
    comparing.set_defaults(do=compare)
    given = sys.argv[1:] if arguments is None else arguments
    options = argparse.Namespace(do=None)
    try:
        _, others = parser.parse_known_args(given, options)
        options.command_line = ["recbole-llminit", *given]
        status: int | None = options.do(options, others)
    except LLMInitError as error:
        # What a library said may have several lines, and what was given any length.
        said = " ".join(str(error).split())
        shown = said if len(said) <= _LONGEST else f"{said[: _LONGEST // 2]} ... {said[-_LONGEST // 2 :]}"
        sys.stderr.write(f"recbole-llminit: error: {shown}\n")
        return 2
    except KeyboardInterrupt:
        kept = {encode: "what was encoded is kept", compare: "finished trials are kept"}.get(options.do)
        more = f"; {kept}, run again to continue" if kept else ""
        sys.stderr.write(f"recbole-llminit: interrupted{more}\n")
        return _INTERRUPTED
    return status or 0


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of RecBole's ``run_recbole.py`` that are not configuration keys."""
    parser.add_argument(
        "-m", "--model", action=_Once, help="a RecBole model's name, or the dotted path of your own class"
    )
    parser.add_argument(
        "--resume",
        action=_Once,
        metavar="CHECKPOINT",
        help="go on training from the best epoch of an earlier run, in its file; give the same arguments, and as "
        "--epochs the number in all",
    )
    _add_trust(parser)
    add_data_arguments(parser)


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name the dataset and the configuration files."""
    parser.add_argument("-d", "--dataset", action=_Once, help="the dataset's name")
    parser.add_argument("--config_files", action=_Once, default="", help="YAML files, separated by spaces")


def _add_trust(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-pickles",
        action="store_true",
        help="read the checkpoints and saved datasets that are named whole, which can run code: say so only where you "
        "trust whoever made them. Without it classes other than RecBole's are refused",
    )


class _Once(argparse.Action):
    """An argument that is given once, under whichever of its names; twice the same is once."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        given = vars(namespace).setdefault("given", {})
        if given.setdefault(self.dest, values) != values:
            raise LLMInitError(
                f"the argument {' or '.join(self.option_strings)} is given twice, as {given[self.dest]!r} and "
                f"{values!r}: give it once"
            )
        setattr(namespace, self.dest, values)


def run(options: argparse.Namespace, others: Sequence[str]) -> None:
    """Run one training with parsed options and ``--key=value`` arguments."""
    # As `python script.py` in this folder: a model of the user's own, given by its dotted path, may stand here.
    sys.path.insert(0, "")
    # The import says so, too, where RecBole is missing or another version.
    from recbole_llminit.integration.quick_start import run_recbole_llminit

    run_recbole_llminit(
        model=options.model,
        dataset=options.dataset,
        config_file_list=options.config_files.split(),
        arguments=others,
        resume=options.resume,
        trust_pickles=options.trust_pickles,
    )


def encode(options: argparse.Namespace, others: Sequence[str]) -> None:
    """Encode a dataset's item texts, or print what would be encoded."""
    from recbole_llminit.encode.options import EncodeOptions
    from recbole_llminit.encode.pipeline import encode_items, plan_encoding
    from recbole_llminit.processes import join_ranks

    dataset = [] if options.dataset is None else [f"--dataset={options.dataset}"]
    settings = EncodeOptions.from_files(options.config_files.split(), [*dataset, *others])
    if options.dry_run:
        sys.stdout.write(f"{plan_encoding(settings)}\n")
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with join_ranks() as ranks:
        report = encode_items(settings, ranks)
    # The first rank speaks for all.
    if ranks.rank == 0:
        sys.stdout.write(f"{report}\n")


def inspect(options: argparse.Namespace, others: Sequence[str]) -> None:
    """Measure vectors, or a checkpoint's tables; print them, and draw them if asked."""
    sys.path.insert(0, "")
    from recbole_llminit.inspection import check_png, inspect_checkpoint, inspect_vectors
    from recbole_llminit.integration.config import Config
    from recbole_llminit.settings import read_settings

    if options.png:
        check_png(options.png)
    files = options.config_files.split()
    if options.checkpoint:
        if others or files or options.model or options.dataset:
            raise LLMInitError("--checkpoint has its configuration in it: leave the other arguments out, but --png")
        inspection = inspect_checkpoint(options.checkpoint, trust_pickles=options.trust_pickles)
    else:
        if options.trust_pickles:
            raise LLMInitError("--trust-pickles is said of --checkpoint: give one, or leave it out")
        given = read_settings(files, others)
        model = options.model or given.get("model", "BPR")
        strategy = {} if "init_strategy" in given else {"init_strategy": "var"}
        inspection = inspect_vectors(Config(model, options.dataset, files, strategy, others))
    sys.stdout.write(f"{inspection}\n")
    if options.png:
        inspection.save_png(options.png)
        sys.stdout.write(f"\n{options.png}\n")


def compare(options: argparse.Namespace, others: Sequence[str]) -> int:
    """Run a comparison, print its plan, or write the report of what has finished; 1 where something is missing."""
    # A model of the user's own may stand in this folder.
    sys.path.insert(0, "")
    from recbole_llminit.compare.comparison import compare as run_comparison
    from recbole_llminit.compare.comparison import describe_plan, write_report
    from recbole_llminit.compare.options import CompareOptions

    if options.report:
        if others or options.config_files or options.jobs or options.dry_run:
            raise LLMInitError("--report reads the folder --out alone: leave the other arguments out")
        report = write_report(options.out)
    else:
        arguments = ["--tune=stock" if argument == "--tune" else argument for argument in others]
        settings = CompareOptions.from_files(options.config_files.split(), arguments)
        if options.dry_run:
            sys.stdout.write(f"{describe_plan(settings, options.out, jobs=options.jobs)}\n")
            return 0
        report = run_comparison(settings, options.out, jobs=options.jobs, command=options.command_line)
    sys.stdout.write(f"\n{report}\n\n{Path(options.out) / 'report.html'}\n")
    return 1 if report.problems else 0


def stores(options: argparse.Namespace, others: Sequence[str]) -> None:
    """List the stores of a cache folder, or export one."""
    from recbole_llminit.vectors.readers import export_embeddings, read_embeddings
    from recbole_llminit.vectors.store import DEFAULT_CACHE, describe_stores

    if others:
        raise LLMInitError(f"stores knows no {others[0]}")
    if options.export:
        store, target = options.export
        written = export_embeddings(read_embeddings(store), target)
        sys.stdout.write("".join(f"{path} ({path.stat().st_size / 1e6:.1f} MB)\n" for path in written))
        return
    sys.stdout.write(f"{describe_stores(Path(options.llm_cache_dir or DEFAULT_CACHE).expanduser())}\n")


def models(options: argparse.Namespace, others: Sequence[str]) -> None:
    """List which models start from LLM embeddings."""
    from recbole_llminit.integration.model_support import draw_models, list_models
    from recbole_llminit.suggest import suggest

    if others:
        raise LLMInitError(f"models knows no {others[0]}")
    rows = {row.model: row for row in list_models()}
    for name in options.names:
        if name not in rows:
            raise LLMInitError(
                f"there is no row for {name!r}{suggest(name, list(rows))} (a model of your own: see its log)"
            )
    sys.stdout.write(f"{draw_models([rows[name] for name in options.names or rows])}\n")
