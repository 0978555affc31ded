"""The benchmarks run: too short to measure anything, but to the end and with sound results."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from marks import watches_memory
from support import eventually

pyperf = pytest.importorskip("pyperf", reason="the benchmarks are made with pyperf")

PERF = Path(__file__).parents[2] / "perf"
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

pytestmark = [
    pytest.mark.thread_unsafe,
    pytest.mark.skipif(not PERF.is_dir(), reason="not run in the source tree"),
]


def start(*command: object, **environment: str) -> subprocess.Popen[str]:
    # As a user runs them: a script's own folder is on the path.
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONSAFEPATH"}
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(*command: object, **environment: str) -> tuple[int, str]:
    process = start(*command, **environment)
    output, _ = process.communicate(timeout=240)
    return process.returncode, output


BENCHMARKS = [
    "asyncio",
    "atomics",
    "barrier",
    "cache",
    "channel",
    "cond",
    "counter",
    "mutex",
    "once",
    "pool",
    "prometheus",
    "reach",
    "rwmutex",
    "select",
    "semaphore",
    "syncmap",
    "waitgroup",
]


@pytest.fixture(params=BENCHMARKS)
def script(request: pytest.FixtureRequest) -> Path:
    return PERF / f"bench_{request.param}.py"


def check_metadata(metadata: dict[str, object], threads: int) -> None:
    assert metadata["threads"] == threads
    assert metadata["gil_enabled"] == ("no" if FREE_THREADED else "yes")
    assert metadata["nogil_sync_backend"] in ("native", "threading")
    assert metadata["row_kind"] in ("floor", "stdlib", "peer", "ours")
    for key in ("operation", "row", "reference_row", "python_build", "python_config_args"):
        assert metadata[key]
    assert int(str(metadata["usable_cores"])) >= 1


def test_every_benchmark_row_runs(script: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    threads = 3
    tiny = ("--quick", "--quiet", "--min-time", "0.0001", "--threads", threads, "--ways")
    code, printed = run(script, *tiny, "-o", output, NOGIL_SYNC_BENCH_SHRINK="64")
    assert code == 0, printed
    benches = pyperf.BenchmarkSuite.load(str(output)).get_benchmarks()
    assert len(benches) >= 10
    kinds = set()
    for bench in benches:
        check_metadata(bench.get_metadata(), threads)
        kinds.add(bench.get_metadata()["row_kind"])
        assert min(bench.get_values()) > 0
    # Ways to reach our objects are compared with one another, and awaited waits with asyncio's.
    missing = {"bench_reach": {"stdlib"}, "bench_asyncio": {"floor"}}.get(script.stem, set())
    assert kinds >= {"floor", "ours", "stdlib"} - missing
    names = {bench.get_name() for bench in benches}
    for bench in benches:
        metadata = bench.get_metadata()
        assert f"{metadata['operation']}: {metadata['reference_row']}: {threads}T" in names


def test_hit_ratios_are_compared(tmp_path: Path) -> None:
    page, plot, output = tmp_path / "page.md", tmp_path / "plot.svg", tmp_path / "found.json"
    page.write_text("above\n<!-- hit ratios -->\nold\n<!-- end of hit ratios -->\nbelow\n")
    small = ("--part", "0.03", "--processes", "1", "--only", "^(Zipf|loop|pairs)")
    where = ("--markdown", page, "--svg", plot, "-o", output)
    code, printed = run(PERF / "cache_policies.py", *small, *where)
    assert code == 0, printed
    assert "below LRU" in printed
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "old" not in text
    assert "| loop, 125 % | 30 of 37 |" in text
    found = json.loads(output.read_text())
    for each in found:
        ratios = each["ratios"]
        assert max(ratios.values()) == ratios["best possible"]
        # The model remembers hashes that the cache has forgotten, or the other way round.
        assert abs(ratios["Cache"] - ratios["its model"]) < 0.05, each
    loops = [each for each in found if each["trace"].startswith("loop")]
    assert loops
    assert all(each["ratios"]["LRU"] == 0 for each in loops)
    if importlib.util.find_spec("matplotlib") is not None:
        assert "<svg" in plot.read_text()


def test_log_line_latencies_are_measured() -> None:
    code, printed = run(PERF / "pooling.py", "--threads", "1,2", "--seconds", "0.02")
    assert code == 0, printed
    assert "io.StringIO" in printed
    assert "new calls" in printed


def test_benchmarks_run_under_pyperf(tmp_path: Path) -> None:
    """With worker processes, which get our options and the choice of backend passed on."""
    script = PERF / "bench_counter.py"
    only = ("--only", "FloatCounter", "--threads", "2", "--quiet")
    tiny = ("--processes", "2", "--values", "2", "--loops", "50")
    output = tmp_path / "out.json"
    code, printed = run(script, *only, *tiny, "-o", output, NOGIL_SYNC_BACKEND="threading")
    assert code == 0, printed
    suite = pyperf.BenchmarkSuite.load(str(output))
    for bench in suite.get_benchmarks():
        assert bench.get_nrun() == 2
        check_metadata(bench.get_metadata(), 2)
        assert bench.get_metadata()["nogil_sync_backend"] == "threading"
    same = shutil.copy(output, tmp_path / "same.json")
    code, printed = run("-m", "pyperf", "compare_to", "--table", output, same)
    assert code == 0, printed


def test_driver_shows_a_table_and_a_plot(tmp_path: Path) -> None:
    only = ("--only", "ShardedFloat,with m: pass", "--threads", "1,2", "--budget", "0.5")
    code, printed = run(PERF, *only, "-o", tmp_path / "out", "--details")
    assert code == 0, printed
    assert "ShardedFloatCounter.add" in printed
    assert "vs ref" in printed
    assert "smallest share" in printed
    assert printed.index("the standard library's rate as the objects come") < printed.index(
        "vs ref"
    )
    assert "| ShardedFloatCounter.add |" in (tmp_path / "out" / "report.md").read_text()
    assert "</html>" in (tmp_path / "out" / "report.html").read_text()
    assert pyperf.BenchmarkSuite.load(str(tmp_path / "out" / "bench.json")).get_benchmarks()
    for lock in json.loads((tmp_path / "out" / "fairness.json").read_text())["locks"]:
        assert 0 <= lock["smallest_share"] <= 1 <= lock["largest_share"]
    if importlib.util.find_spec("matplotlib") is None:
        assert "no plot" in printed
    else:
        assert (tmp_path / "out" / "scaling.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / "out" / "scaling.svg").read_text()

    code, printed = run(PERF, "--report", tmp_path / "out", "-o", tmp_path / "again")
    assert code == 0, printed
    assert " operations)" in printed
    assert "vs ref" not in printed
    assert (tmp_path / "again" / "report.html").exists()


def store_slower(source: Path, target: Path, row: str, factor: float, values: int = 5) -> None:
    """The same results with one row slower, and with values that lie close together."""
    suite = pyperf.BenchmarkSuite.load(str(source))
    benches = []
    for bench in suite.get_benchmarks():
        metadata = bench.get_metadata()
        value = bench.median() * (factor if metadata["row"] == row else 1.0)
        some = [value * (1 + 0.001 * step) for step in range(values)]
        run = pyperf.Run(some, metadata=metadata, collect_metadata=False)
        benches.append(pyperf.Benchmark([run]))
    pyperf.BenchmarkSuite(benches).dump(str(target))


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of a counter."""
    out = tmp_path_factory.mktemp("small") / "out"
    only = ("--only", "ShardedCounter", "--threads", "1,2", "--budget", "0.1", "--json-only")
    code, printed = run(PERF, *only, "-o", out)
    assert code == 0, printed
    return out / "bench.json"


