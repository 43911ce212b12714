"""``python -m recbole_llminit``."""

import sys

from recbole_llminit.cli import main

sys.exit(main())
