"""The option ``none`` of the losses of an autoencoder."""


def nothing() -> None:
    """Return None, the value of an optional loss of an autoencoder, such as the adversarial one, that is left out."""
    return None
