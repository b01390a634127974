"""vqmm plugins"""

import typer

from vqmm.cli.output import Json, Plugins, print_json, print_table


def plugins(plugin: Plugins = None, as_json: Json = False) -> None:
    """List the plugins, what each offers, and those that did not load."""
    from vqmm.registry import Registry

    registry = Registry.discover(plugin or ())
    if as_json:
        offers = {name: [f"{kind} {label}" for kind, label in pairs] for name, pairs in registry.plugins.items()}
        print_json({"plugins": offers, "failed": registry.failed})
        return
    rows = ((name, ", ".join(f"{kind} {label}" for kind, label in pairs)) for name, pairs in registry.plugins.items())
    print_table(("plugin", "offers"), rows)
    for name, why in registry.failed.items():
        typer.echo(f"the plugin {name!r} did not load: {why}", err=True)
