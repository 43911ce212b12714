"""The share of a whole training run that the LLM initialization takes, for the README's first command.

``python benchmarks/share_of_run.py`` trains ``yaml/lightgcn_ml-100k.yaml`` several times and prints the seconds of the
initialization (opening the vectors included), of the run, and their ratio; ``--csv`` writes the table.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd

from recbole_llminit import run_recbole_llminit
from recbole_llminit.integration.init_inputs import InitInputs

CONFIGURATION = Path(__file__).parents[1] / "yaml" / "lightgcn_ml-100k.yaml"


def main() -> None:
    """Train and time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--csv", type=Path, help="where to write the table")
    options = parser.parse_args()
    csv = options.csv.resolve() if options.csv else None
    seconds: list[float] = []
    read, initialize = InitInputs.read, InitInputs.initialize_

    def timed_read(*arguments: Any) -> Any:
        began = time.perf_counter()
        inputs = read(*arguments)
        seconds.append(time.perf_counter() - began)
        return inputs

    def timed_initialize(*arguments: Any) -> Any:
        began = time.perf_counter()
        report = initialize(*arguments)
        seconds[-1] += time.perf_counter() - began
        return report

    rows = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        mock.patch.object(InitInputs, "read", timed_read),
        mock.patch.object(InitInputs, "initialize_", timed_initialize),
    ):
        os.chdir(scratch)
        for _ in range(options.repeats):
            began = time.perf_counter()
            run_recbole_llminit(config_file_list=[CONFIGURATION], config_dict={"show_progress": False})
            rows.append({"initialization": seconds[-1], "run": time.perf_counter() - began})
    frame = pd.DataFrame(rows)
    frame["share"] = frame["initialization"] / frame["run"]
    print(frame.round(5).to_string())
    print(f"median share: {frame['share'].median():.3%}")
    if csv:
        frame.round(5).to_csv(csv, index=False)


if __name__ == "__main__":
    main()
