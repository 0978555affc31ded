"""Pool: every item in one place, hooks in their order, limits, threads."""

import copy
import gc
import io
import pickle
import sys
import threading
import weakref
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import starts_threads
from pools import Item, ages, lasting
from processes import in_own_process, in_process
from support import NATIVE, eventually, run_threads

from nogil_sync import Pool

# ---- get and put ----


def test_get_makes_an_item_if_none_is_idle():
    made = []

    def new():
        made.append(Item())
        return made[-1]

    pool = lasting(new)
    assert made == []
    a = pool.get()
    b = pool.get()
    assert made[0] is a
    assert made[1] is b
    assert len(made) == 2
    assert pool.put(a) is None
    assert pool.get() is a
    assert len(made) == 2


def test_get_takes_the_newest_item():
    pool = lasting()
    items = [Item() for _ in range(100)]
    for item in items:
        pool.put(item)
    assert pool.idle() == 100
    for item in reversed(items):
        assert pool.get() is item
    assert pool.idle() == 0


def test_threads_take_and_put_by_turns():
    pool = lasting()
    items = [Item() for _ in range(5)]
    for item in items:
        pool.put(item)
    for _ in range(500):
        got = [pool.get() for _ in range(3)]
        assert got[0] is items[4]
        assert got[2] is items[2]
        for item in reversed(got):
            pool.put(item)
    assert pool.idle() == 5


def test_anything_can_be_pooled():
    pool = lasting(lambda: "new")
    things = [None, False, 0, (), "", Item(), Item, pool, pool.get, [pool]]
    for thing in things:
        pool.put(thing)
    for thing in reversed(things):
        assert pool.get() is thing
    assert pool.get() == "new"


def test_arguments_can_be_named():
    pool = Pool(new=list, reset=None, drop=None, max_idle=None, age=False)
    mine = [1]
    pool.put(item=mine)
    assert pool.get() is mine


def test_item_put_twice_is_got_twice():
    pool = lasting()
    item = Item()
    watch = weakref.ref(item)
    for _ in range(40):
        pool.put(item)
    del item
    got = [pool.get() for _ in range(20)]
    assert all(each is got[0] for each in got)
    assert watch() is got[0]
    del got
    assert watch() is not None
    pool.clear()
    gc.collect()
    assert watch() is None


def test_pool_keeps_one_reference_to_each_item():
    pool = lasting()
    item = Item()
    before = sys.getrefcount(item)
    for _ in range(3):
        pool.put(item)
    assert sys.getrefcount(item) == before + 3
    for _ in range(3):
        assert pool.get() is item
    assert sys.getrefcount(item) == before
    pool.put(item)
    del pool
    assert sys.getrefcount(item) == before


def test_wrong_arguments_raise():
    for wrong in (
        lambda: Pool(),
        lambda: Pool(1),
        lambda: Pool(None),
        lambda: Pool(list, list.clear),
        lambda: Pool(list, reset=1),
        lambda: Pool(list, drop="x"),
        lambda: Pool(list, max_idle=1.5),
        lambda: Pool(list, max_idle="1"),
        lambda: Pool(list, nothing=1),
    ):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="max_idle"):
        Pool(list, max_idle=-1)
    with pytest.raises(ValueError, match="max_idle"):
        Pool(list, max_idle=-(10**30))
    pool = Pool(list)
    for wrong in (
        lambda: pool.put(),
        lambda: pool.put(1, 2),
        lambda: pool.put(thing=1),
        lambda: pool.get(1),
        lambda: pool.use(1),
        lambda: pool.idle(1),
        lambda: pool.clear(1),
    ):
        with pytest.raises(TypeError):
            wrong()
    assert pool.idle() == 0


def test_repr():
    pool = lasting()
    assert repr(pool) == f"<nogil_sync.Pool object at {id(pool):#x}, 0 idle>"
    pool.put(1)
    pool.put(2)
    assert repr(pool).endswith(", 2 idle>")


def test_class_takes_parameters_at_run_time():
    assert Pool[int].__origin__ is Pool
    pool = Pool[int](int)
    assert type(pool) is Pool

    class Sub(Pool[str]):
        pass

    assert Sub(str).get() == ""


# ---- new ----


def test_new_that_raises_leaves_the_pool_unchanged():
    fail = True

    def new():
        if fail:
            raise LookupError
        return 7

    pool = lasting(new)
    for _ in range(2):
        with pytest.raises(LookupError):
            pool.get()
        assert pool.idle() == 0
    pool.put(1)
    assert pool.get() == 1
    with pytest.raises(LookupError), pool.use():
        raise AssertionError("entered")
    fail = False
    assert pool.get() == 7


