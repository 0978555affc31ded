# shellcheck shell=bash
# Finds or makes the interpreters: the free-threaded one, its debug build, a standard one.

NO_INTERPRETER="there is no free-threaded Python here, and none could be fetched.
  Install one (for example 'uv python install 3.13t'), or name one with NOGIL_SYNC_PYTHON=/path/to/python3.13t."

# Whether $1 runs without the GIL, can make environments and can build extensions.
is_free_threaded() {
  "$1" -c '
import ensurepip, os, sys, sysconfig, venv
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(not (sysconfig.get_config_var("Py_GIL_DISABLED") and os.path.exists(header)))
' 2>/dev/null
}

# Prints the free-threaded interpreter. The order: the one the user names, PATH, uv, our own build.
free_threaded() {
  local found
  if [[ -n ${NOGIL_SYNC_PYTHON:-} ]]; then
    is_free_threaded "$NOGIL_SYNC_PYTHON" || die \
      "NOGIL_SYNC_PYTHON=$NOGIL_SYNC_PYTHON is not a free-threaded Python with venv and C headers"
    command -v "$NOGIL_SYNC_PYTHON"
  elif is_free_threaded python3.13t; then
    command -v python3.13t
  elif found=$(uv python find 3.13t 2>/dev/null) && is_free_threaded "$found"; then
    echo "$found"
  elif found=$(built ""); then
    echo "$found"
  elif have uv && logged "asking uv for Python 3.13t" uv python install 3.13t >&2 &&
    found=$(uv python find 3.13t 2>/dev/null) && is_free_threaded "$found"; then
    echo "$found"
  else
    locked python build_python "" || exit
    built ""
  fi
}

# Prints a debug build: always one of ours, as hardly anyone has one.
free_threaded_debug() {
  built -debug || { locked python build_python -debug && built -debug; }
}

# Prints a build under a sanitizer, "thread" or "address": ours as well.
free_threaded_sanitized() {
  built "-$1" || { locked "python-$1" build_python "-$1" && built "-$1"; }
}

# Prints a standard Python of at least 3.11 that can make environments. NOGIL_SYNC_STANDARD_PYTHON names one.
standard() {
  local name
  if [[ -z ${NOGIL_SYNC_STANDARD_PYTHON:-} && $(id -u) == 0 ]] && have apt-get && ! find_standard >/dev/null; then
    packages "the standard interpreter" python3 python3-venv
  fi
  find_standard || die "a standard Python >= 3.11 with venv is needed; name one with NOGIL_SYNC_STANDARD_PYTHON"
}

find_standard() {
  local name
  for name in ${NOGIL_SYNC_STANDARD_PYTHON:-python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11}; do
    # sys.executable sees through version managers' wrapper scripts, which are slow.
    "$name" -c '
import ensurepip, sys, sysconfig, venv
if sys.version_info < (3, 11) or sysconfig.get_config_var("Py_GIL_DISABLED"):
    sys.exit(1)
print(sys.executable)' 2>/dev/null && return
  done
  return 1
}

# built SUFFIX: prints the interpreter of an earlier build. A prefix appears by one rename when
# it is complete, so being there is proof enough.
built() {
  local prefix
  prefix=$(printf '%s\n' "$CACHE"/python/3.13.*t"$(flavour "$1")" | sort -V | tail -n 1)
  [[ -x $prefix/bin/python3.13t || -x $prefix/bin/python3.13td ]] || return 1
  printf '%s\n' "$prefix"/bin/python3.13t* | head -n 1
}

# The suffix of the prefix: "-debug", "-pgo" or nothing.
flavour() { [[ -z $1 && -n ${NOGIL_SYNC_PGO:-} ]] && echo -pgo || echo "$1"; }

