# shellcheck shell=bash
# What is proved rather than tested: mutants of the C code, models of the algorithms, hours of use.

# mutants [NAME...]: see tools/mutants.py and tests/mutants.
mutants() {
  local interpreter env
  compiler
  interpreter=$(free_threaded)
  env=$(environment "$interpreter" test)
  PATH=$env/bin:$(tools "$interpreter" build test)/bin:$PATH
  exec "$env/bin/python" "$ROOT/tools/mutants.py" "$@"
}

# models [NAME...]: see tools/models.py and models/README.md.
models() {
  local interpreter
  compiler
  have spin || packages "the models" spin
  interpreter=$(free_threaded)
  exec "$interpreter" "$ROOT/tools/models.py" "$@"
}

# soak [MINUTES] [ARGS]: see tests/soak.py.
soak() {
  local interpreter env
  interpreter=$(free_threaded)
  env=$(environment "$interpreter" test)
  PYTHONSAFEPATH=1 exec "$env/bin/python" "$ROOT/tests/soak.py" "$@"
}
