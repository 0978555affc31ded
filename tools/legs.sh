# shellcheck shell=bash
# The legs of the test suite. Each runs everything that makes sense there and leaves its totals for the summary.

# Those of `./dev test`, those that --full runs instead, and more names that --leg knows.
SHORT_LEGS=(native standard core)
FULL_LEGS=(native-3.13t native-3.14t native-3.15t parallel threading standard standard-newest core tsan asan)
LEGS=(native "${FULL_LEGS[@]}")
# The tests of the tools depend little on backend and version, and take minutes: these legs of --full leave them out.
OF_TOOLS=(tests/isolated/test_{arm64,docs,docs_browser,packaging,perf,perf_page,server,server_application,server_load,server_page,transfers}.py)
WITHOUT_TOOLS=(native-3.14t)
# The short test leaves to --full those, other projects' suites, and the hunt for leaks. So do those legs of --full that
# repeat, on one more interpreter, what another leg runs.
LEFT_TO_FULL=("${OF_TOOLS[@]}" tests/outside tests/isolated/test_{leaks,leak_hunter}.py)
REPEATED=(native-3.15t threading standard-newest)
# The short test alone also leaves these to --full: they interrupt, fork and refuse memory at every step, which takes long.
AT_EVERY_STEP=(tests/isolated/test_{asyncio_interrupts,core_memory,fork_phases,select_interrupts}.py)
# These legs of --full stress for a third of the time.
BRIEF=(native-3.14t parallel standard "${REPEATED[@]}")
SHORT= # set by the short test

# is_leg NAME: standard-3.12 and so on are legs too.
is_leg() { [[ " ${LEGS[*]} ${ARM64_LEGS[*]} " == *" $1 "* || $1 == standard-3.[0-9]* ]]; }

# run_leg NAME ARGS...
run_leg() {
  local leg=$1
  shift
  case $leg in
    *-arm64) leg_arm64 "$leg" "$@" ;;
    native-*) suite_native "$leg" "${leg//[^0-9.]/}" "$@" ;;
    standard-*) suite "$leg" "standard ${leg#standard-}" "$@" ;;
    *) "leg_$leg" "$@" ;;
  esac
}

