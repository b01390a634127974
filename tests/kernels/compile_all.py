"""Compile the Triton kernels for GPUs that need not be there, and print what came out as JSON.

    python -m tests.kernels.compile_all             the narrowest and the widest row of every kind, or, where kernels
                                                    or Triton are not those of the last full run, every row
    python -m tests.kernels.compile_all --all       every row
    python -m tests.kernels.compile_all --renew     test every row; where all pass, write down that they did

`compiled.json`, beside this file, holds for each version of Triton a hash of what decides how a kernel is compiled: the
Python files and tables under `kernels/`, and the scripts that say which rows there are. test_compile compiles every row
where the hash of now is not the one written down: after a change to the kernels run --renew once with each version of
Triton, and commit the file. What was compiled is kept in $VQMM_COMPILE_CACHE, else in vqmm/compiled under the user's
cache folder, by Triton's own hashes: a run compiles what is new. The folder can be removed at any time.
"""

import argparse
import hashlib
import importlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
RECORD = Path(__file__).with_name("compiled.json")
SCRIPTS = ("nearest_code", "codebook_softmax", "residual", "sums")
EVERY_ROW = "VQMM_COMPILE_ALL"


def cache() -> Path:
    """Where compiled kernels are kept from run to run."""
    users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("VQMM_COMPILE_CACHE") or users / "vqmm" / "compiled")


def state() -> str:
    """A hash of the kernels, their tables, and the scripts."""
    kernels = [file for file in (TOP / "kernels").rglob("*") if file.suffix in (".py", ".json")]
    scripts = list((TOP / "tests" / "kernels").glob("compil*.py"))
    whole = hashlib.sha256()
    for file in sorted(kernels + scripts):
        whole.update(f"{file.relative_to(TOP).as_posix()}\n".encode() + file.read_bytes())
    return whole.hexdigest()


def recorded() -> dict[str, str]:
    return json.loads(RECORD.read_text()) if RECORD.is_file() else {}


def every_row(version: str) -> bool:
    """Whether the environment asks for all, or nothing says that these kernels passed with this version of Triton."""
    return bool(os.environ.get(EVERY_ROW)) or recorded().get(version) != state()


def run(task: tuple[str, Any]) -> dict[str, Any]:
    script, job = task
    return importlib.import_module(f"tests.kernels.compile_{script}").run(job)


def compile_them(everything: bool) -> dict[str, Any]:
    """What came out, by script; begun with the longest, so that no process waits for another at the end."""
    from triton.runtime.cache import triton_key

    from tests.kernels.compiling import chosen

    triton_key()  # a hash of all of Triton, which the processes inherit
    work = []
    for script in SCRIPTS:
        jobs = importlib.import_module(f"tests.kernels.compile_{script}").jobs()
        work += [(script, job) for job in (jobs if everything else chosen(jobs))]
    work.sort(key=lambda task: -task[1].cost)
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("fork")) as pool:
        done = list(pool.map(run, work))
    results: dict[str, Any] = {script: {"kernels": []} for script in SCRIPTS}
    for (script, _), result in zip(work, done, strict=True):
        if "variants" in result:
            results[script] |= result
        else:
            results[script]["kernels"].append(result)
    return results


def renew() -> int:
    """The hash is of before the test: a file that changes meanwhile is not taken for compiled."""
    import triton

    now, begun = state(), os.times()
    test = str(Path(__file__).with_name("test_compile.py"))
    done = subprocess.run([sys.executable, "-m", "pytest", test], cwd=TOP, env={**os.environ, EVERY_ROW: "1"})
    ended = os.times()
    seconds = sum(ended[2:4]) - sum(begun[2:4])
    print(f"compile_all: every row with Triton {triton.__version__}: {seconds:.0f} s of processor time")
    if done.returncode:
        print(f"compile_all: {RECORD.name} is left as it was", file=sys.stderr)
        return done.returncode
    versions = dict(sorted((recorded() | {triton.__version__: now}).items()))
    RECORD.write_text(json.dumps(versions, indent=2) + "\n")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="every row")
    parser.add_argument("--renew", action="store_true", help="test every row and write its hash down")
    args = parser.parse_args()
    if args.renew:
        return renew()
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ["TRITON_CACHE_DIR"] = str(cache())
    import triton

    everything = args.all or every_row(triton.__version__)
    begun = time.monotonic()
    results = compile_them(everything)
    rows = sum(len(each["kernels"]) for each in results.values())
    which = "every row" if everything else "the ends of every kind"
    print(f"compile_all: {which}, {rows} kernels, {time.monotonic() - begun:.0f} s", file=sys.stderr)
    json.dump(results, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
