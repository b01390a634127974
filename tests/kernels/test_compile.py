"""Every configuration of the Triton kernels compiles for GPUs that are not here, fits, and does not spill."""

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
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = json.loads(done.stdout)
    assert {k["capability"] for k in kernels} == set(SHARED_LIMIT)
    for kernel in kernels:
        print(kernel)
        assert kernel["shared"] <= SHARED_LIMIT[kernel["capability"]], kernel
        assert kernel["spilled"] == 0, kernel
        assert [INSTRUCTION[kernel["capability"]], "tf32"] in kernel["tensor_core"], kernel
