# Installs what is missing on a bare Debian machine. Sourced by tests/run, tests/bench, tests/long and deploy/quickstart.
# need PROGRAM PACKAGE...: installs the packages if the program is not there.

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
    echo "cannot install packages: not root, and no sudo; please run: $*" >&2
    return 1
  fi
}

apt_updated=
install_packages() {
  if [ -z "$apt_updated" ]; then
    as_root apt-get update -qq >/dev/null || return 1
    apt_updated=yes
  fi
  echo "installing $*" >&2
  DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

need() {
  local program=$1
  shift
  local found
  found=$(command -v "$program" || ls /usr/lib/postgresql/*/bin/"$program" /usr/sbin/"$program" 2>/dev/null | head -n 1)
  [ -n "$found" ] || install_packages "$@"
}

need_rust() {
  if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH="$HOME/.cargo/bin:$PATH"; fi
  if ! command -v cargo >/dev/null; then
    echo "Rust is missing: install rustup (https://rustup.rs), then run this again" >&2
    return 1
  fi
  need cc build-essential
}

# A Python that can make virtual environments, in $python.
need_python() {
  python=$(command -v python3 || true)
  if [ -z "$python" ] || ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    install_packages python3 python3-venv
    python=python3
  fi
}
