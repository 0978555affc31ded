# shellcheck shell=bash
# The sanitizers. Those of the core need nothing but the compiler; "extension" is the extension under address and
# UB sanitizers on the usual interpreter, in about a minute; the others build an interpreter of their own, once.

SANITIZERS=(tsan asan extension thread address)

# sanitize [WHICH...] [PYTEST-ARGS...]
sanitize() {
  local legs=()
  while [[ $# -gt 0 && " ${SANITIZERS[*]} " == *" $1 "* ]]; do
    legs+=("$1")
    shift
  done
  ((${#legs[@]})) || legs=("${SANITIZERS[@]}")
  # The thread sanitizer wants its own memory layout, which some kernels' address randomisation denies it.
  if [[ -z ${NOGIL_SYNC_FIXED_LAYOUT:-} ]] && setarch --addr-no-randomize true 2>/dev/null; then
    NOGIL_SYNC_FIXED_LAYOUT=1 exec setarch --addr-no-randomize "$ROOT/dev" sanitize "${legs[@]}" "$@"
  fi
  run_legs "${legs[@]}" -- "$@"
}

# What makes no sense here: packaging and benchmarks, which build and measure.
SANITIZED_TESTS=(--ignore=tests/isolated/test_packaging.py --ignore=tests/isolated/test_perf.py --timeout=1800)

# The interpreter's own memory is not looked at, ours is.
leg_extension() {
  local WITH
  export SANITIZE=address,undefined LIMIT=7200
  WITH=(env "LD_PRELOAD=$("${CC:-cc}" -print-file-name=libasan.so) $("${CC:-cc}" -print-file-name=libubsan.so)")
  address_options
  reported extension suite extension free_threaded "${SANITIZED_TESTS[@]}" --ignore=tests/isolated --ignore=tests/stress "$@"
}

leg_thread() {
  local TOOLS_OF
  TOOLS_OF=$(free_threaded)
  export SANITIZE=thread LIMIT=14400 TSAN_OPTIONS NOGIL_SYNC_STRESS=${NOGIL_SYNC_STRESS:-0.3}
  # CPython's own list of what it knows of itself, and what it does not know; they name nothing of ours.
  local known=$CACHE/tsan-suppressions-$VERSION.txt
  cat "$(cpython_source "$VERSION")/Tools/tsan/suppressions_free_threading.txt" "$ROOT/tools/tsan_suppressions.txt" >"$known"
  TSAN_OPTIONS="suppressions=$known die_after_fork=0 exitcode=0"
  TSAN_OPTIONS+=" second_deadlock_stack=1 history_size=4"
  reported thread suite thread "free_threaded_sanitized thread" "${SANITIZED_TESTS[@]}" "$@"
}

leg_address() {
  local TOOLS_OF
  TOOLS_OF=$(free_threaded)
  export SANITIZE=address,undefined LIMIT=14400 NOGIL_SYNC_STRESS=${NOGIL_SYNC_STRESS:-0.3}
  address_options
  reported address suite address "free_threaded_sanitized address" "${SANITIZED_TESTS[@]}" "$@"
}

address_options() {
  # What is alive at exit is the interpreter's; tests/isolated/test_leaks.py and ./dev soak look for leaks.
  export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:handle_segv=0:use_sigaltstack=0
  export UBSAN_OPTIONS=print_stacktrace=1
}

# reported NAME COMMAND...: fails if a sanitizer reports anything. Reports go to files, as tests swallow what their
# processes write.
reported() {
  local status=0 any=0 reports
  mkdir -p "$CACHE/reports"
  reports=$(mktemp -d "$CACHE/reports/$1.XXXXXX") # two versions may run at once
  shift
  export TSAN_OPTIONS="${TSAN_OPTIONS:-} log_path=$reports/report"
  export ASAN_OPTIONS="${ASAN_OPTIONS:-}:log_path=$reports/report" UBSAN_OPTIONS="${UBSAN_OPTIONS:-}:log_path=$reports/report"
  "$@" || status=$?
  "$(free_threaded)" "$ROOT/tools/reports.py" "$reports" || any=1
  ((any)) || rm -rf "$reports"
  return $((status || any))
}
