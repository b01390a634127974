"""The HTML files of this folder as templates: whole pages that open offline."""

from importlib.resources import files
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from jinja2 import Template


def template(name: str, style: str = "") -> "Template":
    """A page that extends base.html, by its file's name. `style`: CSS of its own, after that of all pages."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    here = files("vqmm.pages")
    environment = Environment(
        loader=FunctionLoader(lambda file: (here / file).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["style"] = Markup((here / "style.css").read_text(encoding="utf-8") + style)
    return environment.get_template(name)
