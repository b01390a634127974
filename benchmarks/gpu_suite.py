"""Everything that only a GPU can tell, in one go, from a bare checkout: right, the same bits, graphs, tuned, measured.

    python benchmarks/gpu_suite.py [--wheels DIR] [--out DIR] [--minutes 8] [--steps tests,big] [--dry-run]

Needs Python 3.11 or newer with torch, triton, numpy, pytest, hypothesis and scipy; nothing of vqmm need be installed,
and nothing is fetched. Competitors come as a folder of wheels, made beforehand on a machine with a network, for the
Python of the GPU machine (here 3.12):

    pip download --no-deps --only-binary :all: --python-version 3.12 --platform manylinux2014_x86_64 --dest wheels \\
        flash-kmeans vector-quantize-pytorch einops einx frozendict loguru torch-einops-utils tqdm

Steps, each with its share of the minutes (time that one leaves goes to the next): tests (tests/kernels, but for what is
compiled for GPUs that are not here), big, bits, graphs, new-n, tune, bench. Each runs in processes of its own; one that
fails is recorded and stops nothing. DIR (else $OUT, else benchmarks/results) gets gpu_suite.json after every step, the
tuned table of this kind of GPU (for kernels/nearest_code/tables) and quantizer.json. Exit code: 0 if all passed, 1 if
something did not, 2 without a GPU. --dry-run goes through all steps at tiny sizes on the CPU.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

TOP = Path(__file__).resolve().parents[1]
WEIGHTS = {"tests": 100, "big": 35, "bits": 45, "graphs": 45, "new-n": 25, "tune": 120, "bench": 100}
FOLDERS = {"vqmm": "vqmm", "plugins": "vqmm/plugins", "kernels": "vqmm/kernels", "benchmarks": "vqmm/benchmarks"}
AT_ONCE = 6  # test files
TOLD = 2000  # the last characters of what a failed process said

Result = dict[str, Any]


class House(NamedTuple):
    """Where the package can be imported from, and how its processes are started."""

    folder: Path
    environment: dict[str, str]
    dry: bool

    def run(self, command: Sequence[str], seconds: float) -> tuple[int, str, str]:
        """(exit code, standard output, standard error); -1: it was stopped because its time was up."""
        with subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment,
            start_new_session=True,
        ) as process:
            try:
                out, err = process.communicate(timeout=seconds)
                return process.returncode, out, err
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)  # and what it has started itself
                out, err = process.communicate()
                return -1, out, err


def build(folder: Path, dry: bool, wheels: Path | None) -> tuple[House, str]:
    """The tree as the package lies when it is installed, and what installing the wheels said."""
    junk = shutil.ignore_patterns("__pycache__", "results", "*.so")
    for source, target in FOLDERS.items():
        shutil.copytree(TOP / source, folder / "house" / target, ignore=junk)
    shutil.copytree(TOP / "tests", folder / "house" / "tests", ignore=junk)
    shutil.copy(TOP / "pyproject.toml", folder / "house")
    places, said = [str(folder / "house")], ""
    if wheels is not None:
        files = sorted(map(str, wheels.resolve().glob("*.whl")))
        command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--quiet", "--target"]
        done = subprocess.run([*command, str(folder / "site"), *files], capture_output=True, text=True, check=False)
        said = done.stderr.strip()[-TOLD:] if done.returncode else ""
        places.append(str(folder / "site"))
    before = os.environ.get("PYTHONPATH")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places + ([before] if before else []))}
    environment.pop("TRITON_INTERPRET", None)
    if dry:
        environment |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return House(folder / "house", environment, dry), said


def tests(house: House, seconds: float) -> Result:
    """Every test file of the kernels in a process of its own, a few at a time."""
    files = [file.name for file in sorted((house.folder / "tests" / "kernels").glob("test_*.py"))]
    files = [name for name in files if "compile" not in name]
    if house.dry:
        files = ["test_update_codebook.py"]
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = pool.map(lambda name: _test_file(house, name, end), files)
        return dict(zip(files, done, strict=True))


def _test_file(house: House, name: str, end: float) -> Result:
    left = end - time.monotonic()
    if left < 5:
        return {"passed": None, "why": "time was up"}
    report = house.folder / f"{name}.xml"
    command = ["-m", "pytest", f"tests/kernels/{name}", f"--junitxml={report}", "-q"]
    code, out, err = house.run([*command, *(["-k", "mistakes"] if house.dry else [])], left)
    if not report.is_file():  # stopped, or it never began
        why = "time was up" if code == -1 else (out + err)[-TOLD:]
        return {"passed": None if code == -1 else False, "why": why}
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    first = "; ".join(f"{case.get('name')}: {_message(case)}" for case in bad[:5])
    return {"passed": code == 0, "why": first, "tests": len(cases), "failed": len(bad), "skipped": skipped}


def _message(case: ElementTree.Element) -> str:
    fault = case.find("failure") if case.find("failure") is not None else case.find("error")
    return " ".join((fault.get("message") or "").split())[:300] if fault is not None else ""


def step(house: House, name: str, out: Path, seconds: float) -> Result:
    """One of gpu_checks' steps; it is told to end a little before it would be stopped."""
    budget = max(5.0, seconds - 15.0)
    command = ["-m", "vqmm.benchmarks.gpu_checks", name, "--out", str(out), "--seconds", f"{budget:.0f}"]
    code, said, err = house.run([*command, *(["--small"] if house.dry else [])], seconds)
    if code != 0:
        return {"passed": False, "why": "time was up" if code == -1 else err[-TOLD:]}
    return json.loads(said.splitlines()[-1])  # whatever was said before it


