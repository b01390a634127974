"""Every configuration of codebook_softmax compiles for GPUs that are not here, fits, and does not spill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_LIMIT = {80: 99 * 1024, 90: 227 * 1024}  # the tiles of sm_80 serve its smaller sisters too: sm_86, sm_89, sm_120
KERNELS = {"forward", "usage", "backward_x", "backward_code"}


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is made for Linux only")
def test_every_configuration_compiles(tmp_path):
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).with_name("compile_codebook_softmax.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=env, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    built = json.loads(done.stdout)
    assert {(b["capability"], b["kernel"]) for b in built} == {(c, k) for c in SHARED_LIMIT for k in KERNELS}
    for kernel in built:
        print(kernel)
        assert kernel["shared"] <= SHARED_LIMIT[kernel["capability"]], kernel
        assert kernel["spilled"] == 0, kernel
        assert kernel["tensor_core"], kernel
        if kernel["capability"] == 90:
            assert ["wgmma.mma_async", "tf32"] in kernel["tensor_core"], kernel
