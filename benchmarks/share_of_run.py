"""The share of a whole training run that the LLM start takes, for the README's first command.

``python benchmarks/share_of_run.py`` trains ``yaml/lightgcn_ml-100k.yaml`` several times and prints the seconds of the
initialisation (opening the vectors included), of the run, and their ratio; ``--csv`` writes the table.
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
from recbole_llminit.integration import model

CONFIGURATION = Path(__file__).parents[1] / "yaml" / "lightgcn_ml-100k.yaml"


def main() -> None:
    """Train and time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--csv", type=Path, help="where to write the table")
    options = parser.parse_args()
    csv = options.csv.resolve() if options.csv else None
    seconds: list[float] = []
    initialize = model._initialize

    def timed(*arguments: Any) -> Any:
        began = time.perf_counter()
        report = initialize(*arguments)
        seconds.append(time.perf_counter() - began)
        return report

    rows = []
    with tempfile.TemporaryDirectory() as scratch, mock.patch.object(model, "_initialize", timed):
        os.chdir(scratch)
        for _ in range(options.repeats):
            began = time.perf_counter()
            run_recbole_llminit(config_file_list=[CONFIGURATION], config_dict={"show_progress": False})
            rows.append({"initialisation": seconds[-1], "run": time.perf_counter() - began})
    frame = pd.DataFrame(rows)
    frame["share"] = frame["initialisation"] / frame["run"]
    print(frame.round(5).to_string())
    print(f"median share: {frame['share'].median():.3%}")
    if csv:
        frame.round(5).to_csv(csv, index=False)


if __name__ == "__main__":
    main()
