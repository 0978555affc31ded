"""CPython's tests of its locks, conditions, events, semaphores and barriers, on ours."""

import threading
import time
import unittest
from typing import Any

import pytest

import nogil_sync
from outside import differences, stand_ins

theirs: Any = pytest.importorskip("test.lock_tests", reason=differences.NO_TESTS)


pytestmark = differences.MARKS


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Their sleep until threads have begun to wait, long enough for a loaded machine."""
    monkeypatch.setattr(theirs, "wait_threads_blocked", lambda threads: time.sleep(0.05 * threads))


class Patient(unittest.TestCase):
    def assertTimeout(self, actual, expected):  # noqa: N802
        assert actual >= expected * 0.6


class MutexTest(Patient, theirs.LockTests):
    locktype = nogil_sync.Mutex


class RLockTest(Patient, theirs.RLockTests):
    locktype = nogil_sync.RLock


class WriteLockTest(Patient, theirs.LockTests):
    locktype = staticmethod(lambda: nogil_sync.RWMutex().write)


class CondTest(Patient, theirs.ConditionTests):
    condtype = nogil_sync.Cond


class CondOverRLockTest(Patient, theirs.ConditionTests):
    """Our condition over our reentrant lock."""

    condtype = stand_ins.Condition


class CondOverWriteLockTest(Patient, theirs.ConditionTests):
    @staticmethod
    def condtype(lock=None):
        return nogil_sync.Cond(nogil_sync.RWMutex().write if lock is None else lock)


class ConditionOverRLockTest(Patient, theirs.ConditionTests):
    """CPython's own condition, over our reentrant lock."""

    @staticmethod
    def condtype(lock=None):
        return threading.Condition(nogil_sync.RLock() if lock is None else lock)


class ConditionOverMutexTest(Patient, theirs.ConditionTests):
    """CPython's own condition, over our lock."""

    @staticmethod
    def condtype(lock=None):
        return threading.Condition(nogil_sync.Mutex() if lock is None else lock)


class EventTest(Patient, theirs.EventTests):
    eventtype = nogil_sync.Event


class SemaphoreTest(Patient, theirs.BoundedSemaphoreTests):
    semtype = nogil_sync.Semaphore


class UnboundedSemaphoreTest(Patient, theirs.SemaphoreTests):
    semtype = stand_ins.Semaphore


class BarrierTest(Patient, theirs.BarrierTests):
    barriertype = nogil_sync.Barrier
    defaultTimeout = 8.0  # noqa: N815


class BarrierOverCond(threading.Barrier):
    """CPython's barrier, over our condition."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._cond = nogil_sync.Cond()


class BarrierOverCondTest(Patient, theirs.BarrierTests):
    barriertype = BarrierOverCond
    defaultTimeout = 8.0  # noqa: N815


differences.mark(
    "locks",
    *(MutexTest, RLockTest, WriteLockTest, CondTest, CondOverRLockTest, CondOverWriteLockTest),
    *(ConditionOverRLockTest, ConditionOverMutexTest, EventTest),
    *(SemaphoreTest, UnboundedSemaphoreTest, BarrierTest, BarrierOverCondTest),
)
