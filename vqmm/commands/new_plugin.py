"""`vqmm new-plugin`: a first plugin to change into one's own."""

import keyword
import re
from importlib.util import find_spec
from pathlib import Path

from vqmm.registry import Registry
from vqmm.utils.errors import UserError
from vqmm.utils.files import must_be_free, write_text

TEMPLATES = Path(__file__).parent / "templates"


def new_plugin(name: str, out: str | Path = ".") -> dict[str, list[str]]:
    """Write `NAME.py`, a modality that works as it stands (multichannel readings from CSV files), and its test.

    Raises:
        UserError: the name is no Python name in lower case, or is taken by a module or a modality; a file of that name
            is there already.
    """
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(
            f"{name!r} cannot name a plugin: take lower-case letters, digits and underscores, such as sensors"
        )
    if name in Registry.discover().offers["modality"]:
        raise UserError(f"there is a modality {name!r} already: take another name")
    folder = Path(out)
    files = [folder / f"{name}.py", folder / f"test_{name}.py"]
    for file in files:
        must_be_free(file, "the file")
    if find_spec(name) is not None:
        raise UserError(f"there is a Python module {name!r} already, and {name}.py would hide it: take another name")
    folder.mkdir(parents=True, exist_ok=True)
    class_name = "".join(part.capitalize() for part in name.split("_"))
    for file, template in zip(files, ("modality.py.txt", "test_modality.py.txt"), strict=True):
        text = (TEMPLATES / template).read_text(encoding="utf-8")
        write_text(file, text.replace("{{name}}", name).replace("{{Class}}", class_name))
    return {"files": [str(file) for file in files]}
