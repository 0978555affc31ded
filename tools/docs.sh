# shellcheck shell=bash
# The documentation: docs/*.md and the docstrings, made into pages by Sphinx. A warning is an error.

docs() {
  local interpreter env pages
  [[ $# == 0 || $* == --links ]] || die "docs takes --links or nothing"
  interpreter=$(free_threaded) || exit
  env=$(environment "$interpreter" docs) || exit
  pages=$CACHE/docs/$(printf '%s' "$ROOT" | digest)
  # Outside the tree, where nogil_sync would be found without its extension; the pages are of the installed package.
  cd "$CACHE" || exit
  TAIL=1000 logged "building the documentation" sphinx "$env" html "$pages" -W --keep-going || die "the documentation has errors"
  if [[ -n ${1:-} ]]; then
    rm -f "$pages/linkcheck/output.json"
    # Sphinx calls a link broken as well if there is no network: tools/links.py tells the two apart.
    TAIL=0 logged "asking the addresses outside the documentation" linkcheck "$env" "$pages"
    [[ -e $pages/linkcheck/output.json ]] || die "Sphinx's linkcheck did not run"
    "$env/bin/python" "$ROOT/tools/links.py" "$pages/linkcheck/output.json" || die "links are dead"
  fi
  step "the documentation: $pages/html/index.html"
}

linkcheck() { sphinx "$1" linkcheck "$2" || true; }

# sphinx ENV BUILDER PAGES OPTIONS...
sphinx() {
  local env=$1 builder=$2 pages=$3
  "$env/bin/python" -P -m sphinx -b "$builder" "${@:4}" -q -d "$pages/doctrees" "$ROOT/docs" "$pages/$builder"
}
