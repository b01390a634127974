"""vqmm plugins"""

from typing import TYPE_CHECKING

import typer

from vqmm.cli.output import Json, Plugins, print_json, print_table

if TYPE_CHECKING:
    from vqmm.utils.requirements import Library


def plugins(plugin: Plugins = None, as_json: Json = False) -> None:
    """List the plugins, what each offers, which libraries it needs, and what did not load."""
    from vqmm.recipe import read_named_recipe
    from vqmm.registry import Registry
    from vqmm.utils.requirements import libraries

    registry = Registry.discover(plugin or (), read_named_recipe)
    needed = {name: libraries(registry.needs(name)) for name in registry.plugins}
    if as_json:
        offers = {name: [f"{kind} {label}" for kind, label in pairs] for name, pairs in registry.plugins.items()}
        details = {name: [library.as_dict() for library in dependencies] for name, dependencies in needed.items()}
        print_json({"plugins": offers, "libraries": details, "failed": registry.failed})
        return
    rows = (
        (name, ", ".join(f"{kind} {label}" for kind, label in pairs), ", ".join(map(_said, needed[name])) or None)
        for name, pairs in registry.plugins.items()
    )
    print_table(("plugin", "offers", "libraries"), rows)
    for name, dependencies in needed.items():
        for library in dependencies:
            if library.problem is not None:
                typer.echo(f"the plugin {name!r} needs {library.problem}", err=True)
    for name, why in registry.failed.items():
        typer.echo(f"the plugin {name!r} did not load: {why}", err=True)


def _said(library: "Library") -> str:
    if library.problem is not None and library.problem.reason is None:
        return f"{library.name} (not installed)"
    return " ".join(filter(None, [library.name, library.version, "(does not load)" if library.problem else None]))
