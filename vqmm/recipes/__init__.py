"""Named recipes: one YAML file each, none naming a modality."""

from pathlib import Path

from vqmm.hookspecs import hookimpl


@hookimpl
def register_recipes(register) -> None:  # type: ignore[no-untyped-def]
    """Offer each YAML file of this folder; its name without the suffix is the recipe's."""
    for path in sorted(Path(__file__).parent.glob("*.yaml")):
        register(path)
