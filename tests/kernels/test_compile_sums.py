"""Every kernel of code_sums and update_codebook_ compiles for GPUs that are not here, fits, and does not spill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
INSTRUCTION = {80: "mma.sync", 90: "wgmma.mma_async"}


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux only")
def test_every_configuration_compiles(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).with_name("compile_sums.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    kernels = said["kernels"]
    assert {k["capability"] for k in kernels} == set(SHARED_LIMIT)
    names = {"slot_kernel", "add_kernel", "fold_kernel", "onehot_kernel", "totals_kernel", "update_kernel"}
    assert {k["kernel"] for k in kernels} == names
    assert set(said["variants"]) == names
    for name, counted in said["variants"].items():  # packed and strided vectors; a new number of them compiles nothing
        assert counted == [2 if name in ("slot_kernel", "add_kernel", "onehot_kernel") else 1] * 6, (name, counted)
    for kernel in kernels:
        print(kernel)
        assert kernel["shared"] <= SHARED_LIMIT[kernel["capability"]], kernel
        assert kernel["spilled"] == 0, kernel
        assert kernel["atomics"] == 0, kernel  # the order of every float sum is fixed
        if kernel["kernel"] == "onehot_kernel":
            assert [INSTRUCTION[kernel["capability"]], "bf16"] in kernel["tensor_core"], kernel
        if kernel["kernel"] == "add_kernel" and kernel["packed"] and kernel["width"] % 4 == 0:
            assert kernel["wide_loads"] > 0, kernel
