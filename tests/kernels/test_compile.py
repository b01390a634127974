"""Every configuration of the search kernels compiles for GPUs that are not here, fits, and does not spill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

INSTRUCTION = {80: "mma.sync", 90: "wgmma.mma_async"}


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux only")
def test_every_configuration_compiles(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    kernels = json.loads(done.stdout)
    assert {k["capability"] for k in kernels} == set(INSTRUCTION)
    assert {k["kernel"] for k in kernels} == {"search", "merge", "gather", "compact", "pack split", "pack tf32"}
    for kernel in kernels:
        print(kernel)
        assert kernel["shared"] <= kernel["limit"], kernel
        assert kernel["spilled"] == 0, kernel
        dot = kernel.get("dot", "fma")
        unit = {"fma": [], "bf16": [[INSTRUCTION[kernel["capability"]], "bf16"]]}
        assert kernel["tensor_core"] == unit.get(dot, [[INSTRUCTION[kernel["capability"]], "tf32"]]), kernel
