#!/usr/bin/env bash
# The first run on a machine with a GPU; six minutes at most. See gpu.py beside it.
#
#   bash benchmarks/gpu.sh [options of gpu.py]
#
# Exit status 75: there is no GPU.
#
# PYTHON    the Python that has torch, onnx and timm (python3)
# WHEELS    a folder of wheels to take TensorRT for RTX, and what else is missing, from; else pip
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=${PYTHON:-python3}
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
export PYTHONPATH=$here/..:$site${PYTHONPATH:+:$PYTHONPATH}

have() { "$python" -c "import importlib.util, sys; sys.exit(importlib.util.find_spec('$1') is None)"; }
if [ -n "${WHEELS:-}" ]; then
  "$python" -m pip install -q --no-index --no-deps --target "$site" "$WHEELS"/*.whl
fi
for package in msgspec:msgspec tensorrt_rtx:'tensorrt-rtx-cu13>=1.7.1,<1.8'; do
  have "${package%%:*}" || "$python" -m pip install -q --target "$site" "${package#*:}" ||
    echo "SKIPPED: ${package%%:*} can't be downloaded here; WHEELS names a folder that has it"
done
timeout 360 "$python" "$here/gpu.py" "$@"
