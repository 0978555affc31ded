# shellcheck shell=bash
# The documentation: docs/*.md and the docstrings, made into pages by Sphinx. A warning is an error.

docs() {
  local interpreter env pages
  [[ -z ${1:-} || $1 == --links ]] || die "docs takes --links or nothing"
  interpreter=$(free_threaded) || exit
  env=$(environment "$interpreter" docs) || exit
  pages=$CACHE/docs/$(printf '%s' "$ROOT" | digest)
  # Outside the tree, where nogil_sync would be found without its extension; the pages are of the installed package.
  cd "$CACHE" || exit
  step "building the documentation"
  sphinx "$env" html "$pages" || die "the documentation has errors"
  [[ -z ${1:-} ]] || sphinx "$env" linkcheck "$pages" || die "links are broken"
  step "the documentation: $pages/html/index.html"
}

sphinx() {
  local env=$1 builder=$2 pages=$3
  "$env/bin/python" -P -m sphinx -b "$builder" -W --keep-going -q -d "$pages/doctrees" "$ROOT/docs" "$pages/$builder"
}
