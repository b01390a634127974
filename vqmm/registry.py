"""Finds plugins, and answers "which modality is called image?"."""

import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload
from zlib import crc32

import pluggy

import vqmm
from vqmm import hookspecs
from vqmm.utils.errors import UserError, explained, one_of, unknown
from vqmm.utils.requirements import must_load

if TYPE_CHECKING:
    from vqmm.contracts.adversary import Adversary
    from vqmm.contracts.decoder import Decoder
    from vqmm.contracts.modality import Modality
    from vqmm.contracts.options import PartOptions
    from vqmm.contracts.prior import Prior
    from vqmm.contracts.quantizer import Quantizer

    Part: TypeAlias = Modality | Quantizer | Decoder | Adversary | Prior

RecipeCheck = Callable[[Path], object]
Config = Mapping[str, Any]  # a part of a recipe

KINDS = {  # kind of thing -> the hook that offers it
    "modality": "register_modalities",
    "quantizer": "register_quantizers",
    "decoder": "register_decoders",
    "adversary": "register_adversaries",
    "prior": "register_priors",
    "recipe": "register_recipes",
}


class Registry:
    """A set of plugins and what they offer. Starts empty: a test that builds its own meets nothing else.

    Args:
        check_recipe: raises a `UserError` for a file that is no recipe (`vqmm.recipe.read_named_recipe`); None: it is
            read when it is asked for.
    """

    def __init__(self, check_recipe: RecipeCheck | None = None) -> None:
        self._check_recipe = check_recipe
        self.offers: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}  # kind -> name -> class, or recipe file
        self.plugins: dict[str, list[tuple[str, str]]] = {}  # plugin -> the (kind, name) pairs it offers
        self.failed: dict[str, str] = {}  # plugin -> why it did not load

    @classmethod
    def discover(cls, extra: Iterable[str] = (), check_recipe: RecipeCheck | None = None) -> "Registry":
        """Every installed plugin, those of `VQMM_PLUGINS`, and `extra` (files or module names).

        A plugin that fails is recorded in `failed` and hides nobody; one that was asked for by name in `extra` and
        fails is a `UserError`.
        """
        registry = cls(check_recipe)
        entries = importlib.metadata.entry_points(group="vqmm")
        # Our own come first, so that a stranger's plugin can neither take their names nor push them out.
        for entry in sorted(entries, key=lambda entry: (not entry.value.startswith("vqmm."), entry.name)):
            taken = entry.name in registry.plugins or entry.name in registry.failed
            registry._try(f"{entry.name} ({entry.value})" if taken else entry.name, entry.load)
        wanted = filter(None, os.environ.get("VQMM_PLUGINS", "").split(os.pathsep))
        extra = list(extra)
        for name in dict.fromkeys([*wanted, *extra]):  # asked for twice is loaded once
            registry._try(name, partial(import_plugin, name))
            if name in extra and name in registry.failed:
                raise UserError(f"the plugin {name!r} did not load: {registry.failed[name]}")
        return registry

    def _try(self, name: str, load: Callable[[], ModuleType]) -> None:
        try:
            self.add(load(), name)
        except (Exception, SystemExit) as error:  # whatever a stranger's module raises while it is imported
            said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self.failed[name] = " ".join(said.split())

    def add(self, plugin: object, name: str) -> None:
        """Register one plugin (a module or any object with hook implementations); all of it or nothing.

        Raises:
            UserError: the name of the plugin is taken; a hook is misspelt, not marked or has another signature; it
                offers nothing; something it offers lacks what its kind needs, or has a name that is taken.
        """
        if name in self.plugins:
            raise UserError(f"a plugin called {name!r} is already registered: load it once")
        offered: list[tuple[str, str, Any]] = []
        hooks = _hooks_of(plugin, name)
        for kind, hook in KINDS.items():
            where = f"plugin {name!r}, hook {hook!r}"
            getattr(hooks, hook)(register=partial(self._offer, where, kind, name, offered))
        if not offered:
            raise UserError(
                f"plugin {name!r} offers nothing: implement one of {', '.join(sorted(_signatures().values()))}"
            )
        for kind, label, thing in offered:
            self.offers[kind][label] = thing
        self.plugins[name] = [(kind, label) for kind, label, _ in offered]

    def _offer(self, where: str, kind: str, plugin: str, offered: list[tuple[str, str, Any]], thing: Any) -> None:
        label = _recipe_name(where, thing, self._check_recipe) if kind == "recipe" else _class_name(where, kind, thing)
        owners = {pair: owner for owner, pairs in self.plugins.items() for pair in pairs}
        owners |= {(k, n): plugin for k, n, _ in offered}
        if (kind, label) in owners:
            raise UserError(f"{where}: the name {label!r} is taken by plugin {owners[kind, label]!r}: choose another")
        offered.append((kind, label, thing))

    def find(self, kind: str, name: str) -> Any:
        """The class (or recipe file) of that kind and name; a `UserError` that lists the choices if there is none."""
        if name not in self.offers[kind]:
            said = str(unknown(kind, name, self.offers[kind]))
            if "Did you mean" not in said:
                said += " If a plugin of yours brings it, name that with --plugin."
            if self.failed:
                said += f" Did not load: {'; '.join(f'{plugin!r}: {why}' for plugin, why in self.failed.items())}"
            raise UserError(said)
        return self.offers[kind][name]

    @overload
    def part(self, kind: Literal["modality"], config: Config) -> "tuple[type[Modality], Modality.Options]": ...
    @overload
    def part(self, kind: Literal["quantizer"], config: Config) -> "tuple[type[Quantizer], Quantizer.Options]": ...
    @overload
    def part(self, kind: Literal["decoder"], config: Config) -> "tuple[type[Decoder], Decoder.Options]": ...
    @overload
    def part(self, kind: Literal["adversary"], config: Config) -> "tuple[type[Adversary], Adversary.Options]": ...
    @overload
    def part(self, kind: Literal["prior"], config: Config) -> "tuple[type[Prior], Prior.Options]": ...
    @overload
    def part(self, kind: str, config: Config) -> "tuple[type[Part], PartOptions]": ...

    def part(self, kind: str, config: Config) -> "tuple[type[Part], PartOptions]":
        """The class of a part and its checked options, from `{"name": ..., option: value, ...}`.

        Raises:
            UserError: there is no such part or option; a library that the part needs does not load. Whatever is made
                of parts comes through here first, so that nothing is read or trained before that is known.
        """
        part_class = self.find(kind, config["name"])
        must_load(part_class.needs, f"the {kind} {config['name']!r}")
        with explained(kind, part_class.Options.model_fields):
            options = part_class.Options(**{name: value for name, value in config.items() if name != "name"})
        return part_class, options.completed(self)

    def needs(self, plugin: str) -> dict[str, str]:
        """The libraries that the parts of a plugin need: what is imported, and what pip installs for it."""
        parts = [self.offers[kind][name] for kind, name in self.plugins[plugin] if kind != "recipe"]
        return {module: install for part in parts for module, install in part.needs.items()}

    def modality(self, name: str) -> "type[Modality]":
        """The modality's class; a `UserError` that lists the choices if no plugin offers that name."""
        return self.find("modality", name)

    def quantizer(self, name: str) -> "type[Quantizer]":
        """The quantizer's class; a `UserError` that lists the choices if no plugin offers that name."""
        return self.find("quantizer", name)

    def decoder(self, name: str) -> "type[Decoder]":
        """The decoder's class; a `UserError` that lists the choices if no plugin offers that name."""
        return self.find("decoder", name)

    def adversary(self, name: str) -> "type[Adversary]":
        """The adversary's class; a `UserError` that lists the choices if no plugin offers that name."""
        return self.find("adversary", name)

    def prior(self, name: str) -> "type[Prior]":
        """The prior's class; a `UserError` that lists the choices if no plugin offers that name."""
        return self.find("prior", name)

    def recipe(self, name: str) -> Path:
        """The recipe's YAML file; a `UserError` that lists the choices if no plugin offers that name."""
        return self.find("recipe", name)