def failures(name: str, result: Result) -> list[str]:
    """What did not pass, a line each."""
    if "why" in result and "passed" in result:
        return [] if result["passed"] else [f"{name}: {result['why']}"]
    if name == "bench":
        rows = [row for row in result["rows"] if "wrong" in row]
        return [f"bench: {row['name']} {row['task']} {row['precision']}: {row['wrong']}" for row in rows]
    if name == "tune":
        return []
    return [f"{name}: {each}: {outcome['why']}" for each, outcome in result.items() if not outcome["passed"]]


def suite(house: House, out: Path, minutes: float, start: float, steps: Sequence[str] = tuple(WEIGHTS)) -> Result:
    """The steps in their order; the file is written after each."""
    result: Result = {"question": "gpu_suite", "dry_run": house.dry, "steps": {}, "seconds": {}, "failures": []}
    weights = {name: weight for name, weight in WEIGHTS.items() if name in steps}
    for name in tuple(weights):
        left = 60 * minutes - (time.monotonic() - start)
        seconds = left * weights[name] / sum(weights.values())
        del weights[name]
        begun = time.monotonic()
        try:
            outcome = tests(house, seconds) if name == "tests" else step(house, name, out, seconds)
        except Exception as error:  # one step's fault stops no other
            outcome = {"passed": False, "why": f"{type(error).__name__}: {error}"}
        result["steps"][name], result["seconds"][name] = outcome, round(time.monotonic() - begun, 1)
        if name == "tune" and not house.dry and "table" in outcome:
            shutil.copy(house.folder / "vqmm" / "kernels" / "nearest_code" / "tables" / outcome["table"], out)
        new = failures(name, outcome)
        result["failures"] += new
        write(out, result)
        print(f"{name}: {result['seconds'][name]} s, {len(new)} did not pass", flush=True)
        for line in new[:10]:
            print(f"  {line[:400]}", flush=True)
    return result


def write(out: Path, result: Result) -> None:
    fresh = out / "gpu_suite.new"
    fresh.write_text(json.dumps(result, indent=2) + "\n")
    fresh.replace(out / "gpu_suite.json")


def main(arguments: Sequence[str] | None = None) -> int:
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, help="a folder of wheels of the competitors and what they need")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT") or TOP / "benchmarks" / "results"))
    parser.add_argument("--minutes", type=float, default=7.5)
    parser.add_argument("--steps", default=",".join(WEIGHTS), help="some of them, with commas between")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args(arguments)
    steps = args.steps.split(",")
    if unknown := [name for name in steps if name not in WEIGHTS]:
        print(f"gpu_suite: no step is called {', '.join(unknown)}; there is {', '.join(WEIGHTS)}", file=sys.stderr)
        return 2
    if args.wheels is not None and not args.wheels.is_dir():
        print(f"gpu_suite: --wheels {args.wheels} is no folder; see --help for how to make it", file=sys.stderr)
        return 2
    if not args.dry_run:
        import torch

        if not torch.cuda.is_available():
            print("gpu_suite: there is no GPU here; --dry-run goes through the steps on the CPU", file=sys.stderr)
            return 2
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        house, said = build(Path(folder), args.dry_run, args.wheels)
        if said:
            print(f"gpu_suite: the wheels could not be installed: {said}", file=sys.stderr)
        result = suite(house, out, args.minutes, start, steps)
    print(f"{len(result['failures'])} did not pass; {time.monotonic() - start:.0f} s; {out / 'gpu_suite.json'}")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
