"""`vqmm generate`: samples from a prior, as files and as a page to look at."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from vqmm.generation.generator import Generator
from vqmm.generation.prompts import LABEL, Given, Value, sample_of
from vqmm.generation.sampling import Draw
from vqmm.pages.generated import Shown, grid_of, render
from vqmm.registry import Registry
from vqmm.utils.errors import UserError
from vqmm.utils.files import must_be_free, new_folder, write_text

SHOWN = 64  # samples on the page; all of them are files


def generate(
    run: str | Path,
    want: str,
    out: str | Path,
    *,
    given: Given | None = None,
    count: int = 16,
    draw: Draw | None = None,
    seed: int = 0,
    complete: Value | None = None,
    keep: float = 0.5,
    plugins: Sequence[str] = (),
) -> dict[str, Any]:
    """Make samples of a modality and write them: each as a file, pictures as one grid as well, and `index.html`, a page
    that shows what was given above what came and needs no network.

    Args:
        run: the folder of a prior's run.
        want: the modality.
        given: what to go by, by modality: a sample (C, *extent), a path, or for texts the text (`@FILE` for a file's);
            for "label" the name of a class.
        count: how many samples, all of the same condition.
        draw: how codes are drawn: temperature, top_k, top_p, guidance; None: as the prior says (`vqmm.Draw()`).
        seed: the same one gives the same samples.
        complete: a sample to go on with, told as in `given`: the first share `keep` of its codes stays, in the order of
            rows.

    Returns:
        `out`, `files`, `grid` (null where the modality shows no picture), `page`; what was asked for; `codes`: how many
        were drawn, and `codes_per_second`.

    Raises:
        UserError: a mistake in any of these. Nothing is written then.
    """
    out, given, draw = Path(out), dict(given or {}), draw or Draw()
    if count < 1:
        raise UserError(f"count {count}: how many samples, 1 or more")
    if want in given:
        raise UserError(f"{want!r} is wanted and given: to go on with a part of it, name it with complete, not given")
    must_be_free(out, "the output folder")
    generator = Generator.load(run, Registry.discover(plugins))
    known = None if complete is None else generator.known(want, complete, keep)
    start = time.perf_counter()
    codes = generator.codes(want, count, given=given, known=known, draw=draw, seed=seed)
    seconds = time.perf_counter() - start
    samples = [generator.decode(want, maps, given.get(LABEL), seed, i) for i, maps in enumerate(codes)]
    modality = generator.tokenizers[want].modality
    summary = {
        "run": str(run),
        "want": want,
        "given": {name: _said(value) for name, value in given.items()},
        "complete": None if complete is None else _said(complete),
        "keep": None if complete is None else keep,
        "count": count,
        "draw": asdict(draw),
        "seed": seed,
    }
    drawn = sum(code_map.numel() for maps in codes for code_map in maps)
    drawn -= 0 if known is None else count * int((known > 0).sum())
    summary |= {"codes": drawn, "codes_per_second": drawn / max(seconds, 1e-9)}
    with new_folder(out) as folder:
        files = [modality.write(sample, folder / f"{i:0{len(str(count - 1))}}") for i, sample in enumerate(samples)]
        picture = grid_of(modality, samples[:SHOWN])
        if picture is not None:
            picture.save(folder / "grid.png")
        sources = {} if complete is None else {want: complete}
        page = render(summary, _shown(generator, {**given, **sources}), (modality, samples[:SHOWN]))
        write_text(folder / "index.html", page)
    return {
        "out": str(out),
        **summary,
        "files": [str(out / file.name) for file in files],
        "grid": None if picture is None else str(out / "grid.png"),
        "page": str(out / "index.html"),
    }


def _shown(generator: Generator, given: Mapping[str, Value]) -> dict[str, Shown | str]:
    """What was given, for the page: a label as its name, anything else as its modality shows it."""
    shown: dict[str, Shown | str] = {}
    for name, value in given.items():
        if name == LABEL:
            shown[name] = str(value)
            continue
        modality = generator.tokenizers[name].modality
        shown[name] = (modality, modality.collate([sample_of(modality, value)], [name]).targets)
    return shown


def _said(value: Value) -> str:
    """What was given, in words."""
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else str(value)
