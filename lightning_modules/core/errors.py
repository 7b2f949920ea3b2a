"""The error that a model or checkpoint of the wrong kind raises."""


class ModelError(ValueError):
    """A checkpoint, network or configuration that does not fit; the message is meant for the user.

    The command line prints it as one sentence and exits with code 2.
    """
