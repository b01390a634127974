"""vqmm compress"""

from pathlib import Path
from typing import Annotated

import typer

from vqmm.cli.output import Json, Plugins, print_json

Model = Annotated[
    Path | None, typer.Option(metavar="RUN", help="A prior over this run's codes, as the model; for both ways.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write in place of a file that is there.")]


def compress(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    file: Annotated[str, typer.Argument(help="A file that holds one sample.")],
    out: Annotated[
        Path | None, typer.Option(help="The compressed file; else beside FILE, with the suffix .vqmm.")
    ] = None,
    stages: Annotated[
        int | None, typer.Option(help="Keep only the first so many codes of each position: a lower rate.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="The sample's class, for a decoder or a model that is conditioned on labels.")
    ] = None,
    model: Model = None,
    overwrite: Overwrite = False,
    plugin: Plugins = None,
    as_json: Json = False,
) -> None:
    """Turn one file into a small one: its codes, entropy-coded."""
    from vqmm.commands.compress import compress as run_compress

    result = run_compress(
        run, file, out, stages=stages, label=label, model=model, overwrite=overwrite, plugins=plugin or ()
    )
    if as_json:
        print_json(result)
        return
    unit, rate = next((name, value) for name, value in result.items() if name.startswith("bits_per_"))
    rate_text = "" if rate is None else f", {rate:.4g} {unit.replace('_', ' ')}"
    print(f"{result['file']}: {result['bytes']:,} bytes{rate_text}")
    nominal, saved = result["nominal_bits"] / 8, result["saved"]
    gain = "" if saved is None else f": {abs(saved):.1%} {'saved' if saved >= 0 else 'more, for the header'}"
    print(f"{result['codes']:,} codes, nominally {nominal:,.0f} bytes{gain}")
    if "model" in result:
        print(
            f"the model {result['model']} says {result['model_bits']:,.0f} bits, {result['code_bits']:,} were written; "
            f"margin {result['margin']:.1g}"
        )
