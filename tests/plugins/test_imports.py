"""Importing a plugin loads none of the libraries that only its use needs."""

import json
import subprocess
import sys

HEAVY = ["soundfile", "torchaudio", "pystoi", "pesq", "sklearn", "sentencepiece", "sacrebleu"]
STEPS = [
    "import vqmm.plugins.audio.files",
    "import vqmm.plugins.text.files",
    "import vqmm.plugins.text",
    "import vqmm.plugins.audio.baselines as b; b.sound_baselines(8000)",
    "from vqmm.plugins.audio import metrics, show; metrics.sound_metrics(16000)",
]
CODE = """
import json, sys
steps, heavy = json.loads(sys.argv[1])
for step in steps:
    exec(step)
    print(json.dumps([step, [name for name in heavy if name in sys.modules]]))
"""


def test_nothing_heavy_is_imported_before_it_is_used():
    """In one new process: it takes seconds to import torch in each."""
    command = [sys.executable, "-c", CODE, json.dumps([STEPS, HEAVY])]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [json.loads(line) for line in said.splitlines()] == [[step, []] for step in STEPS]
