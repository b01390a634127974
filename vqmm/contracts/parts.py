"""What makes parts by name: the registry, as a contract sees it."""

from collections.abc import Mapping
from typing import Any, Protocol


class PartsByName(Protocol):
    """Finds the class of a part and checks its options. `vqmm.Registry` is one."""

    def part(self, kind: str, told: Mapping[str, Any]) -> tuple[Any, Any]:
        """The class of a part and its checked options, from `{"name": ..., option: value, ...}`.

        Args:
            kind: "modality", "quantizer", "decoder", "adversary" or "prior".

        Raises:
            UserError: there is no such part or option; a library that the part needs does not load.
        """
        ...
