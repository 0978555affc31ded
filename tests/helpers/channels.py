"""What the tests of Channel share."""


class Item:
    """Something to watch."""
