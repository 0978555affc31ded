"""What the tests of Pool share."""

import pytest

from nogil_sync import Pool

ages = pytest.mark.thread_unsafe(reason="counts collections of the process")


class Item:
    """An item that can be referred to weakly, and is equal to no other."""

    def __eq__(self, other):
        raise AssertionError("asked whether it is equal")

    __hash__ = None  # type: ignore[assignment]


def lasting(new=Item, **kwargs):
    """A pool whose items stay whatever collections come."""
    return Pool(new, age=False, **kwargs)
