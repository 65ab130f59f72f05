#!/usr/bin/env bash
# Runs a bundle on 64-bit Arm without a board: qemu's user emulation, an arm64 userland from the
# packages of this Debian or Ubuntu, and the arm64 wheels of numpy and ONNX Runtime. Needs no root;
# everything stays in one folder, and a second run downloads nothing.
#
#   bash benchmarks/aarch64.sh [options of aarch64.py]
#   bash benchmarks/aarch64.sh --prepare        download what is needed, run nothing
#
# Exit status 75: something could not be downloaded.
#
# PYTHON            the Python that has EdgeViT installed (python3)
# AARCH64           where to keep userland and wheels (benchmarks/cache/aarch64, ignored by git)
# ARM64_SOURCES     an apt sources list that has arm64, where this system's own has not (Ubuntu)
# WHEELS            further options of `pip download`, such as --index-url
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
folder=${AARCH64:-$here/cache/aarch64}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
exec 9> "$folder/lock"
flock 9 # two runs would share downloads and the emulated /proc/cpuinfo
export USERLAND=$folder/userland PACKAGES=$folder/packages

apt_for() { # ARCHITECTURE ARGUMENTS: apt-get with lists, cache and state of its own
  local architecture=$1 state=$folder/apt-$1
  shift
  mkdir -p "$state/lists/partial" "$state/archives/partial"
  touch "$state/status"
  local options=(
    -qq -o Acquire::http::Timeout=30 -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture"
    -o "Dir::State=$state" -o "Dir::State::status=$state/status" -o "Dir::Cache=$state"
    -o "APT::Sandbox::User=$(id -un)"
  )
  if [ "$architecture" = arm64 ] && [ -n "${ARM64_SOURCES:-}" ]; then
    options+=(-o "Dir::Etc::sourcelist=$ARM64_SOURCES" -o "Dir::Etc::sourceparts=-")
  fi
  apt-get "${options[@]}" "$@" || exit 75
}

download() { # ARCHITECTURE PACKAGES: the packages and what they depend on, as .deb files
  local architecture=$1
  shift
  apt_for "$architecture" update
  apt_for "$architecture" install --download-only --yes --no-install-recommends "$@"
}

unpack() { # ARCHITECTURE FOLDER
  mkdir -p "$2.part"
  for package in "$folder/apt-$1/archives"/*.deb; do
    dpkg-deb --extract "$package" "$2.part"
  done
  [ -e "$2.part/lib" ] || ln -s usr/lib "$2.part/lib"
  mv "$2.part" "$2"
}

QEMU=$(command -v qemu-aarch64-static || command -v qemu-aarch64 || true)
if [ -z "$QEMU" ]; then
  if [ ! -d "$folder/qemu" ]; then
    native=$(dpkg --print-architecture)
    apt_for "$native" update
    (cd "$folder/apt-$native/archives" && apt_for "$native" download qemu-user-static)
    unpack "$native" "$folder/qemu"
  fi
  QEMU=$folder/qemu/usr/bin/qemu-aarch64-static
fi
export QEMU

if [ ! -d "$USERLAND" ]; then
  download arm64 python3-minimal libpython3-stdlib libstdc++6
  unpack arm64 "$USERLAND"
fi

if [ ! -d "$PACKAGES" ]; then
  version=$(basename "$(ls -d "$USERLAND"/usr/bin/python3.[0-9]* | head -1)" | cut -c7-)
  engine=$("$python" -c 'import onnxruntime; print(onnxruntime.__version__)')
  platforms=()
  for glibc in 2_17 2_27 2_28 2_34; do platforms+=(--platform "manylinux_${glibc}_aarch64"); done
  # shellcheck disable=SC2086
  "$python" -m pip download --quiet --no-deps --only-binary=:all: "${platforms[@]}" \
    --platform manylinux2014_aarch64 --implementation cp --python-version "$version" \
    --dest "$folder/wheels" ${WHEELS:-} numpy "onnxruntime==$engine" || exit 75
  for wheel in "$folder/wheels"/*.whl; do
    "$python" -m zipfile -e "$wheel" "$PACKAGES.part"
  done
  mv "$PACKAGES.part" "$PACKAGES"
fi

[ "${1:-}" != --prepare ] || exit 0
"$QEMU" --version | head -1
cd "$here/.."
PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} exec "$python" benchmarks/aarch64.py "$@"
