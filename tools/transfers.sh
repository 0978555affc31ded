# shellcheck shell=bash
# Counting the cache lines that travel between threads, under an emulator: see docs/transfers.md.

# transfers [--python NAME,...] [ARGS]: see tools/transfers.
transfers() {
  local names=() args=() name interpreter env='' found=()
  while (($#)); do
    case $1 in
      --python)
        [[ -n ${2:-} ]] || die "--python needs versions or paths, with commas between them"
        IFS=, read -r -a names <<<"$2"
        shift
        ;;
      --python=*) IFS=, read -r -a names <<<"${1#*=}" ;;
      *) args+=("$1") ;;
    esac
    shift
  done
  [[ $(uname -sm) == "Linux x86_64" ]] || die "transfers are counted on Linux on x86-64 only"
  ((${#names[@]})) || names=("${NAMED:-${VERSION}t}")
  # Check all names first: a wrong one is an error before anything is built.
  for name in "${names[@]}"; do choose_python "$name"; done
  if ! { have qemu-x86_64 && have nm; }; then
    have apt-get || die "counting transfers needs qemu-x86_64 (QEMU's emulator of user programs) and nm (binutils) on PATH"
    packages "counting transfers" qemu-user binutils
  fi
  compiler
  for name in "${names[@]}"; do
    choose_python "$name"
    interpreter=$(free_threaded) || exit
    env=$(environment "$interpreter") || exit
    found+=(--interpreter "$name=$env/bin/python")
  done
  cd "$ROOT"
  # With a folder as the program, Python puts that folder on sys.path, and not the tree.
  exec env -u PYTHONSAFEPATH "$env/bin/python" tools/transfers "${found[@]}" ${args[@]+"${args[@]}"}
}
