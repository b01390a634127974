"""vqmm recipes"""

from vqmm.cli.output import Json, Plugins, print_json, print_table


def recipes(plugin: Plugins = None, as_json: Json = False) -> None:
    """List the named recipes. All of them serve every modality."""
    from vqmm.recipe import read_named_recipe
    from vqmm.registry import Registry

    registry = Registry.discover(plugin or (), read_named_recipe)
    about = {name: read_named_recipe(registry.recipe(name)).about for name in sorted(registry.offers["recipe"])}
    if as_json:
        print_json({"recipes": about})
    else:
        print_table(("recipe", "what it is"), about.items())