def test_new_may_use_the_pool():
    depth = 0

    def new():
        nonlocal depth
        depth += 1
        pool.put(Item())
        return pool.get() if depth < 5 else pool

    pool = lasting(new)
    assert isinstance(pool.get(), Item)
    pool.put(Item())
    pool.clear()
    assert depth == 1


# ---- reset ----


def test_reset_runs_before_the_item_is_available():
    seen = []

    def reset(buffer):
        seen.append((buffer.getvalue(), pool.idle()))
        buffer.seek(0)
        buffer.truncate()

    pool = lasting(io.StringIO, reset=reset)
    buffer = pool.get()
    assert seen == []
    buffer.write("text")
    pool.put(buffer)
    assert seen == [("text", 0)]
    assert pool.get() is buffer
    assert buffer.getvalue() == ""


@pytest.mark.parametrize("verdict", [None, True, 0, "", 1, [], 0.0])
def test_reset_refuses_only_by_false(verdict):
    pool = lasting(reset=lambda item: verdict)
    pool.put(Item())
    assert pool.idle() == 1


def test_refused_item_is_dropped():
    dropped = []
    pool = lasting(bytearray, reset=lambda buffer: len(buffer) < 10, drop=dropped.append)
    pool.put(bytearray(9))
    large = bytearray(10)
    pool.put(large)
    assert pool.idle() == 1
    assert len(dropped) == 1
    assert dropped[0] is large


def test_reset_that_raises_drops_the_item():
    dropped = []

    def reset(item):
        if item == "bad":
            raise LookupError(item)

    pool = lasting(reset=reset, drop=dropped.append)
    pool.put("good")
    with pytest.raises(LookupError, match="bad"):
        pool.put("bad")
    assert dropped == ["bad"]
    assert pool.idle() == 1
    with pytest.raises(LookupError), pool.use() as item:
        assert item == "good"
        pool.put("bad")
    assert dropped == ["bad", "bad", "good"]


def test_reset_may_use_the_pool():
    def reset(item):
        if item == 0:
            for n in range(1, 60):
                pool.put(n)
            pool.get()

    pool = lasting(reset=reset)
    pool.put(0)
    assert pool.idle() == 59
    assert pool.get() == 0


# ---- drop ----


def test_drop_gets_each_item_that_leaves():
    dropped = []
    pool = lasting(int, drop=dropped.append, max_idle=3)
    for n in range(5):
        pool.put(n)
    assert dropped == [3, 4]
    pool.clear()
    assert sorted(dropped) == [0, 1, 2, 3, 4]
    pool.put(5)
    del pool
    assert dropped[5:] == [5]


def test_drop_may_use_the_pool():
    seen = []

    def drop(item):
        seen.append(item)
        if len(seen) < 100:
            pool.put(item + 1)
            pool.put(item + 2)
            pool.get()
            pool.idle()

    pool = lasting(int, drop=drop, max_idle=1)
    for n in range(3):
        pool.put(n)
    pool.clear()
    assert len(seen) > 3


@pytest.mark.thread_unsafe(reason="replaces sys.unraisablehook")
def test_drop_that_raises_is_reported(monkeypatch):
    unraisable = []
    monkeypatch.setattr(sys, "unraisablehook", lambda info: unraisable.append(info.exc_type))

    def drop(item):
        raise LookupError(item)

    def reset(item):
        if item == "bad":
            raise ValueError(item)

    pool = lasting(int, drop=drop, reset=reset, max_idle=2)
    for n in range(4):
        pool.put(n)
    assert unraisable == [LookupError] * 2
    with pytest.raises(ValueError, match="bad"):
        pool.put("bad")
    pool.clear()
    assert unraisable == [LookupError] * 5
    pool.put(1)
    with pytest.raises(KeyError), pool.use():
        raise KeyError
    assert pool.idle() == 0
    assert unraisable == [LookupError] * 6


def test_drop_runs_for_a_pool_in_a_cycle():
    dropped = []
    pool = lasting(drop=lambda item: dropped.append(item.name))
    for name in ("a", "b"):
        item = Item()
        item.name, item.pool = name, pool
        pool.put(item)
    del item, pool
    gc.collect()
    assert eventually(lambda: len(dropped) == 2)
    assert sorted(dropped) == ["a", "b"]


@pytest.mark.parametrize("way", ["get", "use"])
@in_own_process
def test_new_that_asks_its_own_pool_raises_recursion_error(way):
    """Also where no Python code lies between: the interpreter's own check is not reached then."""
    pool = Pool.__new__(Pool)
    pool.__init__(partial(Pool.get, pool))
    try:
        if way == "get":
            pool.get()
        else:
            pool.use().__enter__()
    except RecursionError:
        pass
    else:
        raise AssertionError


