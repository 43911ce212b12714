"""The one exception raised for input a user can mend."""


class LLMInitError(ValueError):
    """Input that cannot be used: the message says what was given, what was expected and what to do."""
