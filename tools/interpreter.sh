# shellcheck shell=bash
# Finds or builds interpreters: free-threaded ones, debug and sanitizer builds of them, and standard ones.

# The free-threaded versions that ./dev knows; the first is the default. source_of prints the full version, the path of
# the source archive below pool/main/p of a Debian mirror, and its SHA-256.
VERSIONS=(3.13 3.14 3.15)
source_of() {
  case $1 in
    3.13) echo 3.13.5 python3.13/python3.13_3.13.5.orig.tar.xz \
      93e583f243454e6e9e4588ca2c2662206ad961659863277afcdb96801647d640 ;;
    3.14) echo 3.14.7 python3.14/python3.14_3.14.7.orig.tar.xz \
      3b48dac8fb59f62eaa67ac83c1eb12bda1b7a08406dd286e252c11a66be27f81 ;;
    3.15) echo 3.15.0rc2 python3.15/python3.15_3.15.0~rc2.orig.tar.xz \
      8d93af5eaaaea5adfd41bd786a7ba3f03f2ad1ab57c6a65e0b963deab91d5ad7 ;;
  esac
}

# choose_python NAME: takes the value of --python or NOGIL_SYNC_PYTHON. Sets VERSION (3.14, say), and NAMED to the
# interpreter if NAME is a path or a command and not a version.
choose_python() {
  local name=${1:-${VERSIONS[0]}t} known program answer
  known=$(printf '%st ' "${VERSIONS[@]}")
  known="there are ${known% }, or the path of an interpreter"
  NAMED=
  if [[ $name == [0-9]* && $name != */* ]]; then
    VERSION=${name%t}
    [[ $name == *t && " ${VERSIONS[*]} " == *" $VERSION "* ]] ||
      die "no free-threaded Python is called '$name' ($known)"
    return
  fi
  program=$(command -v -- "$name") && [[ -f $program && -x $program ]] || die "'$name' is not a program ($known)"
  [[ $program == /* ]] || program=$PWD/$program
  answer=$(examine "$program") || answer="is not a Python interpreter"
  [[ $answer == version* ]] || die "'$name' $answer"
  NAMED=$program
  VERSION=${answer#version }
}

# examine PYTHON: prints "version 3.14", or what the program lacks to make environments and free-threaded extensions.
# The program may be ./dev itself, so NOGIL_SYNC_PYTHON is not passed on.
examine() {
  env -u NOGIL_SYNC_PYTHON "$1" -c '
import os, sys, sysconfig
def lacks(what):
    sys.exit(print(what))
if not sysconfig.get_config_var("Py_GIL_DISABLED"):
    lacks("is a standard Python %d.%d, not a free-threaded one" % sys.version_info[:2])
if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
    lacks("has no C headers (Python.h)")
try:
    import ensurepip, venv
except ImportError as error:
    lacks("cannot make environments: %s" % error)
print("version %d.%d" % sys.version_info[:2])
' 2>/dev/null </dev/null
}

# is_free_threaded PYTHON VERSION
is_free_threaded() { [[ $(examine "$1") == "version $2" ]]; }

# found_python VERSION: prints a free-threaded interpreter that exists already. The order: the one that the user names,
# PATH, uv's, our own build.
found_python() {
  local found
  if [[ -n $NAMED && $VERSION == "$1" ]]; then
    echo "$NAMED"
  elif is_free_threaded "python$1t" "$1"; then
    command -v "python$1t"
  elif found=$(uv python find "$1t" 2>/dev/null) && is_free_threaded "$found" "$1"; then
    echo "$found"
  else
    built "$1" ""
  fi
}

# free_threaded [VERSION]: prints the chosen interpreter, or one of VERSION. If there is none, uv installs it, or it is
# built.
free_threaded() {
  local version=${1:-$VERSION}
  found_python "$version" && return
  if have uv; then
    step "asking uv for Python ${version}t"
    # uv fails at once if it cannot reach its downloads; then we build one.
    if uv python install "${version}t" >/dev/null 2>&1 </dev/null; then found_python "$version" && return; fi
  fi
  made "$version" ""
}

# A debug build, or one with a sanitizer ("thread" or "address"): always built here, since few machines have one.
free_threaded_debug() { made "$VERSION" -debug; }
free_threaded_sanitized() { made "$VERSION" "-$1"; }

# standard [WHICH]: prints a standard Python that can make environments. WHICH: the oldest one present (the default;
# NOGIL_SYNC_STANDARD_PYTHON overrides it), "newest", or a version.
standard() {
  local which=${1:-oldest} newest=${VERSIONS[${#VERSIONS[@]} - 1]} known found
  known=$(standards)
  if [[ -z $known && $(id -u) == 0 ]] && have apt-get; then
    packages "the standard interpreter" python3 python3-venv
    known=$(standards)
  fi
  case $which in
    oldest)
      if [[ -n ${NOGIL_SYNC_STANDARD_PYTHON:-} ]]; then
        found=$(standard_version "$NOGIL_SYNC_STANDARD_PYTHON") ||
          die "NOGIL_SYNC_STANDARD_PYTHON=$NOGIL_SYNC_STANDARD_PYTHON is not a standard Python >= 3.11 with venv"
      else
        found=$(sort -s -V -k 1,1 <<<"$known" | head -n 1)
      fi
      ;;
    # The newest version that ./dev knows. If it is not present and cannot be built, the newest one present.
    newest)
      found=$(awk -v v="$newest" '$1 == v { print; exit }' <<<"$known")
      if [[ -z $found ]]; then
        # RESULTS is empty, so that a failure here does not make the leg unavailable.
        if found=$(RESULTS='' && made "$newest" -standard); then
          found="$newest $found"
        else
          found=$(sort -s -r -V -k 1,1 <<<"$known" | head -n 1)
        fi
      fi
      ;;
    *) found=$(awk -v v="$which" '$1 == v { print; exit }' <<<"$known") ;;
  esac
  [[ -n $found ]] || unavailable "a standard Python ${which/#oldest/>= 3.11} with venv is not here"
  echo "${found#* }"
}

# standards: prints the standard interpreters that are present, a line each with version and path, in the order of search.
standards() {
  local name
  for name in python3 /usr/bin/python3 python3.{11..19} "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.*/bin/python3 \
    "$(uv python dir 2>/dev/null)"/*/bin/python3 "$CACHE"/python/*-standard/bin/python3; do
    standard_version "$name" || true
  done | awk '!seen[$0]++'
}

# Prints sys.executable, since version managers put slow wrapper scripts on PATH.
standard_version() {
  "$1" -c '
import ensurepip, os, sys, sysconfig, venv
if sys.version_info < (3, 11) or sysconfig.get_config_var("Py_GIL_DISABLED"):
    sys.exit(1)
print("%d.%d" % sys.version_info[:2], os.path.realpath(sys.executable))' 2>/dev/null </dev/null
}

# built VERSION FLAVOUR: prints the interpreter of an earlier build. A prefix appears by one rename when it is complete
# (staged), so if it exists it is whole.
built() {
  local prefix program
  prefix=$(prefix_of "$@") || return
  for program in "$prefix/bin/python$1"{t,td,}; do
    [[ ! -x $program ]] || { echo "$program" && return; }
  done
  return 1
}

# prefix_of VERSION FLAVOUR: prints where such a build is, or would be. "-standard" is one with the GIL.
prefix_of() {
  local full flavour=$2
  read -r full _ <<<"$(source_of "$1")"
  [[ -n $full ]] || return 1
  [[ -n $flavour || -z ${NOGIL_SYNC_PGO:-} ]] || flavour=-pgo
  [[ $flavour == -standard ]] || full+=t
  echo "$CACHE/python/$full$flavour"
}

# made VERSION FLAVOUR: prints such a build, and builds it first if it does not exist.
made() {
  prefix_of "$@" >/dev/null || die "only ${VERSIONS[*]/%/t} can be built here, not $1t"
  built "$@" && return
  locked "python-$1$2" build_python "$1" "$2" && built "$@"
}

# build_python VERSION FLAVOUR: builds CPython from Debian's source archive into the cache.
build_python() {
  built "$1" "$2" >/dev/null && return # another ./dev was faster
  local source prefix
  prefix=$(prefix_of "$1" "$2")
  source=$(cpython_source "$1") || exit
  step "building CPython ${prefix##*/} from Debian's source archive: once, in a few minutes"
  packages "building CPython" gcc libc6-dev make zlib1g-dev libssl-dev libffi-dev \
    libbz2-dev liblzma-dev libreadline-dev libncurses-dev
  staged "$prefix" compile_python "$source" "$prefix"
}

# staged PREFIX COMMAND...: runs a build in an empty folder. The build installs with DESTDIR=root, and PREFIX then
# appears by one rename: an interrupted build leaves no half interpreter behind.
staged() {
  local prefix=$1 stage=$CACHE/build/python-${1##*/} status=0
  shift
  rm -rf "$stage"
  mkdir -p "$stage" "$CACHE/python"
  (cd "$stage" && "$@" && rm -rf "$prefix" && mv "root$prefix" "$prefix") || status=$?
  rm -rf "$stage"
  return "$status"
}

compile_python() {
  local source=$1 prefix=$2 library
  # Environments get their pip from the wheel in the sources, so none is installed here.
  local options=(--prefix="$prefix" --with-ensurepip=no)
  # For the install: such an interpreter would take longer to compile the library to bytecode than the build took.
  local quick=()
  [[ $prefix == *-standard ]] || options+=(--disable-gil)
  case $prefix in
    # Includes CPython's test modules: _testcapi makes allocations fail.
    *-debug)
      options+=(--with-pydebug)
      quick=(PYTHON_FOR_BUILD=true)
      ;;
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
  # Leaks that the build's own interpreter reports at exit would fail the build.
  export ASAN_OPTIONS=detect_leaks=0
  logged "configuring CPython ${prefix##*/}" "$source/configure" "${options[@]}" || exit
  logged "compiling CPython ${prefix##*/} on $(cores) cores (about 5 minutes of one core)" \
    make -j"$(cores)" || exit
  logged "installing it into $prefix" make install DESTDIR="$PWD/root" ${quick[@]+"${quick[@]}"} || exit
  # CPython's tests are installed as well: those of locks and queues are run on our classes.
  for library in "root$prefix"/lib/python3.*; do
    [[ -d $library/test ]] || cp -R "$source/Lib/test" "$library/test" || exit
  done
}

# cpython_source VERSION: prints the folder of CPython's sources; fetches and unpacks them first if need be.
cpython_source() {
  local full path sum folder
  read -r full path sum <<<"$(source_of "$1")"
  [[ -n $full ]] || die "no sources of CPython $1 are known here"
  folder=$CACHE/src/Python-$full
  [[ -d $folder ]] || locked "source-$full" unpack_source "$folder" "$path" "$sum" || exit
  # Debug builds assert that a threading.Lock is not released again while it is handed to a waiter. Any thread may do
  # that (TaskGroup and the threading backend do), and 3.15 has dropped the assertion, so we remove it.
  [[ $1 != 3.1[34] ]] || ! sed -n '/if (entry.handed_off)/,/return/p' "$folder/Python/lock.c" | grep -q 'assert(' ||
    sed -i '/if (entry.handed_off)/,/return/ { /assert(/d }' "$folder/Python/lock.c" || exit
  echo "$folder"
}

# unpack_source FOLDER PATH SUM: unpacks the archive, if its SHA-256 is SUM.
unpack_source() {
  local folder=$1 path=$2 sum=$3 archive=$CACHE/src/${2##*/} fetched=
  [[ ! -d $folder ]] || return 0 # another ./dev was faster
  mkdir -p "$CACHE/src"
  if [[ ! -e $archive ]]; then
    fetch_source "$path" "$archive"
    fetched=1
  fi
  if [[ $(sha256 <"$archive") != "$sum" ]]; then
    [[ ! $fetched ]] || rm "$archive"
    die "$archive is not the archive that Debian has, as its SHA-256 is another; nothing was built" \
      "($([[ $fetched ]] && echo it was removed || echo remove it to fetch it again))"
  fi
  have xz || packages "unpacking CPython's sources" xz-utils
  made_whole "$folder" logged "unpacking ${path##*/}" tar --strip-components=1 -xf "$archive" || exit
}

# fetch_source PATH ARCHIVE: fetches the archive from the Debian mirror that this machine uses.
fetch_source() {
  local path=$1 archive=$2 mirror helper=/usr/lib/apt/apt-helper
  { have apt-get && [[ -x $helper ]] && mirror=$(debian_mirror); } ||
    unavailable "${path##*/} is not in $CACHE/src, and this machine has no Debian mirror to fetch it from; $OTHERWISE"
  # shellcheck disable=SC2064 # expanded now on purpose
  trap "rm -f $(printf %q "$archive").part*" EXIT # also after an interrupt
  rm -f "$archive.part"*
  step "fetching ${path##*/}"
  if ! "$helper" download-file "${mirror%/}/pool/main/p/$path" "$archive.part" >/dev/null 2>&1; then
    unavailable "Debian's mirror does not have ${path##*/} any more, or cannot be reached; $OTHERWISE"
  fi
  mv "$archive.part" "$archive"
}

OTHERWISE="install a free-threaded Python ('uv python install 3.14t'), or name one: ./dev --python PATH"

# Prints the address of the Debian mirror that this machine uses, as the package lists say. On a machine without package
# lists (a container, say) they are first fetched into a folder of the cache.
debian_mirror() {
  # shellcheck disable=SC2016 # apt fills this in
  local query=(indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian')
  local state=$CACHE/src/apt
  mkdir -p "$state"/{lists,archives}/partial
  local apt=(apt-get -q -o "Dir::State::Lists=$state/lists" -o "Dir::Cache=$state" -o "APT::Sandbox::User=$(id -un)")
  { apt-get "${query[@]}" | grep -m 1 : || { "${apt[@]}" update >&2 && "${apt[@]}" "${query[@]}" | grep -m 1 :; }; } 2>/dev/null
}

# pythons: prints which interpreters are present, and how the others could be had.
pythons() {
  (($# == 0)) || die "pythons takes nothing"
  local version flavour found path archive
  for version in "${VERSIONS[@]}"; do
    if found=$(found_python "$version"); then
      described "${version}t" "$found"
    else
      read -r _ path _ <<<"$(source_of "$version")"
      archive=$CACHE/src/${path##*/}
      printf '%-6s not here; %s\n' "${version}t" "$(
        ! have uv || echo "uv may have it; "
        if [[ -e $archive ]]; then
          echo "can be built from $archive"
        elif have apt-get; then
          echo "can be built from ${path##*/}, if Debian's mirror has it"
        else
          echo "cannot be built: its sources come from a Debian mirror"
        fi
      )"
    fi
    for flavour in "" -pgo -debug -thread -address; do
      path=$(built "$version" "$flavour") && [[ $path != "$found" ]] && described "" "$path"
    done
  done
  printf '\nstandard, of which the tests use the oldest and the newest:\n'
  while read -r version path; do described "$version" "$path"; done <<<"$(standards | sort -s -V -k 1,1)"
}

# described NAME PYTHON: prints a line about the interpreter.
described() {
  printf '%-6s %s\n' "$1" "$("$2" -c '
import platform, sys, sysconfig
arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
kinds = ["PGO" if "--enable-optimizations" in arguments else "no PGO"]
kinds += ["debug"] if hasattr(sys, "gettotalrefcount") else []
kinds += [kind + " sanitizer" for kind in ("thread", "address") if f"--with-{kind}-sanitizer" in arguments]
print(f"{platform.python_version():10} {sys.executable} ({chr(44).join(kinds)})".replace(",", ", "))')"
}
