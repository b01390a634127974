"""`vqmm new-plugin`: a first plugin to change into one's own."""

import keyword
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vqmm.registry import Registry
from vqmm.utils.errors import UserError, unknown
from vqmm.utils.files import must_be_free, write_text

TEMPLATES = Path(__file__).parent / "templates"


KINDS = {  # of part -> how the file that is written may be tried
    "modality": "vqmm train {name} --plugin {file} --data FOLDER --out runs/{name}",
    "quantizer": "vqmm train image --plugin {file} --set quantizer.name={name} --data builtin:digits --out runs/{name}",
    "decoder": "vqmm train image --plugin {file} --set decoder.name={name} --data builtin:digits --out runs/{name}",
    "prior": "vqmm prior RUN --plugin {file} --set prior.name={name} --tokens TOKENS --out runs/{name}",
}


def new_plugin(name: str, out: str | Path = ".", *, kind: str = "modality") -> dict[str, Any]:
    """Write `NAME.py`, a part that works as it stands, and its test, to be changed into one's own.

    Args:
        kind: "modality" (multichannel readings from CSV files), "quantizer" (a learnt codebook), "decoder" (absolute
            error) or "prior" (a GRU).

    Returns:
        `files`: the plugin and its test; `next`: a command that tries it.

    Raises:
        UserError: there is no such kind; the name is no Python name in lower case, or is taken by a module or a part of
            that kind; a file of that name is there already.
    """
    if kind not in KINDS:
        raise unknown("kind of part", kind, KINDS)
    if not re.fullmatch("[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UserError(
            f"{name!r} cannot name a plugin: take lower-case letters, digits and underscores, such as sensors"
        )
    if name in Registry.discover().offers[kind]:
        raise UserError(f"there is a {kind} {name!r} already: take another name")
    folder = Path(out)
    files = [folder / f"{name}.py", folder / f"test_{name}.py"]
    for file in files:
        must_be_free(file, "the file")
    if find_spec(name) is not None:
        raise UserError(f"there is a Python module {name!r} already, and {name}.py would hide it: take another name")
    folder.mkdir(parents=True, exist_ok=True)
    class_name = "".join(part.capitalize() for part in name.split("_"))
    for file, template in zip(files, (f"{kind}.py.txt", f"test_{kind}.py.txt"), strict=True):
        text = (TEMPLATES / template).read_text(encoding="utf-8")
        write_text(file, text.replace("{{name}}", name).replace("{{Class}}", class_name))
    return {"files": [str(file) for file in files], "next": KINDS[kind].format(name=name, file=files[0])}
