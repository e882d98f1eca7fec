"""Why something cannot be measured here."""


class Unavailable(Exception):
    """It is not installed, does not fit, or does not work on this machine; the message says which, in a few words."""
