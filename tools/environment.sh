# shellcheck shell=bash
# Environments, in two layers, so that concurrent calls of ./dev do not disturb each other:
#   tools/    one for each interpreter and state of the requirement lists, shared by all checkouts;
#   package/  one for each state of the sources: nogil_sync itself, on top of the tools.
# Nothing here writes into the source tree.

# tools PYTHON LIST...: prints the environment of PYTHON with requirements/LIST.txt installed.
tools() {
  local python=$1 id home list
  shift
  id=$("$python" -c '
import hashlib, platform, sys, sysconfig
what = hashlib.sha256((sys.executable + sys.version).encode()).hexdigest()[:8]
print(platform.python_version() + (sysconfig.get_config_var("abiflags") or ""), what, sep="-")') || exit
  home=$CACHE/tools/$id-$(cat "$ROOT"/requirements/*.txt | digest)
  for list; do
    # A list is installed when a verb first needs it, so no verb waits for the tools of another.
    [[ -e $home/.has-$list ]] || locked "tools-$id" add_tools "$python" "$home" "$list" || exit
  done
  echo "$home"
}

add_tools() {
  local python=$1 home=$2 list=$3
  [[ ! -e $home/.has-$list ]] || return 0
  # A pip that was stopped amid its work leaves packages that the next one takes for whole.
  if compgen -G "$home/.begun-*" >/dev/null; then rm -rf "$home"; fi
  if [[ ! -e $home/.has-pip ]]; then
    logged "making an environment for $("$python" -c 'import platform; print(platform.python_version())')" \
      "$python" -m venv --clear "$home" || return
    touch "$home/.has-pip"
  fi
  local install=("$home/bin/python" -m pip --disable-pip-version-check --retries 2 install -r "$ROOT/requirements/$list.txt")
  touch "$home/.begun-$list"
  # A package without a wheel for this interpreter is no failure: the tests that need it are skipped, and say so.
  if [[ $list == optional || $list == browser ]]; then
    TAIL=0 FAILED_AS="not all of it can be had here, so what needs it is skipped" \
      logged "installing the tools of requirements/$list.txt" "${install[@]}" --only-binary :all: || true
    mv "$home/.begun-$list" "$home/.has-$list"
    return
  fi
  # Of some libraries the newest release has no wheel for 3.13t, but an older one has: with --only-binary pip takes the
  # older one. The second try is for unreliable networks and for platforms without wheels. The last two of pip's many
  # lines say what is missing.
  TAIL=0 logged "installing the tools of requirements/$list.txt" "${install[@]}" --only-binary :all: ||
    TAIL=2 logged "once more, and from sources if need be" "${install[@]}" --prefer-binary --force-reinstall ||
    die "could not install requirements/$list.txt; is the network there?"
  mv "$home/.begun-$list" "$home/.has-$list"
  [[ $list != test ]] || add_tools "$python" "$home" optional
}

# environment PYTHON LIST...: prints the environment with the tools and this tree's package. SANITIZE (thread, or
# address,undefined) builds the extension with these sanitizers.
environment() {
  local home env
  home=$(tools "${TOOLS_OF:-$1}" build "${@:2}") || exit
  if [[ -n ${TOOLS_OF:-} ]]; then
    borrowed_environment "$1" "$home"
    return
  fi
  env=$CACHE/package/${home##*/}${SANITIZE:+-$SANITIZE}-$(sources | digest)
  [[ -d $env ]] || locked "build-$(build_name "$home")" install_package "$home" "$env" || exit
  touch "$env" "$home" # install_package removes environments that were not used for days
  echo "$env"
}

# borrowed_environment PYTHON HOME: prints an environment of PYTHON with the tools of another interpreter of the same
# version, which works since all tools are pure Python. Under a sanitizer or an emulator pip and meson would take a
# quarter of an hour. CROSS is a function that prints meson's cross file for PYTHON, to build for another machine.
borrowed_environment() {
  local prefix env
  prefix=$(dirname "$(dirname "$1")")
  env=$CACHE/package/$(basename "$prefix")-$(sources | digest)
  locked "bytecode-$(basename "$prefix")" library_bytecode "$prefix" || exit
  [[ -d $env ]] || locked "build-$(build_name "$prefix")" install_borrowed "$1" "$2" "$env" || exit
  touch "$env"
  echo "$env"
}

# library_bytecode PREFIX: compiles the standard library of a slow interpreter by the usual one. Without it each process
# would compile what it imports, for a minute.
library_bytecode() {
  local library=("$1"/lib/python3.*)
  local mark=${library[0]}/.has-bytecode
  [[ ! -e $mark ]] || return 0
  logged "compiling the library of ${1##*/} to bytecode" \
    "$TOOLS_OF" -m compileall -q -j 0 -x '/(test|lib2to3|idlelib|tkinter)/' "${library[0]}" || return
  touch "$mark"
}

install_borrowed() {
  local python=$1 home=$2 env=$3 build site options what stage=$3.$$
  [[ ! -d $env ]] || return 0
  build=$CACHE/build/$(build_name "$(dirname "$(dirname "$python")")")
  mkdir -p "$CACHE/package" "$CACHE/build"
  what="nogil_sync for $(basename "$(dirname "$(dirname "$python")")")${SANITIZE:+ under sanitizers: $SANITIZE}"
  if [[ -n ${CROSS:-} ]]; then
    "$CROSS" "$python" >"$build.ini"
    options=(--cross-file "$build.ini" -Ddebug=true)
  else
    compiler
    printf "[binaries]\npython = '%s'\n" "$python" >"$build.ini"
    options=(--native-file "$build.ini" "-Db_sanitize=$SANITIZE" -Db_lundef=false -Dbuildtype=debugoptimized
      -Db_ndebug=false)
  fi
  local PATH=$home/bin:$PATH
  configured "$build" logged "configuring $what" meson setup "$build" "$ROOT" "${options[@]}" -Dwerror=true \
    -Dprefix="$CACHE/package/sanitized" -Dpython.install_env=prefix || exit
  logged "building $what" meson compile -C "$build" || exit
  remove_leftovers "$env"
  "$python" -m venv --without-pip "$stage" || exit
  site=$("$stage/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  logged "installing it" meson install -C "$build" --no-rebuild --destdir "$stage.root" || exit
  mv "$stage.root$CACHE"/*/*/lib/python*/site-packages/nogil_sync "$site/"
  rm -rf "$stage.root"
  echo "import site; site.addsitedir(r'$("$home/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
    >"$site/tools.pth"
  [[ -d $env ]] || mv "$stage" "$env"
  rm -rf "$stage"
}

# Checksums of all files that the built package depends on.
sources() {
  (
    cd "$ROOT" || exit
    find nogil_sync pyproject.toml meson.build meson.options -type f ! -name '*.pyc' | LC_ALL=C sort |
      tr '\n' '\0' | xargs -0 cksum
  )
}

# build_name HOME: names the build folder of this checkout and interpreter. It is kept, so that only changed files are
# compiled.
build_name() { echo "${1##*/}${SANITIZE:+-$SANITIZE}-$(echo "$ROOT" | digest)"; }

# remove_leftovers ENV: what interrupted calls left of it; each call has its process's number in the names.
remove_leftovers() {
  local left number
  for left in "$1".[0-9]*; do
    number=${left#"$1".}
    kill -0 "${number%%.*}" 2>/dev/null || rm -rf "$left"
  done
}

install_package() {
  local home=$1 env=$2 build site stage=$2.$$ sanitized=()
  [[ ! -d $env ]] || return 0
  build=$CACHE/build/$(build_name "$home")
  mkdir -p "$CACHE/package" "$CACHE/build"
  remove_leftovers "$env"
  "$home/bin/python" -c '
import sys, sysconfig; sys.exit(not sysconfig.get_config_var("Py_GIL_DISABLED"))' && compiler
  if [[ -n ${SANITIZE:-} ]]; then
    local option
    for option in "b_sanitize=$SANITIZE" b_lundef=false buildtype=debugoptimized b_ndebug=false; do
      sanitized+=("--config-settings=setup-args=-D$option")
    done
  fi
  PATH=$home/bin:$PATH logged "building nogil_sync for ${home##*/}${SANITIZE:+ under sanitizers: $SANITIZE}" \
    "$home/bin/python" -m pip --disable-pip-version-check wheel --no-build-isolation --no-deps \
    --config-settings=build-dir="$build" --config-settings=setup-args=-Dwerror=true \
    ${sanitized[@]+"${sanitized[@]}"} --wheel-dir "$stage.wheel" "$ROOT" || exit
  "$home/bin/python" -m venv --without-pip "$stage" || exit
  site=$("$stage/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  logged "installing it" "$home/bin/python" -m pip --disable-pip-version-check --python "$stage/bin/python" \
    install --no-deps --no-index "$stage.wheel"/*.whl || exit
  echo "import site; site.addsitedir(r'$("$home/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
    >"$site/tools.pth"
  # The environment gets its name when it is complete. Another checkout of the same files may have been faster.
  [[ -d $env ]] || mv "$stage" "$env"
  rm -rf "$stage" "$stage.wheel"
  # Remove environments that no call has used for two weeks.
  find "$CACHE/package" "$CACHE/tools" -mindepth 1 -maxdepth 1 -mtime +14 -exec rm -rf {} +
}