@pytest.mark.skipif(not NATIVE, reason="a chain of Python calls, which the interpreter counts")
def test_drops_nested_from_pool_to_pool_raise_recursion_error():
    def program():
        pool = Pool(object)
        for _ in range(100_000):
            outer = Pool(object, drop=Pool.clear, age=False)
            outer.put(pool)
            pool = outer
        errors = set()
        sys.unraisablehook = lambda unraisable: errors.add(unraisable.exc_type)
        pool.clear()
        assert pool.idle() == 0
        assert errors <= {RecursionError}

    done = in_process(program)
    assert done.stdout == ""


# ---- max_idle ----


@pytest.mark.parametrize("most", [0, 1, 2, 7, 100])
def test_max_idle_of_one_thread_is_exact(most):
    pool = lasting(max_idle=most)
    for _ in range(3):
        for n in range(most + 5):
            pool.put(n)
            assert pool.idle() == min(n + 1, most)
        for n in range(most, 0, -1):
            assert pool.get() == n - 1
        assert pool.idle() == 0
    for n in range(most + 5):
        pool.put(n)
    pool.clear()
    for n in range(most + 5):
        pool.put(n)
    assert pool.idle() == most


@pytest.mark.parametrize("most", [10**30, 2**63, True])
def test_max_idle_of_any_size_holds(most):
    pool = lasting(max_idle=most)
    pool.put(1)
    assert pool.idle() == 1


@starts_threads
@pytest.mark.parametrize("most", [0, 1, 5, 60])
def test_max_idle_of_many_threads_holds(most):
    pool = lasting(max_idle=most)
    workers = 4
    highest = [0] * workers

    def work(k):
        held = []
        for n in range(2000):
            if n % 7:
                pool.put(n)
            else:
                held.append(pool.get())
            highest[k] = max(highest[k], pool.idle())

    run_threads(*(lambda k=k: work(k) for k in range(workers)))
    assert max(highest) <= most + workers
    while pool.idle():
        pool.get()
    for n in range(most + 3):  # what finished threads reserved is free again
        pool.put(n)
    assert pool.idle() == most


# ---- use ----


def test_use_gets_and_puts_back():
    pool = lasting(list, reset=list.clear)
    with pool.use() as item:
        assert type(item) is list
        item.append(1)
        assert pool.idle() == 0
        with pool.use() as other:
            assert other is not item
    assert pool.idle() == 2
    assert pool.get() is item
    assert item == []


def test_use_drops_the_item_after_an_error():
    dropped = []
    reset = []
    pool = lasting(reset=reset.append, drop=dropped.append)
    with pytest.raises(LookupError), pool.use() as item:
        raise LookupError
    assert reset == []
    assert len(dropped) == 1
    assert dropped[0] is item
    assert pool.idle() == 0


def test_use_can_be_reused_but_not_nested():
    pool = lasting()
    use = pool.use()
    with pytest.raises(RuntimeError, match="not in use"):
        use.__exit__(None, None, None)
    for _ in range(3):
        with use as item:
            with pytest.raises(RuntimeError, match="already in use"):
                use.__enter__()
            assert isinstance(item, Item)
        assert pool.idle() == 1
    with pytest.raises(RuntimeError, match="not in use"):
        use.__exit__(None, None, None)
    assert pool.idle() == 1


def test_use_cannot_be_copied():
    use = lasting().use()
    with use:
        for wrong in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="cannot pickle or copy"):
                wrong(use)


def test_use_refers_to_its_item():
    class Thing:
        pass

    pool = lasting(Thing)
    with pool.use() as thing:
        watch = weakref.ref(thing)
    del thing
    gc.collect()
    assert watch() is not None
    assert watch() is pool.get()


def test_new_that_enters_the_same_use_raises():
    made = []

    def new():
        made.append(None)
        if len(made) == 1:
            use.__enter__()
        return []

    pool = lasting(new)
    use = pool.use()
    with pytest.raises(RuntimeError):
        use.__enter__()
    assert pool.idle() == 1  # the item of the thread that came too late
    use.__exit__(None, None, None)
    assert pool.idle() == 2


@starts_threads
def test_use_entered_by_many_threads():
    pool = lasting()
    for _ in range(50):
        use = pool.use()
        pool.clear()

        def enter(use=use):
            try:
                return use.__enter__()
            except RuntimeError:
                return None

        got = [item for item in run_threads(enter, times=3) if item is not None]
        assert len(got) == 1
        use.__exit__(None, None, None)
        assert pool.idle() <= 3


def test_abandoned_use_frees_its_item():
    pool = lasting()
    use = pool.use()
    watch = weakref.ref(use.__enter__())
    del use
    gc.collect()
    assert watch() is None
    assert pool.idle() == 0


def test_long_chain_of_uses_is_freed():
    pool = lasting(lambda: None)
    use = None
    for _ in range(50_000):
        outer = pool.use()
        pool.put(use)
        assert outer.__enter__() is use
        use = outer
    del use, outer
    assert pool.idle() == 0


