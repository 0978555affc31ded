"""Forks in the middle of code of users that an object calls, and of fights over locks."""

import threading
import time

import pytest
from forks import in_child
from marks import forks, needs_fork
from processes import in_own_process, python
from support import FREE_THREADED, NATIVE

from nogil_sync import Cond, RWMutex, Semaphore, WaitGroup

pytestmark = [
    forks,
    needs_fork,
]

HEADER = (
    FORKS
    + """
class Key:
    # Compared and hashed by code that calls `hook`, once it is armed.
    armed = None
    def __init__(self, n): self.n = n
    def __hash__(self):
        if Key.armed == "hash": hook()
        return self.n % 3
    def __eq__(self, other):
        if Key.armed == "eq": hook()
        return isinstance(other, Key) and self.n == other.n

class Last:
    def __del__(self): hook()

def hooked(*args):
    hook()
    return 1
"""
)

# Setup, the call in which the hook is called, and what must hold afterwards, in the parent and in
# either child; it uses the object.
PHASES = {
    "Once.do": ("o = Once()", "o.do(hooked)", "assert o.do(lambda: 1) == 1 and o.done()"),
    "once": ("o = once(lambda: hooked())", "o()", "assert o.done() or forked_elsewhere"),
    "SyncMap.load_or_compute": (
        "x = SyncMap(a=1)",
        "x.load_or_compute('k', hooked)",
        "assert x.load_or_compute('k', lambda: 1) == 1 and x == {'a': 1, 'k': 1}",
    ),
    "SyncMap.modify": (
        "x = SyncMap(k=1)",
        "x.modify('k', lambda v: hooked() and 2, 0)",
        "assert x.pop('k') in (1, 2); x.modify('k', abs, -3); assert x == {'k': 3}",
    ),
    "SyncMap.clear's finalisers": (
        "x = SyncMap({n: Last() for n in range(5)})",
        "x.clear()",
        "x.update((n, n) for n in range(3000)); assert len(x) == 3000; x.clear(); assert not x",
    ),
    "a finaliser of SyncMap's": (
        "x = SyncMap(k=Last())",
        "x.__setitem__('k', 1)",
        "x['k'] = 2; assert x == {'k': 2}",
    ),
    "Pool's new": ("p = Pool(hooked)", "p.get()", "p.put(2); assert p.get() == 2"),
    "Pool's reset": (
        "p = Pool(list, reset=hooked)",
        "p.put([])",
        "p.clear(); p.put([2]); assert p.idle() == 1 and p.get() == [2]",
    ),
    "Pool's drop": (
        "p = Pool(list, drop=hooked, max_idle=5)\nfor _ in range(5): p.put([])",
        "p.put([1])",
        "assert p.idle() == 5; p.clear(); p.put([2]); assert p.get() == [2]",
    ),
    "Pool.clear's drop": (
        "p = Pool(list, drop=hooked, age=False)\nfor _ in range(50): p.put([])",
        "p.clear()",
        "p.clear(); assert p.idle() == 0; p.put([2]); assert p.get() == [2]",
    ),
    "AtomicRef.update": (
        "r = AtomicRef(0)",
        "r.update(hooked)",
        "assert r.load() in (0, 1); r.store(5); assert r.update(lambda n: n + 1) == 6",
    ),
    "Cond.wait_for's predicate": (
        "k = Cond(); k.acquire()",
        "k.wait_for(hooked, 5)",
        "assert k.locked(); assert not k.wait(0.001); k.release()\nwith k: k.notify_all()",
    ),
    "SyncMap's __eq__": (
        "x = SyncMap(); x.update((Key(n), n) for n in range(9)); Key.armed = 'eq'",
        "x.get(Key(4))",
        "Key.armed = None; assert x.pop(Key(4)) == 4; x[Key(4)] = 5; assert len(x) == 9",
    ),
    "__eq__ as a SyncMap stores": (
        "x = SyncMap(); x.update((Key(n), n) for n in range(9)); Key.armed = 'eq'",
        "x.insert(Key(10), 10)",
        "Key.armed = None; x[Key(10)] = 10; assert x.pop(Key(10)) == 10 and len(x) == 9",
    ),
    "__hash__ as a SyncMap grows": (
        "x = SyncMap((n, n) for n in range(3000)); Key.armed = 'hash'",
        "x.update([(Key(4), 1)] + [(-n, n) for n in range(1, 3000)])",
        "Key.armed = None; x[Key(4)] = 1; x.update({-1: 0, -2: 0}); assert len(x) > 3000",
    ),
}

# A dict that a thread was using at the fork stays locked, without the GIL.
pure_maps = FREE_THREADED and not NATIVE