def test_comparison_names_the_row_that_became_slower(small_run: Path, tmp_path: Path) -> None:
    row = "ShardedCounter.add"
    for name, factor in (("before", 1.0), ("after", 1.5)):
        (tmp_path / name).mkdir()
        store_slower(small_run, tmp_path / name / "bench.json", row, factor)
    before, after = tmp_path / "before", tmp_path / "after"
    code, printed = run(PERF, "--compare", before, after, "-o", tmp_path / "out")
    assert code == 1, printed
    slower = [line for line in printed.splitlines() if line.rstrip().endswith(" slower")]
    assert len(slower) == 2, printed
    assert all(line.startswith(f"{row}  ") and "0.67" in line for line in slower), printed
    stored = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert [(each["row"], each["verdict"]) for each in stored["rows"][:3]] == [
        (row, "slower"),
        (row, "slower"),
        (stored["rows"][2]["row"], "same"),
    ]
    assert "slower" in (tmp_path / "out" / "comparison.md").read_text()
    assert "slower" in (tmp_path / "out" / "comparison.html").read_text()

    code, printed = run(PERF, "--compare", before, after, "--threshold", "60")
    assert code == 0, printed
    code, printed = run(PERF, "--compare", after, before / "bench.json", "--details")
    assert code == 0, printed
    assert "2 rows" in printed


