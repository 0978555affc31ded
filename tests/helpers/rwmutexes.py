"""What the tests of RWMutex share."""

import pytest

sides = pytest.mark.parametrize("side", ["read", "write"])


def state(rw):
    return rw.read.locked(), rw.write.locked()


FREE, READ, WRITTEN = (False, False), (True, False), (False, True)
