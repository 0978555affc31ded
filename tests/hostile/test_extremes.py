"""Counts of any size: those out of range raise, and change nothing."""

import pytest

from nogil_sync import Cond, Semaphore, WaitGroup

HUGE = (2**62, 2**63 - 1, 2**63, 2**64, 10**30)


@pytest.mark.parametrize("n", HUGE)
def test_semaphore_accepts_its_max_value(n):
    with pytest.raises(OverflowError, match="semaphore initial value is too large"):
        Semaphore(n)
    with pytest.raises(ValueError, match="semaphore initial value must be >= 0"):
        Semaphore(-n)


@pytest.mark.parametrize("n", HUGE)
@pytest.mark.parametrize("value", [1, 2**62 - 1])
def test_acquire_accepts_max_n(value, n):
    s = Semaphore(value)
    for refused in (lambda n: s.acquire(False, n=n), s.hold):
        with pytest.raises(ValueError, match="n exceeds the semaphore's value"):
            refused(n)
        with pytest.raises(ValueError, match="n must be at least 1"):
            refused(-n)
    with pytest.raises(ValueError, match="semaphore released too many times"):
        s.release(n)
    with pytest.raises(ValueError, match="n must be at least 1"):
        s.release(-n)
    assert s.available() == value


def test_semaphore_of_max_value_counts_exactly():
    most = 2**62 - 1
    s = Semaphore(most)
    assert s.acquire(n=most)
    assert not s.acquire(False)
    s.release(most)
    assert s.available() == most
    with pytest.raises(ValueError, match="semaphore released too many times"):
        s.release()


@pytest.mark.parametrize("n", HUGE)
def test_waitgroup_counts_to_its_max(n):
    g = WaitGroup()
    g.add(2**31 - 1)
    with pytest.raises(OverflowError, match="WaitGroup counter is too large"):
        g.add(n)
    with pytest.raises(OverflowError, match="WaitGroup counter is too large"):
        g.add()
    with pytest.raises(RuntimeError, match="negative WaitGroup counter"):
        g.add(-n)
    g.add(1 - 2**31)
    assert g.wait(0)


@pytest.mark.parametrize("n", HUGE)
def test_cond_notifies_any_number(n):
    c = Cond()
    with c:
        c.notify(n)
        c.notify(-n)
