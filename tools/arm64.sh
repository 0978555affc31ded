# shellcheck shell=bash
# arm64 by emulation: a cross-compiler, qemu's user mode, and a cross-built CPython.

ARM64=aarch64-linux-gnu
# The legs of `./dev test --arch arm64`, and those with --full.
ARM64_SHORT_LEGS=(core-arm64 native-arm64)
ARM64_LEGS=(core-arm64 core-v8.0-arm64 native-arm64)

# arm64_tools: makes sure that the cross-compiler and the emulator are there.
arm64_tools() {
  { have "$ARM64-gcc" && have "$ARM64-objdump" && [[ -n $(arm64_libc) ]]; } ||
    packages "arm64" "gcc-$ARM64" libc6-dev-arm64-cross
  [[ -n $(arm64_qemu) ]] || packages "arm64" qemu-user
}

arm64_qemu() { command -v qemu-aarch64 || command -v qemu-aarch64-static || true; }

# arm64_libc: prints the folder that holds the cross-compiler's C library in lib/, for emulated programs.
arm64_libc() {
  local found
  found=$("$ARM64-gcc" -print-file-name=libc.so.6 2>/dev/null) || return 0
  [[ $found != /* ]] || (cd "${found%/*}/.." && pwd -P)
}

# arm64_cross_file PYTHON: prints meson's description of the machine.
arm64_cross_file() {
  printf '%s\n' '[binaries]' "c = '$ARM64-gcc'" "ar = '$ARM64-ar'" "strip = '$ARM64-strip'" \
    "exe_wrapper = ['$(arm64_qemu)', '-L', '$(arm64_libc)']"
  [[ -z $1 ]] || printf '%s\n' "python = '$1'"
  printf '%s\n' '[host_machine]' "system = 'linux'" "cpu_family = 'aarch64'" "cpu = 'aarch64'" \
    "endian = 'little'"
}

# ---- The interpreter ----

# arm64_python VERSION: prints a free-threaded interpreter: a script that runs it emulated.
arm64_python() {
  local prefix
  prefix=$(prefix_of "$1" -arm64) || die "only ${VERSIONS[*]/%/t} can be built for arm64, not $1t"
  arm64_tools
  [[ -d $prefix ]] || locked "python-$1-arm64" build_arm64_python "$1" "$prefix" || exit
  renew_arm64_script "$prefix" "python$1t" || exit
  echo "$prefix/bin/python$1t"
}

# renew_arm64_script PREFIX NAME: the script names the emulator and the C library, which may have come to lie elsewhere
# since the interpreter was built.
renew_arm64_script() {
  local script=$1/bin/$2
  arm64_script "$1/emulated/$2" | cmp -s - "$script" && return
  arm64_script "$1/emulated/$2" >"$script.$$" && chmod 755 "$script.$$" && mv "$script.$$" "$script"
}

build_arm64_python() {
  [[ ! -d $2 ]] || return 0 # another ./dev was faster
  staged "$2" cross_compile_python "$1" "$2"
}

cross_compile_python() {
  local version=$1 prefix=$2 source builder libraries program name=${2##*/}
  builder=$(free_threaded "$version") || exit
  source=$(cpython_source "$version") || exit
  libraries=$(arm64_libraries) || exit
  step "cross-building CPython $name from Debian's source archive: once, in a few minutes"
  packages "building CPython" gcc libc6-dev make
  # pkg-config would find this machine's libraries. The ac_cv variables answer what configure would find by running
  # programs.
  local options=(--prefix="$prefix" --disable-gil --disable-test-modules --with-ensurepip=no
    --host="$ARM64" --build="$(sh "$source/config.guess")" --with-build-python="$builder"
    PKG_CONFIG=false ac_cv_file__dev_ptmx=yes ac_cv_file__dev_ptc=no ac_cv_buggy_getaddrinfo=no
    "OPT=-DNDEBUG -O2 -Wall") # debug information and -O3 take as long again to compile
  local link="-L$libraries/lib -Wl,-rpath,$prefix/lib"
  options+=("ZLIB_CFLAGS=-I$libraries/include" "ZLIB_LIBS=$link -lz"
    "LIBFFI_CFLAGS=-I$libraries/include" "LIBFFI_LIBS=$link -lffi")
  logged "configuring CPython $name" "$source/configure" "${options[@]}" || exit
  logged "compiling CPython $name on $(cores) cores" make -j"$(cores)" || exit
  logged "installing it into $prefix" make install DESTDIR="$PWD/root" || exit
  local root=$PWD/root$prefix
  cp -P "$libraries"/lib/lib{ffi,z}.so.* "$root/lib/" || exit
  program=$root/bin/python${version}t
  mkdir "$root/emulated" && mv "$program" "$root/emulated/" || exit
  arm64_script "$prefix/emulated/${program##*/}" >"$program" || exit
  chmod 755 "$program" || exit
  "$(arm64_qemu)" -L "$(arm64_libc)" -E LD_LIBRARY_PATH="$root/lib" -0 "$program" \
    "$root/emulated/${program##*/}" -c 'import ctypes, zlib, _posixsubprocess' ||
    die "the interpreter that was built for arm64 does not run under $(arm64_qemu)"
}

# arm64_script PROGRAM: prints a script that runs the program emulated. It is installed under the interpreter's name, so
# that sys.executable, environments and subprocesses use it, too. LD_PRELOAD is for the program, not for the emulator.
arm64_script() {
  printf '%s\n' '#!/bin/sh' \
    "set -- \${LD_PRELOAD:+-E \"LD_PRELOAD=\$LD_PRELOAD\"} -0 \"\$0\" '$1' \"\$@\"" \
    'unset LD_PRELOAD' \
    "exec '$(arm64_qemu)' -L '$(arm64_libc)' \"\$@\""
}

# arm64_libraries: prints a folder with zlib and libffi for arm64, from Debian's packages.
arm64_libraries() {
  local folder=$CACHE/src/libraries-arm64
  [[ -d $folder ]] || locked "libraries-arm64" fetch_arm64_libraries "$folder" || exit
  echo "$folder"
}

fetch_arm64_libraries() {
  [[ -d $1 ]] || made_whole "$1" unpack_arm64_libraries # unless another ./dev was faster
}

# Uses an apt configuration of its own: nothing is installed, and the machine's own package lists stay as they are.
unpack_arm64_libraries() {
  local state=$CACHE/src/apt-arm64 names=(libffi-dev zlib1g-dev)
  local mirror release package keys=/usr/share/keyrings/debian-archive-keyring.gpg
  # shellcheck source=/dev/null
  { have apt-get && mirror=$(debian_mirror) &&
    release=$(. /etc/os-release && echo "$VERSION_CODENAME"); } ||
    unavailable "arm64 needs Debian's libffi and zlib for it, and here is no Debian mirror to ask"
  mkdir -p "$state"/{lists,archives}/partial
  : >"$state/status"
  echo "deb [signed-by=$keys] $mirror $release main" >"$state/sources.list"
  local apt=(-q -o APT::Architecture=arm64 -o APT::Architectures=arm64
    -o "APT::Sandbox::User=$(id -un)"
    -o "Dir::State=$state" -o "Dir::State::status=$state/status" -o "Dir::Cache=$state"
    -o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=/dev/null)
  logged "reading what packages Debian has for arm64" apt-get "${apt[@]}" update ||
    unavailable "arm64 needs Debian's package lists for it, which could not be fetched"
  while read -r package; do names+=("$package"); done < <(
    apt-cache "${apt[@]}" depends "${names[@]}" |
      sed -nE 's/^ *Depends: (libffi[0-9]+|zlib1g)$/\1/p')
  mkdir packages root include lib
  (cd packages &&
    logged "fetching ${names[*]} for arm64" apt-get "${apt[@]}" download "${names[@]}") ||
    unavailable "arm64 needs ${names[*]} for it, which could not be fetched from Debian's mirror"
  for package in packages/*.deb; do dpkg -x "$package" root || exit; done
  cp -R root/usr/include/* "root/usr/include/$ARM64"/* include/ || exit
  find root -path "*/lib/$ARM64/*" -name 'lib*.so*' -exec cp -P {} lib/ \; || exit
  # Links to other folders are redirected to the files that now lie beside them.
  find lib -type l | while read -r package; do
    ln -sf "$(basename "$(readlink "$package")")" "$package"
  done
  rm -rf packages root
}

# ---- The legs ----

# Tests that take long under emulation: they run many rounds, or measure how a cost grows with the number of things.
ARM64_LONG=(histories hostile/test_draining.py)

# arm64_legs FULL: sets `legs` for `./dev test --arch arm64`, and REMARK, which is printed below the summary.
# shellcheck disable=SC2034 # both are used by `tests` and run_legs
arm64_legs() {
  legs=("${ARM64_SHORT_LEGS[@]}")
  REMARK="Under emulation, where errors of memory order do not show (docs/arm64.md)."
  if [[ $1 ]]; then
    legs=("${ARM64_LEGS[@]}")
    ARM64_LONG=()
  else
    REMARK+=" Left out were, for their length: ${ARM64_LONG[*]}; --full has them."
  fi
}

# leg_arm64 LEG ARGS...
leg_arm64() {
  case $1 in
    core-arm64) core_arm64 "$1" ;;
    # A processor without ARMv8.1's atomics: each atomic operation is a loop there.
    core-v8.0-arm64) QEMU_CPU=cortex-a53 core_arm64 "$1" ;;
    native-arm64) native_arm64 "$@" ;;
  esac
}

core_arm64() {
  arm64_tools
  local file=$CACHE/build/core-arm64.ini
  mkdir -p "$CACHE/build"
  arm64_cross_file "" >"$file.$$" && mv "$file.$$" "$file"
  local TEST_OPTIONS=(--timeout-multiplier=10)
  # tests/helpers/emulated.py says why.
  export NS_NO_THREADS_IN_CHILDREN=1
  # One build for all processors.
  local BUILD=core-arm64
  core "$1" --cross-file "$file"
}

native_arm64() {
  local TOOLS_OF CROSS=arm64_cross_file LIMIT=${LIMIT:-7200} OPTIONS interpreter env library
  TOOLS_OF=$(free_threaded)
  interpreter=$(arm64_python "$VERSION")
  env=$(environment "$interpreter" test)
  for library in "$env"/lib/python*/site-packages/nogil_sync/_native/_core.*.so; do
    "$TOOLS_OF" "$ROOT/tools/arm64_code.py" --library "$library" || exit
  done
  export NOGIL_SYNC_STRESS=${NOGIL_SYNC_STRESS:-0.2} PYTHONPATH=$ROOT/tests/helpers
  # tests/outside runs CPython's own tests, which take as long as ours.
  OPTIONS=(-p emulated --ignore=tests/isolated --ignore=tests/stress --ignore=tests/outside
    --timeout=1800)
  [[ $# -gt 1 ]] || OPTIONS+=("${ARM64_LONG[@]/#/--ignore=tests/}")
  suite native-arm64 "arm64_python $VERSION" "${@:2}"
}
