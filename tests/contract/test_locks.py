"""Mutex and RLock: what both have of the interface of threading's locks."""

import pytest
from lock_cases import ACQUIRE_ARGUMENTS, WRONG_ACQUIRE_ARGUMENTS
from support import LOCKS

from nogil_sync import RLock

every_lock = pytest.mark.parametrize("cls", LOCKS)


def holds(lock):
    """How often the lock is held; by this thread, if it knows its owner."""
    return lock._recursion_count() if isinstance(lock, RLock) else int(lock.locked())


@every_lock
def test_with_acquires_and_releases(cls):
    lock = cls()
    with lock as entered:
        assert entered is True
        assert holds(lock) == 1
        assert lock.locked()
    assert not lock.locked()
    with pytest.raises(LookupError), lock:
        raise LookupError
    assert not lock.locked()


@every_lock
@pytest.mark.parametrize(("args", "kwargs"), ACQUIRE_ARGUMENTS)
def test_acquire_accepts_arguments_of_threading(cls, args, kwargs):
    lock = cls()
    times = 2 if cls is RLock else 1
    for _ in range(times):
        assert lock.acquire(*args, **kwargs) is True
    assert lock.locked()
    assert holds(lock) == times
    for _ in range(times):
        lock.release()
    assert not lock.locked()


@every_lock
@pytest.mark.parametrize(("args", "kwargs", "error"), WRONG_ACQUIRE_ARGUMENTS)
@pytest.mark.parametrize("held", [0, 1])
def test_wrong_arguments_raise(cls, args, kwargs, error, held):
    lock = cls()
    if held:
        lock.acquire()
    with pytest.raises(error):
        lock.acquire(*args, **kwargs)
    assert holds(lock) == held
    if held:
        lock.release()
    with lock:
        pass


@every_lock
def test_timeout_whose_float_method_uses_the_lock(cls):
    lock = cls()

    class Odd:
        def __float__(self):
            with lock:
                return 1.0

    assert lock.acquire(timeout=Odd())
    lock.release()

    class Failing:
        def __float__(self):
            raise LookupError

    with pytest.raises(LookupError):
        lock.acquire(timeout=Failing())
    assert not lock.locked()
