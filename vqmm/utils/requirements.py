"""Libraries that not every installation has, or that fit some versions of torch only: do they load, and what mends it.

A part names what it needs: `needs = {"soundfile": "vqmm[audio]"}`, from what is imported to what pip installs.
"""

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from vqmm.utils.errors import UserError

# Versions that were tested together, the newest first: those of constraints/newest.txt and constraints/oldest.txt.
# torchaudio and Triton are built for one torch, and pip does not know it: torchaudio 2.11.1 asks for torch 2.11 or
# newer, and loads beside neither 2.11.0 nor 2.12.1.
TESTED: tuple[Mapping[str, str], ...] = (
    {"torch": "2.14.1", "torchaudio": "2.11.1", "triton": "3.8.0"},
    {"torch": "2.11.0", "torchaudio": "2.11.0", "triton": "3.6.0"},
)
PACKAGES = {"sklearn": "scikit-learn"}  # what is imported, where the package has another name
LONGEST = 300  # characters of a reason

_broken: dict[str, str] = {}  # library -> why it did not load


@dataclass(frozen=True)
class Problem:
    """Why a library cannot be used.

    Attributes:
        library: the name of its package.
        versions: of the package and of those that it must fit, as installed; empty where the library is not installed.
        reason: what was raised when it was imported, in one line; None where it is not installed.
        fix: the command that mends it.
    """

    library: str
    versions: Mapping[str, str]
    reason: str | None
    fix: str

    def __str__(self) -> str:
        """`torchaudio, which did not load (undefined symbol: x; torchaudio 2.11.1, torch 2.11.0): pip install ...`"""
        if self.reason is None:
            return f"{self.library}, which is not installed: {self.fix}"
        have = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{self.library}, which did not load ({'; '.join(filter(None, [self.reason, have]))}): {self.fix}"


@dataclass(frozen=True)
class Library:
    """A library that something needs: its package, the version (None: not installed), and what is wrong with it."""

    name: str
    version: str | None
    problem: Problem | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON: `reason`, `fix` and the `versions` that were found are null where it loads."""
        wrong = self.problem
        record = {"name": self.name, "version": self.version, "loads": wrong is None}
        if wrong is None:
            return {**record, "versions": None, "reason": None, "fix": None}
        return {**record, "versions": {**wrong.versions}, "reason": wrong.reason or "not installed", "fix": wrong.fix}


def problem(module: str, install: str | None = None) -> Problem | None:
    """Import a module; None where that went well.

    A library that broke while it was loading is not imported again in this process: a second attempt at a compiled one
    raises other errors, or ends the process. One that is absent is looked for again: somebody may have installed it.

    Args:
        module: `torchaudio`, or a part of a library, such as `torchaudio.functional`.
        install: what pip is told to install where it is absent; by default the package itself.
    """
    library = module.partition(".")[0]
    if library in _broken and sys.modules.get(library) is None:
        return _explained(library, install, _broken[library])
    try:
        importlib.invalidate_caches()
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        absent = error.name is None or error.name.partition(".")[0] == library
        return _explained(library, install, None if absent else str(error), incomplete=True)
    except Exception as error:  # OSError for a C library that is missing or built for another torch; or anything else
        kind = "" if isinstance(error, ImportError | OSError) and str(error) else f"{type(error).__name__}: "
        _broken[library] = " ".join(f"{kind}{error}".split())[-LONGEST:]  # the path of a library comes first
        return _explained(library, install, _broken[library])
    return None


def load(module: str, install: str | None, who: str) -> Any:
    """The module; a `UserError` that begins with `who` ("sound", say) where it does not load."""
    if sys.modules.get(module) is None:
        wrong = problem(module, install)
        if wrong is not None:
            raise UserError(f"{who} needs {wrong}")
    return importlib.import_module(module)


def must_load(needs: Mapping[str, str], who: str) -> None:
    """A `UserError` for the first of the libraries that does not load; it begins with `who`."""
    for module, install in needs.items():
        load(module, install, who)


def libraries(needs: Mapping[str, str]) -> list[Library]:
    """The state of each library that something needs."""
    states = []
    for module, install in needs.items():
        wrong, package = problem(module, install), package_of(module)
        version = None if wrong is not None and wrong.reason is None else installed(package)
        states.append(Library(package, version, wrong))
    return states


def installed(package: str) -> str | None:
    """The version of a package as its metadata say it, without importing it; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def package_of(module: str) -> str:
    """The package that a module comes with: `sklearn` is of scikit-learn."""
    library = module.partition(".")[0]
    if library in PACKAGES or installed(library) is not None:
        return PACKAGES.get(library, library)
    return metadata.packages_distributions().get(library, [library])[0]


def _explained(library: str, install: str | None, reason: str | None, incomplete: bool = False) -> Problem:
    """`incomplete`: the library or something that it needs is not there, so that pip knows what to fetch."""
    package = package_of(library)
    wanted = [_quoted(install or package)] if incomplete else []
    partners = ["torch"] if package in TESTED[0] else []
    versions = {name: version for name in [package, *partners] if (version := installed(name)) is not None}
    torch = _release(versions.get("torch"))
    right = {tested["torch"]: tested[package] for tested in TESTED if package in tested}.get(torch)
    if partners and right is None:  # nobody has tried this torch: the newest set instead
        pins = [f"{name}=={pin}" for name, pin in TESTED[0].items() if name in ("torch", package) or installed(name)]
        fix = f"pip install {' '.join([*wanted, *pins])}"
    elif right is not None and (incomplete or right != _release(versions.get(package))):
        fix = f"pip install {' '.join([*wanted, f'{package}=={right}'])}"
    elif incomplete:
        fix = f"pip install {wanted[0]}"
    else:
        version = f"=={versions[package]}" if package in versions else ""
        fix = f"pip install --force-reinstall --no-deps {package}{version}"
    return Problem(package, {} if reason is None else versions, reason, fix)


def _release(version: str | None) -> str:
    """Without the local part: 2.11.0 of 2.11.0+cpu."""
    return (version or "").partition("+")[0]


def _quoted(install: str) -> str:
    return f'"{install}"' if "[" in install else install
