"""What the tests of Channel share."""


class Item:
    """An item that can be referred to weakly."""
