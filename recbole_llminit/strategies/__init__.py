"""What is made of an LLM vector: strategies that choose columns, mix columns, or draw numbers.

The import registers them, in the order of lists and messages.
"""

from recbole_llminit.strategies import (  # noqa: F401, I001  in this order
    selection,
    projection,
    canonical_correlation,
    random_projection,
    linear_autoencoder,
    auto,
    noise,
)
