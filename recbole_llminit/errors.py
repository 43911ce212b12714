"""The one exception for input that a user can correct."""


class LLMInitError(ValueError):
    """Input that cannot be used: the message says what was given, what was expected and what to do."""
