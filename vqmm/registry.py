"""Finds plugins, and answers "which modality is called image?"."""

import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pluggy

from vqmm import hookspecs
from vqmm.errors import UserError, one_of, unknown

if TYPE_CHECKING:
    from vqmm.adversary import Adversary
    from vqmm.decoders.base import Decoder
    from vqmm.modality import Modality
    from vqmm.prior import Prior
    from vqmm.quantizers.base import Quantizer

KINDS = {  # kind of thing -> the hook that offers it
    "modality": "register_modalities",
    "quantizer": "register_quantizers",
    "decoder": "register_decoders",
    "adversary": "register_adversaries",
    "prior": "register_priors",
    "recipe": "register_recipes",
}


class Registry:
    """A set of plugins and what they offer. Starts empty: a test that builds its own meets nothing else."""

    def __init__(self) -> None:
        self.offers: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}  # kind -> name -> class, or recipe file
        self.plugins: dict[str, list[tuple[str, str]]] = {}  # plugin -> the (kind, name) pairs it offers
        self.failed: dict[str, str] = {}  # plugin -> why it did not load

    @classmethod
    def discover(cls, extra: Iterable[str] = ()) -> "Registry":
        """Every installed plugin, those of `VQMM_PLUGINS`, and `extra` (files or module names).

        An installed plugin that fails is recorded in `failed` and hides nobody; one that was asked for by name in
        `extra` and fails is a `UserError`.
        """
        found = cls()
        for entry in sorted(importlib.metadata.entry_points(group="vqmm"), key=lambda entry: entry.name):
            found._try(entry.name, entry.load)
        for name in filter(None, os.environ.get("VQMM_PLUGINS", "").split(os.pathsep)):
            found._try(name, partial(import_plugin, name))
        for name in extra:
            found._try(name, partial(import_plugin, name))
            if name in found.failed:
                raise UserError(f"the plugin {name!r} did not load: {found.failed[name]}")
        return found

    def _try(self, name: str, load: Callable[[], ModuleType]) -> None:
        try:
            self.add(load(), name)
        except Exception as error:  # whatever a stranger's module raises while it is imported
            said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self.failed[name] = " ".join(said.split())

    def add(self, plugin: object, name: str) -> None:
        """Register one plugin (a module or any object with hook implementations); all of it or nothing.

        Raises:
            UserError: the name of the plugin is taken; a hook is misspelt or has another signature; it offers nothing;
                something it offers has no name, or one that another plugin has taken.
        """
        if name in self.plugins:
            raise UserError(f"a plugin called {name!r} is already registered: load it once")
        offered = self._ask(plugin, name)
        for kind, label, thing in offered:
            self.offers[kind][label] = thing
        self.plugins[name] = [(kind, label) for kind, label, _ in offered]

    def _ask(self, plugin: object, name: str) -> list[tuple[str, str, Any]]:
        manager = pluggy.PluginManager("vqmm")
        manager.add_hookspecs(hookspecs)
        hooks = {hook: f"{hook}({', '.join(caller.spec.argnames)})" for hook, caller in vars(manager.hook).items()}
        try:
            manager.register(plugin, name=name)
            manager.check_pending()  # without it pluggy accepts a misspelt hook in silence
        except pluggy.PluginValidationError as error:
            wrong = next((hook for hook in dir(plugin) if hook.startswith("register_") and hook in str(error)), "")
            right = hooks.get(wrong) or one_of(hooks, wrong)
            raise UserError(f"plugin {name!r}, hook {wrong!r}: not a hook of vqmm as written. {right}") from None
        offered: list[tuple[str, str, Any]] = []
        for kind, hook in KINDS.items():
            getattr(manager.hook, hook)(register=partial(self._offer, name, kind, hook, offered))
        if not offered:
            raise UserError(f"plugin {name!r} offers nothing: implement one of {', '.join(sorted(hooks.values()))}")
        return offered

    def _offer(self, plugin: str, kind: str, hook: str, offered: list[tuple[str, str, Any]], thing: Any) -> None:
        where = f"plugin {plugin!r}, hook {hook!r}"
        if kind == "recipe":
            label = Path(thing).stem
        else:
            label = getattr(thing, "name", None)
            if not isinstance(thing, type) or not isinstance(label, str) or not label:
                raise UserError(f"{where}: {thing!r} is not a class with a `name`: register the class, not an object")
            absent = [each for each in ("rank", "samples", "write") if kind == "modality" and not hasattr(thing, each)]
            if absent:
                raise UserError(f"{where}: {thing.__name__} lacks {', '.join(absent)}: see vqmm.Modality")
        taken = {(k, n): p for p, pairs in self.plugins.items() for k, n in pairs}
        taken |= {(k, n): plugin for k, n, _ in offered}
        if (kind, label) in taken:
            raise UserError(f"{where}: the name {label!r} is taken by plugin {taken[kind, label]!r}: choose another")
        offered.append((kind, label, thing))

    def find(self, kind: str, name: str) -> Any:
        """The class (or recipe file) of that kind and name; a `UserError` that lists the choices if there is none."""
        if name not in self.offers[kind]:
            error = unknown(kind, name, self.offers[kind])
            broken = "; ".join(f"{plugin!r}: {why}" for plugin, why in self.failed.items())
            raise UserError(f"{error} Plugins that did not load: {broken}") if broken else error
        return self.offers[kind][name]

    def modality(self, name: str) -> "type[Modality]":
        return self.find("modality", name)

    def quantizer(self, name: str) -> "type[Quantizer]":
        return self.find("quantizer", name)

    def decoder(self, name: str) -> "type[Decoder]":
        return self.find("decoder", name)

    def adversary(self, name: str) -> "type[Adversary]":
        return self.find("adversary", name)

    def prior(self, name: str) -> "type[Prior]":
        return self.find("prior", name)

    def recipe(self, name: str) -> Path:
        return self.find("recipe", name)


def import_plugin(name: str) -> ModuleType:
    """A plugin by file (`sensors.py`, `plugins/sensors.py`) or by module (`package.sensors`)."""
    path = Path(name)
    if path.suffix != ".py":
        return importlib.import_module(name)
    if not path.is_file():
        raise UserError(f"there is no file {name}: give the path of a Python file or the name of a module")
    spec = importlib.util.spec_from_file_location(f"vqmm_plugin_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # a .py suffix always has a loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
