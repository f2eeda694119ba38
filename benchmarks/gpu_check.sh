#!/usr/bin/env bash
# What `make gpu-check` runs on a machine with a GPU: the tests of the CUDA backend and of ddp on GPUs
# (the same that CI runs on an emulated one), compute-sanitizer's memcheck on our own kernels, and a
# short benchmark. GPU_PYTHON names the interpreter. Ends with what failed, or "gpu-check: all well".
set -uo pipefail
cd "$(dirname "$0")/.." || exit
python=${GPU_PYTHON:-.venv/bin/python}
failed=()

part() {
    local name=$1
    shift
    echo "== $name"
    local began=$SECONDS
    "$@" || failed+=("$name")
    echo "== $name: $((SECONDS - began)) s"
}

"$python" - <<'END' || exit 1
import sys
import allgrad as ag
from allgrad.backend.cuda import availability
reason = availability.why_not()
if reason is not None:
    sys.exit(f"gpu-check: {reason}")
print("gpu-check:", ag.cuda.get_device_name(), "capability", ag.cuda.get_device_capability())
END

export ALLGRAD_TEST_GPU=1
part "tests" timeout 220 "$python" -m pytest -q tests/core/backend/cuda tests/ddp/gpu

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null || true)
if [ -n "$sanitizer" ]; then
    part "memcheck" timeout 100 "$sanitizer" --tool memcheck --error-exitcode 9 \
        "$python" -m pytest -q tests/core/backend/cuda/test_kernels.py
else
    echo "== memcheck: compute-sanitizer is not here (it comes with the CUDA toolkit)"
    failed+=("memcheck (compute-sanitizer is missing)")
fi

part "benchmark" timeout 100 "$python" benchmarks/gpu.py --quick
part "bandwidth of kernels" timeout 40 "$python" benchmarks/gpu_kernels.py

if [ ${#failed[@]} -gt 0 ]; then
    printf 'gpu-check: failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "gpu-check: all well"
