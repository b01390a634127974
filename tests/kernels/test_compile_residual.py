"""Every configuration of residual_quantize's kernels compiles for GPUs that are not here, fits, and does not spill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_LIMIT = {80: 99 * 1024, 90: 227 * 1024}  # the first table serves 8.6 and 8.9 too
INSTRUCTION = {80: "mma.sync", 90: "wgmma.mma_async"}


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux only")
def test_every_configuration_compiles(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).with_name("compile_residual.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    made = json.loads(done.stdout)
    assert made["variants"] == [1, 1]  # a new batch size, or stage, compiles nothing
    kernels = made["kernels"]
    walks = [kernel for kernel in kernels if kernel["kernel"] == "walk_kernel"]
    assert {kernel["capability"] for kernel in walks} == set(SHARED_LIMIT) and len(kernels) > len(walks)
    for kernel in kernels:
        print(kernel)
        assert kernel["shared"] <= SHARED_LIMIT[kernel["capability"]], kernel
        assert kernel["spilled"] == 0, kernel
    for kernel in walks:
        if kernel["config"][-1] != "fma":
            assert [INSTRUCTION[kernel["capability"]], "tf32"] in kernel["tensor_core"], kernel
