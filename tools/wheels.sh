# shellcheck shell=bash
# A release: the sdist and the wheels in dist/, and what shows that they are good. tools/wheels.py does the work.

wheels() {
  local base home version interpreter python emulated arch='' arguments=()
  if [[ ${1:-} == --arch ]]; then
    [[ ${2:-} == arm64 ]] || die "no such architecture: '${2:-}' (there is: arm64)"
    arch=$2
    shift 2
  fi
  (($# == 0)) || die "wheels takes --arch arm64 or nothing"
  [[ -z $arch ]] || arm64_tools # before the minutes that the rest takes
  base=$(standard) || exit
  home=$(tools "$base" build release) || exit
  compiler
  for version in "${VERSIONS[@]}"; do
    if ! interpreter=$(RESULTS='' && free_threaded "$version"); then
      step "${version}t is left out"
      continue
    fi
    python=$(tools "$interpreter" build)/bin/python || exit
    arguments+=(--native "$python")
    if [[ $arch ]]; then
      emulated=$(arm64_python "$version") || exit
      TOOLS_OF=$interpreter locked "bytecode-$version-arm64" library_bytecode "${emulated%/bin/*}" || exit
      mkdir -p "$CACHE/build"
      arm64_cross_file "$emulated" >"$CACHE/build/wheels-$version-arm64.ini"
      arguments+=(--emulated "$emulated" "$python" "$CACHE/build/wheels-$version-arm64.ini")
    fi
  done
  # Of each standard version the first that is found.
  while read -r version interpreter; do
    arguments+=(--standard "$(tools "$interpreter" build)/bin/python") || exit
  done < <(standards | awk '!seen[$1]++' | sort -V)
  cd "$ROOT" || exit
  PATH=$home/bin:$PATH exec "$home/bin/python" "$ROOT/tools/wheels.py" "${arguments[@]}"
}
