"""The one error that users are expected to see."""


class InputError(ValueError):
    """A value the user gave cannot be used; the message names it and the remedy."""