def test_comparison_of_a_run_with_itself_finds_nothing(small_run: Path) -> None:
    code, printed = run(PERF, "--compare", small_run, small_run, "--threshold", "0")
    assert code == 0, printed
    assert "none of" in printed
    assert "1.00" in printed


@pytest.mark.parametrize("wrong", ["missing", "empty", "text", "other", "another operation"])
def test_comparison_refuses_what_holds_no_results(
    small_run: Path, tmp_path: Path, wrong: str
) -> None:
    path = tmp_path / wrong
    if wrong == "empty":
        path.mkdir()
    elif wrong == "text":
        path.write_text("not JSON")
    elif wrong == "other":
        path.write_text('{"benchmarks": 3}')
    elif wrong == "another operation":
        path.write_text(small_run.read_text().replace("ShardedCounter.add", "Nothing.like_it"))
    code, printed = run(PERF, "--compare", small_run, path)
    assert code == 2, printed
    (line,) = printed.splitlines()
    assert line.startswith("error: ")
    assert str(path) in line or "in common" in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--compare", "a"), "expected 2 arguments"),
        (("--compare", "a", "b", "--threshold", "-3"), "number of percent"),
        (("--only", "["), "--only"),
        (("--threads", "0"), "at least 1"),
        (("--threads", "one"), "numbers"),
        (("--only", "ShardedFloat", "-o", "/dev/null/results"), "cannot write into"),
        (("--report", "/nowhere/at/all"), "there is no /nowhere"),
    ],
)
def test_wrong_argument_is_an_error_in_one_line(arguments: tuple[str, ...], said: str) -> None:
    code, printed = run(PERF, *arguments)
    assert code in (1, 2), printed
    assert "Traceback" not in printed
    last = printed.splitlines()[-1]
    assert "error: " in last
    assert said in last


def test_missing_go_is_a_note_and_no_error(tmp_path: Path) -> None:
    only = ("--only", "ShardedFloat", "--threads", "1", "--budget", "0.1", "--go")
    code, printed = run(PERF, *only, "-o", tmp_path / "out", PATH=str(tmp_path))
    assert code == 0, printed
    assert "Go is not measured: there is no Go toolchain on PATH" in printed


@pytest.mark.skipif(shutil.which("go") is None, reason="no Go toolchain on PATH")
def test_go_is_measured_beside_ours(tmp_path: Path) -> None:
    only = ("--only", "mutex Mutex.*x .= 1$,woken", "--threads", "2", "--budget", "0.5", "--go")
    code, printed = run(PERF, *only, "-o", tmp_path / "out", "--details")
    assert code == 0, printed
    assert "Beside Go" in printed
    assert "Go: sync.Mutex" in printed
    assert "Go: select of 5" in printed
    stored = json.loads((tmp_path / "out" / "go.json").read_text())
    assert all(min(cell["values"]) > 0 for cell in stored["cells"])


def test_every_go_row_is_beside_an_operation_of_ours() -> None:
    code, printed = run(PERF, "--list")
    assert code == 0, printed
    rows = re.findall(r'^\t\{"([^"]+)", "Go: ', (PERF / "go" / "rows.go").read_text(), re.MULTILINE)
    assert len(rows) > 20
    for operation in rows:
        assert re.search(rf"^\w+ {re.escape(operation)}(  |$)", printed, re.MULTILINE), operation


