# shellcheck shell=bash
# Small helpers: messages, locks, hashes, progress. Messages go to stderr, so that
# `./dev python -c ... > file` writes only the program's output.

HOME=${HOME:-~} # where it is unset, ~ is what the system's list of users says
CACHE=${NOGIL_SYNC_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/nogil_sync}
[[ $CACHE == /* ]] || CACHE=$PWD/$CACHE
# The programs of ./dev start in other folders, so they get an absolute path too.
[[ -z ${NOGIL_SYNC_CACHE:-} ]] || export NOGIL_SYNC_CACHE=$CACHE

step() { printf 'dev: %s\n' "$*" >&2; }

die() {
  printf 'dev: error: %s\n' "$*" >&2
  exit 1
}

# unavailable REASON: like die. A leg that ends in this way counts as not available, and the summary gives the reason.
unavailable() {
  [[ -z ${RESULTS:-} ]] || echo "$*" >"$RESULTS/.unavailable"
  die "$@"
}

# end_on_interrupt: a Ctrl-C ends this shell, with status 130, even if the command in the foreground catches it and ends
# in its own way, as pytest and mypy do. A subshell does not inherit it.
end_on_interrupt() { trap 'exit 130' INT; }

have() { command -v "$1" >/dev/null 2>&1; }

# The SHA-256 of standard input, and the first digits of it.
sha256() { { if have sha256sum; then sha256sum; else shasum -a 256; fi; } | cut -c1-64; }
digest() { sha256 | cut -c1-12; }

cores() { getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2; }

# locked NAME COMMAND...: runs a function while no other ./dev holds the lock NAME. The lock ends with the process, so
# an interrupted call leaves nothing to clean up.
locked() {
  local name=$1
  shift
  { mkdir -p "$CACHE/lock" && [[ -w $CACHE/lock ]]; } 2>/dev/null ||
    die "$CACHE is no folder to write to; NOGIL_SYNC_CACHE names another one"
  (
    if have flock; then
      flock -n 9 || {
        step "waiting for another ./dev that prepares $name"
        flock 9
      }
    fi
    "$@"
  ) 9>"$CACHE/lock/$name"
}

# made_whole FOLDER COMMAND...: runs a command in an empty folder, which then becomes FOLDER by one rename: a command
# that fails or is interrupted leaves no half folder behind. The caller holds a lock (locked).
made_whole() {
  local folder=$1 stage=$1.unfinished status=0
  shift
  rm -rf "$stage"
  mkdir -p "$stage"
  (cd "$stage" && "$@") && mv "$stage" "$folder" || status=$?
  rm -rf "$stage"
  return "$status"
}

# configured FOLDER COMMAND...: runs the command that configures a build folder, unless it succeeded there before. What
# an interrupted call left is removed first: meson would not go on with it.
configured() {
  local folder=$1
  shift
  [[ ! -e $folder/.configured ]] || return 0
  rm -rf "$folder"
  "$@" && touch "$folder/.configured"
}

# logged LABEL COMMAND...: runs a long command with its output in a log. On a terminal it shows a clock and the log's
# last line, elsewhere only the label. If the command fails it shows the last TAIL lines of the log, and the words of
# FAILED_AS instead of "failed".
logged() {
  local label=$1 log status=0 begin=$SECONDS
  shift
  mkdir -p "$CACHE/log"
  log=$CACHE/log/$(printf '%s' "$label" | tr -cs 'A-Za-z0-9.' -).$$.log
  step "$label"
  # The command gets a process group of its own, so that an interrupt can end it with all its children. Otherwise a
  # build would go on unseen.
  set -m
  "$@" >"$log" 2>&1 </dev/null &
  local pid=$!
  set +m
  trap 'kill -- "-$pid" 2>/dev/null; rm -f "$log"; exit 130' INT TERM
  if [[ -t 2 ]]; then
    local width
    width=$(($(tput cols 2>/dev/null || echo 80) - 20))
    while kill -0 "$pid" 2>/dev/null; do
      printf '\r\033[K     %3ds  %s' $((SECONDS - begin)) \
        "$(tail -n 1 "$log" | tr -cd '[:print:]' | awk -v w="$width" '{ print length > w ? "... " $NF : $0 }')" >&2
      sleep 0.3
    done
    printf '\r\033[K' >&2
  fi
  wait "$pid" || status=$?
  trap - TERM
  end_on_interrupt
  if ((status)); then
    tail -n "${TAIL:-25}" "$log" >&2
    step "${FAILED_AS:-failed}: $label (whole log: $log)"
    return "$status"
  fi
  rm -f "$log"
  ((SECONDS - begin < 5)) || step "  done in $((SECONDS - begin)) s"
}

# packages WHY PACKAGE...: installs the Debian packages that are missing, if it may.
packages() {
  local why=$1 name missing=()
  shift
  for name; do
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) == installed ]] || missing+=("$name")
  done
  ((${#missing[@]})) || return 0
  [[ $(id -u) == 0 ]] ||
    unavailable "$why needs the Debian packages: ${missing[*]} (sudo apt-get install ${missing[*]})"
  # install_packages updates the package lists if the first try fails: an image may have none.
  logged "installing Debian packages for $why: ${missing[*]}" install_packages "${missing[@]}" ||
    unavailable "$why needs the Debian packages ${missing[*]}, which could not be installed"
}

install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q -y --no-install-recommends install "$@" ||
    { apt-get -q update && apt-get -q -y --no-install-recommends install "$@"; }
}

# compiler: makes sure that a C compiler is there.
compiler() {
  have "${CC:-cc}" && return
  [[ -z ${CC:-} ]] || die "CC=$CC is not a command"
  have apt-get || die "a C compiler is needed (gcc or clang); set CC if it is not called cc"
  packages "the C extension" gcc libc6-dev
}