def test_use_in_a_cycle_is_collected():
    pool = lasting()
    item = Item()
    item.use, item.pool = pool.use(), pool
    watch = weakref.ref(item)
    pool.put(item)
    assert item.use.__enter__() is item
    del item, pool
    gc.collect()
    assert watch() is None


def test_overridden_methods_are_called_by_users_only():
    class Counting(Pool):
        gets = 0

        def get(self):
            self.gets += 1
            return super().get()

    pool = Counting(list, age=False)
    pool.put(pool.get())
    with pool.use():
        pass
    assert pool.gets == 1


# ---- threads ----


@starts_threads
def test_items_put_by_other_threads_are_found():
    pool = lasting(lambda: pytest.fail("made one"))
    items = [Item() for _ in range(300)]
    run_threads(*(lambda k=k: [pool.put(items[n]) for n in range(k, 300, 3)] for k in range(3)))
    assert pool.idle() == 300
    got = {id(pool.get()) for _ in range(150)}
    got |= {
        id(item)
        for each in run_threads(lambda: [pool.get() for _ in range(75)], times=2)
        for item in each
    }
    assert got == set(map(id, items))
    assert pool.idle() == 0


@starts_threads
def test_stores_before_put_are_seen_after_get():
    pool = lasting(dict)

    def work():
        for n in range(3000):
            item = pool.get()
            assert item.get("open") is None
            item["open"] = threading.get_ident()
            item["uses"] = item.get("uses", 0) + 1
            assert item.pop("open") == threading.get_ident()
            pool.put(item)
            if n % 10 == 0:
                pool.put(pool.get())
        return 3000 + 0

    total = sum(run_threads(work, times=4))
    uses = 0
    while pool.idle():
        uses += pool.get().get("uses", 0)
    assert uses == total


@starts_threads
def test_ten_thousand_short_threads_share_a_pool():
    made = []

    def new():
        made.append(None)
        return Item()

    pool = lasting(new)
    barrier = threading.Barrier(20)

    def work():
        item = pool.get()
        pool.put(item)

    def meet():
        item = pool.get()
        barrier.wait(30)
        pool.put(item)

    run_threads(meet, times=20)
    before = len(made)
    size = sys.getsizeof(pool)
    for _ in range(100):
        run_threads(work, times=20)
    # Each get found an idle item; more were made only if all were in use at the same moment.
    assert len(made) <= before
    assert pool.idle() == len(made) <= 20
    if NATIVE:
        assert sys.getsizeof(pool) <= 2 * size


@starts_threads
def test_pool_is_freed_after_threads_used_it():
    class Slow:
        def __init__(self):
            inside.set()
            assert leave.wait(30)

    for way in ("new", "reset"):
        inside, leave = threading.Event(), threading.Event()
        dropped = []
        if way == "new":
            pool = Pool(Slow, drop=dropped.append)
            calls = [lambda pool=pool: pool.get()]
        else:
            pool = Pool(list, reset=lambda _: Slow() and None, drop=dropped.append)
            calls = [lambda pool=pool: pool.put([])]
        watch = weakref.ref(pool)
        thread = threading.Thread(target=calls.pop(), daemon=True)
        del pool
        thread.start()
        assert inside.wait(30)
        gc.collect()
        assert watch() is not None
        leave.set()
        thread.join(30)
        del thread
        assert eventually(lambda watch=watch: gc.collect() >= 0 and watch() is None)
        assert len(dropped) == (way == "reset")


# ---- against a model ----


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(1, 8)),
        st.tuples(st.just("get"), st.integers(1, 8)),
        st.sampled_from([("collect", 0), ("clear", 0)]),
    ),
    max_size=30,
)


@ages
@settings(max_examples=40, deadline=None)
@given(steps=STEPS, most=st.one_of(st.none(), st.integers(0, 6)))
def test_random_operations_agree_with_a_list_of_ages(steps, most):
    gc.disable()
    try:
        age, counter = 0, 0
        model = []  # item, age
        dropped = []
        gone = []
        pool = Pool(lambda: -1, drop=dropped.append, max_idle=most)
        for what, times in steps:
            for _ in range(times):
                if what == "put":
                    counter += 1
                    pool.put(counter)
                    if most is not None and len(model) >= most:
                        gone.append(counter)
                    else:
                        model.append((counter, age))
                elif what == "get":
                    assert pool.get() == (model.pop()[0] if model else -1)
            if what == "collect":
                gc.collect()
                age += 1
                gone += [item for item, since in model if age - since >= 2]
                model = [(item, since) for item, since in model if age - since < 2]
            elif what == "clear":
                pool.clear()
                gone += [item for item, _ in model]
                model = []
            assert pool.idle() == len(model)
            assert sorted(dropped) == sorted(gone)
    finally:
        gc.enable()
