"""The option ``none`` of parts that can be left out: losses of an autoencoder, and the lower stage of a cascade."""


def nothing() -> None:
    """Return None, the value of an optional part that is left out, such as the adversarial loss of an autoencoder."""
    return None
