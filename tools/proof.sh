# shellcheck shell=bash
# Mutants of the C code, models of the algorithms, the hunt for leaks, long use of every object.

# mutants [NAME...]: see tools/mutants.py and tests/mutants.
mutants() {
  local interpreter env
  interpreter=$(free_threaded)
  [[ " $* " != *" --list "* ]] || exec "$interpreter" "$ROOT/tools/mutants.py" "$@"
  compiler
  env=$(environment "$interpreter" test)
  PATH=$env/bin:$(tools "$interpreter" build test)/bin:$PATH
  exec "$env/bin/python" "$ROOT/tools/mutants.py" "$@"
}

# models [NAME...]: see tools/models.py and models/models.toml.
models() {
  local interpreter
  compiler
  have spin || packages "the models" spin
  interpreter=$(free_threaded)
  exec "$interpreter" "$ROOT/tools/models.py" "$@"
}

# leaks [PYTEST-ARGS]: every contract test again and again, and what is left behind measured: see tests/helpers/leaks.py.
# On a debug build, which counts references; and malloc keeps nothing aside, so that its account is exact.
leg_leaks() {
  export PYTHONPATH=$ROOT/tests/helpers NOGIL_SYNC_STRESS=${NOGIL_SYNC_STRESS:-0.2}
  export GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1
  LIMIT=14400 suite leaks free_threaded_debug -p leaks --timeout=1800 --ignore=tests/isolated --ignore=tests/stress "$@"
}

# soak [MINUTES] [ARGS]: see tests/helpers/soak.py.
soak() {
  local interpreter env
  interpreter=$(free_threaded)
  env=$(environment "$interpreter" test)
  PYTHONSAFEPATH=1 exec "$env/bin/python" "$ROOT/tests/helpers/soak.py" "$@"
}