@pytest.mark.parametrize("phase", PHASES)
def test_by_the_thread_in_it(phase):
    # The call goes on in both processes.
    setup, call, holds = PHASES[phase]
    python(
        HEADER
        + f"""
parent, children = os.getpid(), []
forked_elsewhere = False
def hook():
    if not children and os.getpid() == parent:
        children.append(os.fork())
{setup}
{call}
assert children
code = 1
try:
    {holds.replace(chr(10), chr(10) + "    ")}
    code = 0
finally:
    if os.getpid() != parent:
        os._exit(code)
assert wait_for(children[0]) == 0
"""
    )


@pytest.mark.parametrize("phase", PHASES)
def test_by_another_thread(phase):
    # In the child the one in the middle of it is gone.
    if pure_maps and "SyncMap" in phase:
        pytest.skip("a dict in use at the fork stays locked in the child")
    setup, call, holds = PHASES[phase]
    python(
        HEADER
        + f"""
inside, go_on = threading.Event(), threading.Event()
forked_elsewhere = True
def hook():
    if threading.current_thread() is not main:
        inside.set()
        go_on.wait(30)
main = threading.current_thread()
errors = []
def call():
    try:
        # Made here, as an object's finaliser runs in the thread that made it.
        exec({setup!r}, globals())
        {call}
    except BaseException as error:
        errors.append(error)
thread = threading.Thread(target=call)
thread.start()
assert inside.wait(30)
def child():
    {holds.replace(chr(10), chr(10) + "    ")}
for _ in range(3):
    in_child(child)
go_on.set()
thread.join(30)
assert not thread.is_alive() and not errors, errors
child()
"""
    )


@in_own_process(timeout=120)
def test_forty_forks_amid_fights_over_locks():
    rw, s, k, g, guarded = RWMutex(), Semaphore(5), Cond(), WaitGroup(), [0, 0]
    ready = []
    stop = False

    def fight(n):
        i = 0
        while not stop:
            i += 1
            if i % 4 == 0 and rw.write.acquire(timeout=0.001 if n else -1):
                guarded[0] += 1
                guarded[1] += 1
                if i % 8:
                    rw.write.release()
                else:
                    rw.downgrade()
                    rw.read.release()
            if rw.read.acquire(timeout=0.001):
                assert guarded[0] == guarded[1]
                rw.read.release()
            if s.acquire(timeout=0.001, n=1 + i % 4):
                s.release(1 + i % 4)
            with k:
                if i % 2:
                    k.wait(0.0005)
                else:
                    k.notify(2)
            g.add(2)
            g.add(-1)
            g.done()
            g.wait(0.0002)

    def check():
        # Who held something is gone: it stays held, and whoever knows better can reset it.
        available = s.available()
        assert 0 <= available <= 5
        if available:
            assert s.acquire(False, n=available)  # nobody is in line
        assert not s.acquire(timeout=0.001)
        writing = rw.write.locked()
        if rw.read.locked() or writing:
            assert not rw.write.acquire(timeout=0.005)
        if writing:
            assert not rw.read.acquire(timeout=0.005)
            assert not rw.read.locked()
        else:
            assert guarded[0] == guarded[1]
            assert rw.read.acquire(False)
        assert repr(k).endswith(" 0 waiting>"), k
        if not k.acquire(timeout=0.005):
            assert k.locked()
        k.notify_all()
        assert not k.wait(0.001)
        for x in (s, rw, k):
            x._at_fork_reinit()
        guarded[:] = [0, 0]
        # Each thread may have been in the middle of its own two.
        for _ in range(6):
            if g.wait(0):
                break
            g.done()
        assert g.wait(0)

        def work():
            for i in range(100):
                with rw.write:
                    guarded[0] += 1
                with rw.read:
                    assert guarded[0] <= 300
                with s.hold(1 + i % 5):
                    pass
            with k:
                k.wait_for(lambda: ready)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for t in threads:
            t.start()
        time.sleep(0.002)
        with k:
            ready.append(1)
            k.notify_all()
        for t in threads:
            t.join(20)
        assert not any(t.is_alive() for t in threads)
        assert guarded[0] == 300
        assert s.available() == 5
        assert not rw.read.locked()
        assert not rw.write.locked()
        assert not k.locked()

    threads = [threading.Thread(target=fight, args=(n,), daemon=True) for n in range(3)]
    for t in threads:
        t.start()
    for _ in range(40):
        time.sleep(0.003)
        in_child(check)
    stop = True
    for t in threads:
        t.join(20)
    assert not any(t.is_alive() for t in threads)
    assert s.available() == 5
    assert g.wait(0)
    assert guarded[0] == guarded[1]
    assert not rw.read.locked()
    assert not rw.write.locked()
    assert not k.locked()
