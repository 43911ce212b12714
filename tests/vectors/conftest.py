import faulthandler
from collections.abc import Iterator

import pytest


@pytest.fixture
def bounded() -> Iterator[None]:
    """End the process if it waits for a pipe."""
    faulthandler.dump_traceback_later(60, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
