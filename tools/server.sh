# shellcheck shell=bash
# The server of examples/server: started with its status page, or driven by wrk. See docs/guide/server.md.

# serve [ARGS]: see examples/server/__main__.py.
serve() {
  server_program server "$@"
}

# load [ARGS]: see examples/server/load.
load() {
  if ! have wrk; then
    have apt-get || die "./dev load needs wrk, an HTTP load generator, on PATH"
    packages "./dev load" wrk
  fi
  server_program server.load "$@"
}

# try_wrk: what the tests of ./dev load need. Without it they are skipped, and say so.
try_wrk() {
  have wrk || [[ $(id -u) != 0 ]] || ! have apt-get || TAIL=0 logged "installing the Debian package wrk" install_packages wrk || true
}

# server_program MODULE ARGS...: runs a module of examples/. The tree itself stays off sys.path, as nogil_sync has no
# extension there.
server_program() {
  local interpreter env
  interpreter=$(free_threaded) || exit
  env=$(environment "$interpreter" server) || exit
  PYTHONSAFEPATH=1 PYTHONPATH=$ROOT/examples exec "$env/bin/python" -m "$@"
}