# run_legs LEG... -- PYTEST-ARGS...: runs them one after the other, whatever fails, and sums up. A leg whose
# interpreter cannot be had is no failure where OPTIONAL says so.
run_legs() {
  local names=() leg status begin failed=0 ran=0 verdict summary=()
  while [[ $1 != -- ]]; do
    names+=("$1")
    shift
  done
  shift
  RESULTS=$(mktemp -d)
  trap 'rm -rf "$RESULTS"' EXIT
  for leg in "${names[@]}"; do
    printf '\n==== %s ====\n' "$leg"
    begin=$SECONDS
    rm -f "$RESULTS"/.[a-z]*
    # In a subshell, as a leg that cannot run must not end the others; not in a condition,
    # where bash ignores -e.
    set +e
    (set -e; end_on_interrupt; run_leg "$leg" "$@")
    status=$?
    set -e
    if ((status)) && [[ -s $RESULTS/.unavailable ]]; then
      summary+=("$(printf '%-16s not available here: %s' "$leg" "$(cat "$RESULTS/.unavailable")")")
      [[ -n ${OPTIONAL:-} ]] || failed=1
      continue
    fi
    ran=1
    ((status == 0)) || failed=1
    verdict=$( ((status)) && echo FAILED || echo ok)
    summary+=("$(printf '%-16s %-6s %4d s  %-13s %s' "$leg" "$verdict" $((SECONDS - begin)) \
      "$(cat "$RESULTS/.on" 2>/dev/null)" "$(grep . "$RESULTS/$leg" 2>/dev/null || echo 'did not get to its end')")")
  done
  ((ran)) || failed=1
  printf '\n==== summary ====\n'
  printf '%s\n' "${summary[@]}"
  [[ -z ${REMARK:-} ]] || printf '%s\n' "$REMARK"
  cat "$RESULTS"/* 2>/dev/null | awk '
    { for (i = 2; i <= NF; i++) { sub(/,$/, "", $i); count[$i] += $(i - 1) } }
    END { printf "total: %d passed, %d failed, %d skipped\n", count["passed"] + count["xfailed"],
          count["failed"] + count["error"] + count["errors"], count["skipped"] }'
  return "$failed"
}

leg_native() { suite_native native "$VERSION" "$@"; }

# suite_native LEG VERSION ARGS...: those of the oldest version alone have the tools of the benchmarks and of the server,
# and so test them, which takes minutes.
suite_native() {
  local MORE_TOOLS=()
  if [[ -z ${SHORT:-} && $1 != native-3.1[45]t ]]; then
    MORE_TOOLS=(bench server)
    try_wrk
  fi
  suite "$1" "free_threaded $2" "${@:3}"
}

# Each test on four threads at once. Left out are those that start threads or processes themselves.
leg_parallel() {
  local OPTIONS=(--ignore=tests/isolated --ignore=tests/stress --parallel-threads=4)
  suite parallel free_threaded "$@"
}

leg_threading() { NOGIL_SYNC_BACKEND=threading suite threading free_threaded "$@"; }

# This leg alone has what builds the documentation and opens pages in a browser: the backend matters little there.
leg_standard() {
  local MORE_TOOLS=()
  [[ -n ${SHORT:-} ]] || MORE_TOOLS=(docs browser server)
  suite standard standard "$@"
}

leg_debug() { LIMIT=3600 PYTHONTRACEMALLOC=5 suite debug free_threaded_debug "$@"; }

leg_stress() { LIMIT=7200 NOGIL_SYNC_STRESS=${NOGIL_SYNC_STRESS:-10} suite stress free_threaded tests/stress --timeout=1200 "$@"; }

leg_core() { core core; }

# Instrumented code takes twice as long to compile with -O2 as with -O1, and runs little faster.
leg_tsan() { core tsan -Db_sanitize=thread -Db_lundef=false -Doptimization=1; }

leg_asan() { core asan -Db_sanitize=address,undefined -Db_lundef=false -Doptimization=1; }

# How many processes share a leg's tests, which wait as often as they run. A leg with arguments for pytest runs
# in one, as those who name tests want to see and to stop them.
WORKERS=${NOGIL_SYNC_WORKERS:-$((3 * $(cores) < 12 ? 3 * $(cores) : 12))}

# suite LEG INTERPRETER PYTEST-ARGS...: WITH is a command to run Python by, OPTIONS are more arguments for pytest.
suite() {
  local leg=$1 interpreter env limit=() colour=no status=0
  # shellcheck disable=SC2086 # a function and its arguments
  interpreter=$($2)
  shift 2
  "$interpreter" -c '
import platform, sysconfig
print("on", platform.python_version() + ("t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""))' >"$RESULTS/.on"
  env=$(environment "$interpreter" test ${MORE_TOOLS[@]+"${MORE_TOOLS[@]}"})
  PATH=$env/bin:$(tools "${TOOLS_OF:-$interpreter}" build test)/bin:$PATH
  cd "$ROOT"
  # The working directory stays off sys.path: the installed package is tested, not the tree's.
  export PYTHONSAFEPATH=1 HYPOTHESIS_STORAGE_DIRECTORY=$CACHE/hypothesis
  # An extension that is not declared GIL-free would switch the GIL on, and the tests would prove little.
  export PYTHONWARNINGS='error:The global interpreter lock (GIL):RuntimeWarning'
  # pytest ends tests that hang, and itself after so long; this ends what hangs at exit, and shows all stacks.
  export PYTHONFAULTHANDLER=1
  # Each process that shares the tests would compile all of them, in each leg; and so would each that a test starts.
  unset PYTHONDONTWRITEBYTECODE
  local seconds=${LIMIT:-1800}
  if have timeout; then limit=(timeout --foreground --signal=ABRT --kill-after=30 $((seconds + 300))); fi
  [[ ! -t 1 ]] || colour=yes
  local workers=() left=()
  (($#)) || workers=(-n "$WORKERS" --dist worksteal)
  if [[ -n ${SHORT:-} ]]; then
    left=("${LEFT_TO_FULL[@]/#/--ignore=}" "${AT_EVERY_STEP[@]/#/--ignore=}")
  elif ((!$#)) && [[ " ${REPEATED[*]} " == *" $leg "* ]]; then
    left=("${LEFT_TO_FULL[@]/#/--ignore=}")
  elif ((!$#)) && [[ " ${WITHOUT_TOOLS[*]} " == *" $leg "* ]]; then
    left=("${OF_TOOLS[@]/#/--ignore=}")
  fi
  if ((!$#)) && [[ " ${BRIEF[*]} " == *" $leg "* ]]; then export NOGIL_SYNC_STRESS=${NOGIL_SYNC_STRESS:-0.3}; fi
  local run=(${limit[@]+"${limit[@]}"} ${WITH[@]+"${WITH[@]}"}
    "$env/bin/python" -m pytest "--color=$colour" -o cache_dir="$CACHE/pytest-$leg"
    "--session-timeout=$seconds"
    ${left[@]+"${left[@]}"} ${OPTIONS[@]+"${OPTIONS[@]}"} "$@")
  ((!${#workers[@]})) || compile_tests "$env/bin/python"
  "${run[@]}" ${workers[@]+"${workers[@]}"} | tee "$RESULTS/output" || status=$?
  # From "==== 12 passed, 1 skipped in 0.5s ====", perhaps with colours, or without the lines.
  sed -En $'s/\033\\[[0-9;]*m//g; s/^(=+ )?([0-9]+ (passed|failed|skipped|error|deselected).*) in [0-9].*/\\2/p' \
    "$RESULTS/output" | tail -n 1 >"$RESULTS/$leg"
  rm "$RESULTS/output"
  # A machine that stalls for a moment fails tests that wait for something. In CI, and nowhere else, up to
  # ten are run once more by themselves; the summary names it, and each is to be looked into.
  if ((status == 1)) && [[ -n ${CI:-} ]] && grep -qE '^([1-9]|10) failed' "$RESULTS/$leg"; then
    step "run once more, by themselves: those that failed"
    if "${run[@]}" --last-failed --last-failed-no-failures=none; then
      status=0
      sed -E 's/^([0-9]+) failed, (.*)/\2 (and \1 UNSTABLE, which passed when run again)/' "$RESULTS/$leg" >"$RESULTS/again"
      mv "$RESULTS/again" "$RESULTS/$leg"
    fi
  fi
  # 5: the arguments select no test of this leg.
  return $((status == 5 ? 0 : status))
}