# build_python SUFFIX: builds CPython from the Debian source package into the cache.
build_python() {
  built "$1" >/dev/null && return # another ./dev was faster
  have apt-get || die "$NO_INTERPRETER"
  step "building a free-threaded Python$1 from Debian's source package: once, in a few minutes"
  packages "building CPython" gcc libc6-dev make xz-utils zlib1g-dev libssl-dev libffi-dev \
    libbz2-dev liblzma-dev libreadline-dev libncurses-dev debian-archive-keyring ca-certificates

  local source version prefix stage
  source=$(cpython_source) || exit
  version=${source##*-}
  prefix=$CACHE/python/${version}t$(flavour "$1")
  stage=$CACHE/build/python-$(basename "$prefix")
  rm -rf "$stage"
  mkdir -p "$stage" "$CACHE/python"
  cd "$stage" || exit
  local options=(--prefix="$prefix" --disable-gil
    # Environments bring their own pip, from the wheel that comes with the sources.
    --with-ensurepip=no)
  local quick=() # for the install: compiling the whole library under a sanitizer takes longer than all the rest
  case $prefix in
    # With CPython's own test modules, whose _testcapi makes allocations fail.
    *-debug) options+=(--with-pydebug) ;;
    *-thread)
      options+=(--with-pydebug --disable-test-modules --with-thread-sanitizer)
      quick=(PYTHON_FOR_BUILD=true)
      ;;
    *-address)
      options+=(--with-pydebug --disable-test-modules --with-address-sanitizer --with-undefined-behavior-sanitizer)
      quick=(PYTHON_FOR_BUILD=true)
      ;;
    *-pgo) options+=(--disable-test-modules --enable-optimizations) ;;
    *) options+=(--disable-test-modules) ;;
  esac
  # Its leaks at exit would end its own build.
  export ASAN_OPTIONS=detect_leaks=0
  logged "configuring CPython ${prefix##*/}" "$source/configure" "${options[@]}" || exit
  logged "compiling CPython ${prefix##*/} on $(cores) cores (about 5 minutes of one core)" \
    make -j"$(cores)" || exit
  # Installed aside and moved: an interrupted build leaves no half interpreter behind.
  logged "installing it into $prefix" make install DESTDIR="$stage/root" ${quick[@]+"${quick[@]}"} || exit
  rm -rf "$prefix"
  mv "$stage/root$prefix" "$prefix"
  rm -rf "$stage"
}

# Prints the folder of CPython's sources, fetched through apt with settings and state of our own: the
# machine's stay as they are, and apt verifies the archive with Debian's keys.
cpython_source() {
  local mirror
  unpacked && return
  mkdir -p "$CACHE"/src/apt/{lists,archives}/partial "$CACHE/src/apt/parts"
  cd "$CACHE/src" || exit
  mirror=$(debian_mirror)
  [[ -n $mirror ]] || die "$NO_INTERPRETER"
  # Of Debian's suites the stable one keeps its sources for years.
  echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >apt/sources.list
  TAIL=3 logged "fetching CPython's sources through apt" fetch_source || die "$NO_INTERPRETER"
  rm -rf unpacking && mkdir unpacking
  logged "unpacking them" tar -C unpacking --strip-components=0 \
    -xf "$(printf '%s\n' python3.13_*.orig.tar.xz | sort -V | tail -n 1)" || exit
  # An assertion of debug builds fails if a threading.Lock is released again while it is handed to a waiter,
  # which any thread may do (TaskGroup and the threading backend do). It is in no other build.
  sed -i '/if (entry.handed_off)/,/return/ { /assert(/d }' unpacking/Python-3.13.*/Python/lock.c || exit
  mv unpacking/Python-3.13.* . && rmdir unpacking
  unpacked
}

unpacked() {
  local found
  found=$(printf '%s\n' "$CACHE"/src/Python-3.13.* | sort -V | tail -n 1)
  [[ -d $found ]] && echo "$found"
}

# apt_get ARGS...: apt-get with its state in the cache folder.
apt_get() {
  apt-get -q -o Dir::State::Lists="$CACHE/src/apt/lists" -o Dir::Cache="$CACHE/src/apt" \
    -o APT::Sandbox::User="$(id -un)" "$@"
}

fetch_source() {
  local only=(-o Dir::Etc::SourceList="$CACHE/src/apt/sources.list" -o Dir::Etc::SourceParts="$CACHE/src/apt/parts")
  apt_get "${only[@]}" update && apt_get "${only[@]}" source --download-only python3.13
}

# Prints the address of the Debian mirror this machine uses. It is known from the package lists; a
# machine that has none yet (a container, say) gets them into our folder first.
debian_mirror() {
  # shellcheck disable=SC2016 # apt fills this in
  local query=(indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian')
  { apt-get "${query[@]}" && apt_get update && apt_get "${query[@]}"; } 2>/dev/null | grep -m 1 :
}