def store_as(version: str, source: Path, target: Path) -> None:
    """The same results as if another version of Python had given them."""
    stored = json.loads(source.read_text())
    for metadata in (stored["metadata"], *(b.get("metadata", {}) for b in stored["benchmarks"])):
        if "python_version" in metadata:
            metadata["python_version"] = version
    target.parent.mkdir()
    target.write_text(json.dumps(stored))


def test_driver_shows_versions_side_by_side(tmp_path: Path) -> None:
    only = ("--only", "ShardedFloat,reach.*Event.is_set", "--threads", "1,2", "--budget", "0.1")
    code, printed = run(PERF, *only, "-o", tmp_path / "first", "--json-only")
    assert code == 0, printed
    out = tmp_path / "out"
    out.mkdir()
    for version in ("3.98.1 (64-bit)", "3.99.2 (64-bit)"):
        source = tmp_path / "first" / "bench.json"
        store_as(version, source, out / version[:4] / "bench.json")
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- measured -->\nold\n<!-- end of measured -->\nbelow\n")
    code, printed = run(PERF, "--report", out, "--markdown", page, "--details")
    assert code == 0, printed
    assert "CPython 3.98.1, 3.99.2 (" in printed
    label = "t" if FREE_THREADED else ""
    (header,) = [
        line for line in printed.splitlines() if line.startswith("ShardedFloatCounter.add ")
    ][:1]
    assert header.index(f"3.98{label} 1T") < header.index(f"3.99{label} 1T")
    text = page.read_text()
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "old" not in text
    assert f"| operation | reached as | 3.98{label} | 3.98{label}, pinned | 3.99{label} |" in text
    assert "| Event.is_set | local |" in text
    if importlib.util.find_spec("matplotlib") is not None:
        for name in ("scaling", "reach"):
            assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert page.with_suffix(".svg").read_bytes() == (out / "reach.svg").read_bytes()


def test_interpreters_are_measured_one_after_the_other(tmp_path: Path) -> None:
    """One that fails is named, and the others are shown."""
    only = ("--only", "ShardedFloat", "--threads", "1,2", "--budget", "0.1")
    named = ("--interpreter", f"good={sys.executable}", "--interpreter", "bad=false")
    code, printed = run(PERF, *named, *only, "-o", tmp_path / "out", "--details")
    assert code == 0, printed
    assert "nothing from bad" in printed
    assert "ShardedFloatCounter.add" in printed
    assert (tmp_path / "out" / "good" / "bench.json").exists()


def test_driver_stops_at_an_interrupt_with_what_was_measured(tmp_path: Path) -> None:
    process = start(PERF, "--only", "ShardedCounter", "--budget", "10", "-o", tmp_path / "out")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("[2/"):
            break
    interrupted = time.monotonic()
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert time.monotonic() - interrupted < 30
    assert process.returncode == 130, printed
    assert "stopped" in printed
    assert len(pyperf.BenchmarkSuite.load(str(tmp_path / "out" / "bench.json"))) >= 2


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_driver_stopped_before_anything_is_measured_leaves_nothing(tmp_path: Path) -> None:
    process = start(PERF, "--only", "ShardedCounter", "--budget", "1000", "-o", tmp_path / "out")
    measuring = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    assert eventually(lambda: measuring.read_text() != "")
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "stopped before anything was measured" in printed
    assert not (tmp_path / "out").exists()


def test_driver_stopped_at_its_imports_says_so_in_a_line() -> None:
    process = start("-X", "importtime", PERF, "--only", "ShardedCounter")
    assert process.stdout is not None
    for line in process.stdout:
        if line.endswith(" argparse\n"):  # the first of the driver's
            break
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    lines = [line for line in printed.splitlines() if not line.startswith("import time:")]
    assert (process.returncode, "".join(lines)) == (130, "stopped"), printed