# compile_tests PYTHON: compiles the tests, unless that has been done, since the processes that share them begin all at
# once: each would compile all of them. Two processes compile half of them each.
compile_tests() {
  local tag
  tag=$("$1" -c 'import sys; print(sys.implementation.cache_tag)')
  ! compgen -G "tests/contract/__pycache__/test_waits.$tag-pytest-*" >/dev/null || return 0
  local collect=("$1" -m pytest --collect-only -qq -p no:cacheprovider)
  "${collect[@]}" tests/contract >/dev/null 2>&1 &
  "${collect[@]}" --ignore=tests/contract >/dev/null 2>&1 || true # the run itself says what is wrong
  wait $! || true
}

# core LEG MESON-OPTIONS...: the tests of the C core, which need no Python, only meson.
core() {
  local leg=$1 interpreter home build status=0
  shift
  compiler
  interpreter=$(free_threaded)
  home=$(tools "$interpreter" build)
  build=$CACHE/build/core-${BUILD:-$leg}-$(echo "$ROOT ${CC:-cc}" | digest)
  PATH=$home/bin:$PATH
  # Both reuse what an earlier call left there.
  locked "core-${BUILD:-$leg}" logged "building the core's tests ($leg)" core_build "$build" "$@"
  # The sanitizers want their own memory layout, which some kernels' address randomisation denies them.
  local fixed=()
  if setarch --addr-no-randomize true 2>/dev/null; then fixed=(setarch --addr-no-randomize); fi
  ${fixed[@]+"${fixed[@]}"} meson test -C "$build" --no-rebuild --print-errorlogs \
    ${TEST_OPTIONS[@]+"${TEST_OPTIONS[@]}"} | tee "$RESULTS/output" || status=$?
  awk '/^(Ok|Expected Fail):/ { ok += $NF } /^(Fail|Timeout|Unexpected Pass):/ { bad += $NF } /^Skipped:/ { skip = $2 }
    END { printf "%d passed, %d failed, %d skipped\n", ok, bad, skip }' "$RESULTS/output" >"$RESULTS/$leg"
  rm "$RESULTS/output"
  return "$status"
}

core_build() {
  local build=$1
  shift
  configured "$build" meson setup "$build" "$ROOT" -Dcore_tests=true -Dnative=disabled \
    -Dwerror=true -Dbuildtype=debugoptimized -Db_ndebug=false "$@" || return
  meson compile -C "$build"
}
