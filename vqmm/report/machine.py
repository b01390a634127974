"""What a page was made on."""

import os
import platform
from pathlib import Path

import torch

import vqmm


def machine() -> dict[str, str]:
    """Processor, threads, GPU and versions."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": f"{_cpu()}, {os.cpu_count()} cores",
        "threads": str(torch.get_num_threads()),
        "gpu": ", ".join(gpus) or "none",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "vqmm": vqmm.__version__,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