def _signatures() -> dict[str, str]:
    """Every hook with its arguments, as it has to be written."""
    manager = pluggy.PluginManager("vqmm")
    manager.add_hookspecs(hookspecs)
    return {hook: f"{hook}({', '.join(caller.spec.argnames)})" for hook, caller in vars(manager.hook).items()}


def _hooks_of(plugin: object, name: str) -> pluggy.HookRelay:
    """What can be called on one plugin, once all its hooks are known to be written as they have to be."""
    manager, right = pluggy.PluginManager("vqmm"), _signatures()
    manager.add_hookspecs(hookspecs)
    marked = {hook for hook in dir(plugin) if manager.parse_hookimpl_opts(plugin, hook) is not None}
    for hook in sorted(marked - right.keys()):  # pluggy accepts a misspelt hook in silence
        raise UserError(f"plugin {name!r}, hook {hook!r}: vqmm has no such hook. {one_of(right.values(), hook)}")
    for hook in sorted(right.keys() & set(dir(plugin)) - marked):
        raise UserError(f"plugin {name!r}, hook {hook!r}: is not marked as a hook: put @vqmm.hookimpl above it")
    try:
        manager.register(plugin, name=name)
    except pluggy.PluginValidationError as error:
        wrong = [hook for hook in marked if repr(hook) in str(error)]
    else:  # pluggy lets a hook leave its argument out: then it could offer nothing
        calls = {hook: getattr(manager.hook, hook).get_hookimpls() for hook in marked}
        wrong = [hook for hook, impls in calls.items() if any(impl.argnames != ("register",) for impl in impls)]
    for hook in sorted(wrong):
        raise UserError(f"plugin {name!r}, hook {hook!r}: its arguments are not the right ones: write {right[hook]}")
    return manager.hook


