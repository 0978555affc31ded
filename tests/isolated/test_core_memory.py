"""The C core's allocations fail, one after the other: what it raises, and what is left."""

import platform
import re
import shutil
import subprocess
import sys
import threading
from itertools import pairwise

import pytest
from forks import in_child
from marks import starts_processes
from support import NATIVE

from nogil_sync import Pool, SyncMap

pytestmark = [
    starts_processes,
    pytest.mark.skipif(not NATIVE, reason="the pure backend allocates by Python only"),
]


def all_cases(**way):
    """Run each case with each allocation failing in this way; how many failed in each."""
    import core_cases
    from nomemory import CORE, each_fails

    hit = {}
    for name, case in core_cases.CASES.items():
        try:
            hit[name] = each_fails(CORE, case, **way)
        except BaseException as error:
            error.add_note(f"in {name}")
            raise
    return hit


WAYS = {
    "one": {},
    "all from one on": {"rest": True},
    "one, in a new thread": {"thread": True},
    "all from one on, in a new thread": {"rest": True, "thread": True},
}

# In seconds, for programs that run all cases: they take a few seconds of processor time, but hand
# over between threads so often that a loaded machine needs minutes.
LONG = 150

# Where the core allocates. The last is for slots.c: the C library allocates in it.
ALLOCATES = "malloc|calloc|realloc|aligned_alloc|posix_memalign|pthread_setspecific"

# Of a function, by way of the procedure linkage table, or through its entry in the global offset
# table (-fno-plt). There may be prefixes (bnd, addr32); older binutils append the size (callq).
CALL = re.compile(r"(?:\w+ +)*(call|jmp)q? +(?:[0-9a-f]+|\*.*\(%rip\) +# [0-9a-f]+) <([^+>]+)>")


# Functions that are left out, and why.
UNREACHED = {"repair": "runs in the child of a fork for which a thread had the lock of a cache"}


def call_sites(library):
    """Where a library calls what allocates: for each place the addresses that calls return to."""
    text = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", library], capture_output=True, text=True, check=True
    ).stdout
    lines = re.findall(r"^(?:[0-9a-f]+ <(.+)>:| *([0-9a-f]+):\t(.*))$", text, re.MULTILINE)
    function, calls, jumps, callers = "", [], {}, {}
    for (name, at, what), (_, following, _) in pairwise(lines):
        function = name or function
        call = CALL.match(what)
        if call is None or function.endswith("@plt") or function.split(".")[0] in UNREACHED:
            continue
        kind, target = call.groups()
        if re.fullmatch(f"({ALLOCATES})(@.*)?", target):
            if kind == "call":
                calls.append({int(following, 16)})
            else:  # in the place of a return: it returns to where this function was called
                jumps[function] = at
        elif kind == "call" and following:
            callers.setdefault(target, set()).add(int(following, 16))
    return calls + [callers.get(function, set()) for function in jumps]


@pytest.mark.skipif(not shutil.which("objdump"), reason="disassembles the extension")
@pytest.mark.skipif(
    not re.fullmatch("x86_64|AMD64", platform.machine()), reason="reads x86-64 code"
)
def test_every_allocation_site_of_the_core_has_failed(without_memory):
    def program():
        import core_cases
        import nomemory

        for way in {}, {"rest": True}:
            all_cases(**way)
        # While other threads have slots: tables grow for a new one.
        with core_cases.crowd(core_cases.ShardedCounter().add):
            all_cases(thread=True)
        print(*nomemory.sites(nomemory.CORE))

    done = without_memory(program, timeout=LONG)
    failed = {int(at) for at in done.stdout.split()}
    sites = call_sites(sys.modules["nogil_sync._native._core"].__file__)
    if not sites:
        pytest.skip("does not understand this disassembly")
    reached = [site for site in sites if site & failed]
    print(f"{len(reached)} of {len(sites)} places that allocate have failed")
    assert len(sites) >= 10
    assert [sorted(map(hex, site)) for site in sites if not site & failed] == []
    assert failed <= set().union(*sites)


@pytest.mark.parametrize("way", WAYS)
def test_each_failing_allocation_raises_or_is_survived(without_memory, way):
    def program(way):
        import core_cases
        from nomemory import Tally

        with core_cases.crowd(lambda: None, 3 * ("new" in way)):
            hit = all_cases(**WAYS[way])
        never = [name for name, n in hit.items() if not n]
        print(Tally.runs, "runs,", Tally.failed, "allocations failed,", Tally.refused, "refused;")
        print("nothing to fail in:", *never)
        assert len(hit) - len(never) > 40

    print(without_memory(program, way, timeout=LONG).stdout)


@pytest.mark.parametrize("way", ["one", "all from one on, in a new thread"])
def test_failed_allocations_leak_nothing(without_memory, way):
    def program(way):
        import core_cases
        from nomemory import in_use

        # Its setup makes functions, which CPython 3.13t never frees, nor the map they refer to.
        del core_cases.CASES["SyncMap.load_or_compute"]
        all_cases(**WAYS[way])  # caches fill
        growth = []
        for _ in range(2):
            before = in_use()
            all_cases(**WAYS[way])
            growth.append(in_use() - before)
        print("kept, in bytes:", growth)
        assert min(growth) <= 64, growth

    print(without_memory(program, way, timeout=LONG).stdout)


def test_pools_that_could_not_be_made_leave_nothing(without_memory):
    def program():
        from nomemory import CORE, attempt, in_use

        def fail():
            pool = Pool.__new__(Pool)
            refused, failed = attempt(CORE, 0, 1, lambda: pool.__init__(list, max_idle=1))
            assert refused
            assert failed == 1

        for _ in range(10):  # caches fill
            fail()
        before = in_use()
        for _ in range(200):
            fail()
        growth = in_use() - before
        assert growth < 1000, growth

    without_memory(program)


def test_allocations_fail_in_the_child_of_a_fork(without_memory):
    def program():
        import core_cases
        from nomemory import Tally

        def child():
            before = Tally.failed
            all_cases()
            assert Tally.failed > before + 100

        with core_cases.crowd(lambda: core_cases.SOURCE.copy()):
            for _ in range(3):
                in_child(child, limit=100)

    assert without_memory(program, timeout=LONG).stderr == ""


def test_allocations_fail_while_other_threads_use_the_map(without_memory):
    # So no memory is freed at once, and segments are moved while others read them.
    def program():
        from nomemory import CORE, Tally, each_fails

        stop = False
        maps = [SyncMap()]
        errors = []

        def use(k):
            try:
                while not stop:
                    m = maps[-1]
                    for n in range(200):
                        assert m.setdefault((k, n), n) == n
                    for n in range(200):
                        assert m.pop((k, n)) == n
            except BaseException as error:
                errors.append(error)

        def case():
            m = SyncMap()
            maps[:] = [m]
            done = []

            def fill():
                for n in range(3000):
                    m[n] = n
                    done.append(n)
                for n in range(2000):
                    assert m.pop(n) == n

            yield fill
            assert errors == []
            mine = {key for key in m if type(key) is int}
            assert mine == set(range(2000 if len(done) == 3000 else 0, len(done)))

        threads = [threading.Thread(target=use, args=(k,)) for k in range(2)]
        for t in threads:
            t.start()
        try:
            for _ in range(3):
                for rest in False, True:
                    each_fails(CORE, case, rest=rest)
        finally:
            stop = True
        for t in threads:
            t.join()
        assert errors == []
        print(Tally.runs, "runs,", Tally.failed, "allocations failed")
        assert Tally.failed >= 6

    print(without_memory(program).stdout)
