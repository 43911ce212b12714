"""``python -m recbole_llminit``: the console command without its script."""

import sys

from recbole_llminit.cli import main

sys.exit(main())
