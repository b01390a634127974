"""vqmm bench"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from vqmm.cli.output import Json, print_json, print_table
from vqmm.utils.errors import unknown

SECONDS, QUICK_SECONDS = 75.0, 12.0


def bench(
    name: Annotated[str | None, typer.Argument(help="A kernel or a shape; --explain lists the shapes.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Which path runs for each shape; times nothing.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write quantizer.json into this folder.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Some twenty seconds.")] = False,
    as_json: Json = False,
) -> None:
    """Measure the quantizer against its references on this machine, every result checked first."""
    import torch

    from vqmm.measure import KERNELS, NAMED, NO_GPU, choose, paths, wrong_rows
    from vqmm.measure import bench as run

    if name is not None and name not in KERNELS and name not in NAMED:
        raise unknown("kernel or shape", name, [*KERNELS, *NAMED])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        typer.echo(NO_GPU, err=True)
    work = choose(name, device, quick)
    if explain:
        listed = paths(dict.fromkeys(NAMED.values() if name is None else (shape for shape, _ in work)), device)
        _print_paths(listed, device.type, as_json)
        return
    with _bar(len(work)) as (tell, keep):
        result = run(work, device=device, seconds=QUICK_SECONDS if quick else SECONDS, tell=tell, keep=keep)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "quantizer.json").write_text(json.dumps(result, indent=2) + "\n")
    if as_json:
        print_json(result)
    else:
        _print_result(result)
    if wrong := wrong_rows(result):
        raise RuntimeError(f"a kernel's result is wrong, so it has no figure: {'; '.join(wrong)}")


def _print_paths(listed: list[dict[str, Any]], device: str, as_json: bool) -> None:
    if as_json:
        print_json({"device": device, "paths": listed})
        return
    columns = "name", "n", "k", "d", "q", "precision", "runs"
    head = "shape", "N", "K", "D", "Q", "precision", f"what runs ({device})"
    print_table(head, ([_count(row[column]) for column in columns] for row in listed))


def _print_result(result: dict[str, Any]) -> None:
    from vqmm.measure.table import HEAD, notes, table

    print_table(HEAD, table(result["rows"]))
    for said in notes(result["rows"]):
        print(said)
    print(
        f"\n{result['gpu'] if result['device'] == 'cuda' else result['cpu']}; torch {result['torch']}; {result['date']}"
    )
    print(f"time: {result['setup']['time']}; memory: {result['setup']['memory']}")


def _count(value: object) -> object:
    return f"{value:,}" if isinstance(value, int) else value


@contextmanager
def _bar(total: int) -> Iterator[tuple[Callable[[str], None], Callable[[dict[str, Any]], None]]]:
    """A bar on standard error: (say what is measured, count one more done)."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.completed}/{task.total}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda said: progress.update(task, description=said), lambda result: progress.advance(task)
