"""CPython's tests of mappings, on SyncMap."""

from typing import Any

import pytest

import nogil_sync
from outside import differences

theirs: Any = pytest.importorskip("test.mapping_tests", reason=differences.NO_TESTS)

pytestmark = differences.MARKS


class SyncMapTest(theirs.TestHashMappingProtocol):
    type2test = nogil_sync.SyncMap


class Subclass(nogil_sync.SyncMap):
    """As users have: with a dict of attributes."""


class SubclassTest(theirs.TestHashMappingProtocol):
    type2test = Subclass


differences.mark("mapping", SyncMapTest, SubclassTest)
