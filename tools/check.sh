# shellcheck shell=bash
# Formatting, lint, types. Every check runs, even if an earlier one fails.

check() {
  local interpreter env home fix=
  [[ $# == 0 || $* == --fix ]] || die "check takes --fix or nothing"
  [[ ${1:-} != --fix ]] || fix=1
  interpreter=$(free_threaded)
  env=$(environment "$interpreter" bench server test check)
  home=$(tools "$interpreter" check)
  PATH=$home/bin:$PATH
  # A cache for each checkout: mypy fails on one that another checkout changes meanwhile.
  local checkout
  checkout=$(echo "$ROOT" | digest)
  export RUFF_CACHE_DIR=$CACHE/ruff MYPY_CACHE_DIR=$CACHE/mypy/$checkout PYTHONSAFEPATH=1
  cd "$ROOT" || exit
  FAILED=()
  local c_files=()
  while IFS= read -r -d '' file; do c_files+=("$file"); done < <(find nogil_sync tests tools -name '*.[ch]' -print0)

  if [[ $fix ]]; then
    verify "ruff fixes" ruff check --quiet --fix .
    verify "ruff formats" ruff format --quiet .
    ((!${#c_files[@]})) || verify "clang-format formats" clang-format -i "${c_files[@]}"
  fi
  verify "ruff format" ruff format --check --quiet --diff .
  verify "ruff check" ruff check --quiet .
  ((!${#c_files[@]})) || verify "clang-format" formatted_c "${c_files[@]}"
  verify "shellcheck" shellcheck --external-sources --check-sourced dev .ci/run
  verify "mypy" "$env/bin/python" -m mypy
  # Tests pass wrong arguments on purpose, so only annotated functions are checked there.
  MYPYPATH=tests verify "mypy, tests" "$env/bin/python" -m mypy --config-file= --ignore-missing-imports \
    --follow-imports=silent --explicit-package-bases tests
  # The pure classes are the types. stubtest compares them with the modules as imported.
  verify "stubtest, native" stubtest native "$env"
  verify "stubtest, threading" stubtest threading "$env"
  verify "pyright, public" public_types "$env"
  # A mutant whose text is no longer in the sources, or whose test is gone, would keep all from starting.
  verify "mutants' data" up_to_date_mutants "$env"
  verify "zizmor" zizmor --offline --quiet --no-progress .github
  ! have actionlint || verify "actionlint" actionlint

  ((!${#FAILED[@]})) || die "failed: $(IFS=,; echo "${FAILED[*]}")"
  step "all checks passed"
}

verify() {
  local name=$1 begin=$SECONDS
  shift
  if "$@"; then
    step "$(printf '%-20s ok  %3d s' "$name" $((SECONDS - begin)))"
  else
    step "$(printf '%-20s FAILED' "$name")"
    FAILED+=("$name")
  fi
}

# Like clang-format --dry-run --Werror, but shows the changes.
formatted_c() {
  local file status=0
  for file; do
    clang-format "$file" | diff -u "$file" - || status=1
  done
  return "$status"
}

# Runs outside the tree, so that stubtest imports the installed package.
stubtest() (
  cd "$CACHE" || exit
  NOGIL_SYNC_BACKEND=$1 MYPY_CACHE_DIR=$CACHE/stubtest/$(echo "$ROOT" | digest) "$2/bin/python" -m mypy.stubtest nogil_sync --concise \
    --ignore-disjoint-bases --ignore-unused-allowlist --mypy-config-file "$ROOT/pyproject.toml" --allowlist "$ROOT/tools/stubtest-allowlist.txt"
)

up_to_date_mutants() { PYTHONSAFEPATH='' "$1/bin/python" tools/mutants.py --list >/dev/null; }

# Every public name must have its types. Outside the tree, as above. pyright looks at the packages of the `python` on
# PATH; it fails if one type is unknown or ambiguous.
public_types() (
  cd "$CACHE" || exit
  local said
  said=$(PATH=$1/bin:$PATH pyright --verifytypes nogil_sync --ignoreexternal) || {
    echo "$said"
    return 1
  }
)
