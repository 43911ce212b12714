"""Comparisons of initializations: trials, statistics, strata, and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from recbole_llminit.compare.comparison import compare as compare
    from recbole_llminit.compare.options import CompareOptions as CompareOptions
    from recbole_llminit.compare.reporting.report import Report as Report

# Imported when it is first used: a trial is run as a module of this package.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"comparison": ["compare"], "options": ["CompareOptions"], "reporting.report": ["Report"]},
)
