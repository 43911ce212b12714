"""What is made of an LLM vector: strategies that choose columns, mix them, or draw numbers.

The import registers them, in the order of lists and messages.
"""

from recbole_llminit.strategies import selection, projection, auto, noise  # noqa: F401, I001  in this order
