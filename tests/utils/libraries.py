"""Libraries that are installed and do not load, in the place of real ones."""

from pathlib import Path

SYMBOL = "undefined symbol: torch_exception_get_what_without_backtrace"
SAID = (
    f"torchaudio, which did not load (/site/torchaudio/lib/_torchaudio.so: {SYMBOL}; torchaudio 2.11.1, torch 2.11.0): "
    "pip install torchaudio==2.11.0"
)


def put(folder: Path, package: str, version: str | None, code: str) -> None:
    """A library in the place of the real one; with a version as if pip had installed it."""
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text(code)
    if version is not None:
        put_version(folder, package, version)


def put_version(folder: Path, package: str, version: str) -> None:
    info = folder / f"{package}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")


def put_broken_sound(folder: Path) -> None:
    """torchaudio 2.11.1 beside torch 2.11.0: what `SAID` says."""
    put(folder, "torchaudio", "2.11.1", f"raise OSError('/site/torchaudio/lib/_torchaudio.so: {SYMBOL}')")
    put_version(folder, "torch", "2.11.0")