def _class_name(where: str, kind: str, thing: Any) -> str:
    """The name under which a class is offered, once it is known to be one of that kind."""
    base = getattr(vqmm, kind.capitalize())
    label = getattr(thing, "name", None)
    if not isinstance(thing, type) or not issubclass(thing, base):
        raise UserError(f"{where}: {thing!r} is not a class made from vqmm.{base.__name__}: register the class itself")
    if not isinstance(label, str) or not label:
        raise UserError(f"{where}: {thing.__name__} has no name: give the class an attribute such as name = 'sensors'")
    needs = getattr(thing, "needs", None)
    if not isinstance(needs, Mapping):
        raise UserError(
            f"{where}: {thing.__name__}.needs is {needs!r}: name each library with what pip installs for it, "
            'as in {"soundfile": "soundfile"}'
        )
    if kind == "modality":
        _check_modality(where, thing)
    return label


def _check_modality(where: str, modality: Any) -> None:
    """A `UserError` for a modality that lacks what it must have, or has what would never be looked for there."""
    required = {vqmm.Modality: ("samples", "write"), vqmm.Strings: ("ids_of",), vqmm.ManyPerFile: ("file_of", "join")}
    for base, methods in required.items():
        absent = [m for m in methods if issubclass(modality, base) and getattr(modality, m) is getattr(base, m)]
        if base is vqmm.Modality and getattr(modality, "rank", None) not in (1, 2, 3):
            absent.append("rank (1, 2 or 3)")
        if absent:
            raise UserError(f"{where}: {modality.__name__} lacks {', '.join(absent)}: see vqmm.{base.__name__}")
    misplaced = [name for name in vars(vqmm.Evaluation) if not name.startswith("_") and hasattr(modality, name)]
    if misplaced:
        raise UserError(
            f"{where}: {modality.__name__}.{misplaced[0]} would not be used: put it into a class made from "
            "vqmm.Evaluation, and return one of those from the modality's method evaluation()"
        )


def _recipe_name(where: str, path: Any, check: RecipeCheck | None) -> str:
    try:
        if check is not None:
            check(Path(path))
        elif not Path(path).is_file():
            raise UserError(f"there is no file {path}")
    except (UserError, TypeError) as error:
        raise UserError(f"{where}: {error}") from None
    return Path(path).stem


def import_plugin(name: str) -> ModuleType:
    """A plugin by file (`sensors.py`, `plugins/sensors.py`) or by module (`package.sensors`)."""
    path = Path(name)
    if path.suffix != ".py":
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name == name and Path(f"{name}.py").is_file():
                raise UserError(f"there is no module {name}, but a file: write {name}.py") from None
            raise
    if not path.is_file():
        raise UserError(f"there is no file {name}: give the path of a Python file or the name of a module")
    # Two files of one name are two modules. Dataclasses and pickle look a class's module up in sys.modules.
    module_name = f"vqmm_plugin_{path.stem}_{crc32(os.fsencode(path.resolve())):08x}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None  # a .py suffix always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
