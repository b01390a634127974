"""What a figure was measured on."""

import datetime
import os
import platform
from pathlib import Path

import torch

import vqmm


def machine() -> dict[str, str | int]:
    """Processor, threads, versions and date, for the JSON of a result."""
    return {
        "cpu": f"{_cpu()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "gpu": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "vqmm": vqmm.__version__,
        "date": datetime.date.today().isoformat(),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