@pytest.mark.parametrize("page", ["no such page", "one without marks"])
def test_page_that_cannot_take_the_table_is_an_error_beforehand(tmp_path: Path, page: str) -> None:
    (tmp_path / "one without marks").write_text("text")
    out = tmp_path / "out"
    code, printed = run(PERF, "--only", "reach", "--markdown", tmp_path / page, "-o", out)
    assert code == 1
    assert page in printed
    assert not out.exists()


def test_operation_chooses_its_thread_counts(tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    tiny = ("--quick", "--quiet", "--min-time", "0.0001")
    code, printed = run(PERF / "bench_cond.py", *tiny, "--only", "rounds", "-o", output)
    assert code == 0, printed
    suite = pyperf.BenchmarkSuite.load(str(output))
    counts = {bench.get_metadata()["threads"] for bench in suite.get_benchmarks()}
    assert counts == {2, 3, 5, 9, 17, 33}


def test_some_operations_run_only_with_full() -> None:
    code, printed = run(PERF, "--list", "--only", "rwmutex")
    assert code == 0, printed
    operations = [line for line in printed.splitlines() if line.startswith("rwmutex ")]
    left = [line for line in operations if line.endswith("(with --full or --only)")]
    assert 0 < len(left) < len(operations)


def test_unknown_operation_is_an_error(tmp_path: Path) -> None:
    code, printed = run(PERF, "--only", "nothing like it", "-o", tmp_path / "out")
    assert code != 0
    assert "no operation matches" in printed


MAP_SCRIPTS = {
    "costs": ("--few", 10, "--many", 100, "--rounds", 1, "--seconds", 0.01, "--threads", 3),
    "stalls": ("--entries", 5_000, "--repeat", 2),
    "memory": ("--entries", 1_000, "--emptied", 3_000),
    "churn": ("--operations", 4_000, "--threads", "1,3"),
}


@pytest.mark.parametrize("name", MAP_SCRIPTS)
def test_map_scripts_run(name: str, tmp_path: Path) -> None:
    output = tmp_path / "out.json"
    script = PERF / f"syncmap_{name}.py"
    code, printed = run(script, *MAP_SCRIPTS[name], "-o", output)
    assert code == 0, printed
    assert "dict" in printed
    assert "SyncMap" in printed
    stored = json.loads(output.read_text())
    assert stored["environment"]["gil_enabled"] == ("no" if FREE_THREADED else "yes")
    rounds = 2 if "--repeat" in MAP_SCRIPTS[name] else 1
    assert all(len(results) == rounds for results in stored["results"].values())


@watches_memory
def test_memory_script_frees_objects_at_once(tmp_path: Path) -> None:
    """Objects of one thread, and those that two threads share for a moment, need no collection."""
    output, objects = tmp_path / "out.json", 20_000
    code, printed = run(PERF / "memory.py", "--objects", objects, "-o", output)
    assert code == 0, printed
    for name, (result,) in json.loads(output.read_text())["results"].items():
        assert result["alive"] < objects / 10, (name, printed)
        assert result["grown"] < objects * 48, (name, printed)  # 48 bytes: the smallest object


def test_pinned_graph_script_runs() -> None:
    tiny = ("--objects", 600, "--chain", 600, "--seconds", 0.001, "--values", 1)
    code, printed = run(PERF / "pin_deep.py", *tiny)
    assert code == 0, printed
    assert "the longest time for which another thread stood still" in printed
    assert sum("attributes" in line for line in printed.splitlines()) == 2
    assert "left: obj['lock'][0] is a lock, obj['file']['it'] " in printed


def test_instruction_counter_lists_its_operations() -> None:
    """Callgrind is not everywhere: the process that it watches runs without it, too."""
    code, printed = run("-P", PERF / "instructions.py", "--measure", 20)
    assert code == 0, printed


@pytest.mark.skipif(not FREE_THREADED, reason="of free-threaded interpreters")
def test_refuses_to_measure_with_the_gil_on(script: Path) -> None:
    code, printed = run(script, "--quick", PYTHON_GIL="1")
    assert code != 0
    assert "its GIL is on" in printed
