# shellcheck shell=bash
# A release: the sdist and the wheels in dist/, and what shows that they are good. tools/wheels.py does the work.

wheels() {
  local base home version interpreter python arguments=()
  (($# == 0)) || die "wheels takes no arguments"
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
  done
  # Of each standard version the first that is found.
  while read -r version interpreter; do
    arguments+=(--standard "$(tools "$interpreter" build)/bin/python") || exit
  done < <(standards | awk '!seen[$1]++' | sort -V)
  cd "$ROOT" || exit
  PATH=$home/bin:$PATH exec "$home/bin/python" "$ROOT/tools/wheels.py" "${arguments[@]}"
}
