"""Prior: a distribution over codes."""

from typing import Any, ClassVar

from pydantic import BaseModel
from torch import Tensor, nn

from vqmm.batch import Codes
from vqmm.options import PartOptions
from vqmm.vocabulary import Layout


class Prior(nn.Module):
    """Scores sequences of codes and samples new ones. A plugin registers the class.

    A prior for several maps is a list of priors, each given the maps before it as its condition.
    """

    name: ClassVar[str]

    class Options(PartOptions):
        pass

    def __init__(self, layout: Layout, options: BaseModel | None = None):
        super().__init__()
        self.layout = layout
        self.options: Any = self.Options() if options is None else options

    def loss(self, codes: Codes, condition: "Tensor | Codes | None" = None) -> Tensor:
        """The mean negative log-likelihood of a code, in nats; `condition`: labels int64 (B,), or other codes."""
        raise NotImplementedError(f"{type(self).__name__} needs a method loss(codes, condition)")

    def sample(
        self,
        layout: Layout,
        condition: "Tensor | Codes | None",
        seed: int,
        *,
        count: int = 1,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float = 1.0,
        given: Codes | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """New maps, each (count, stages, *grid). One generator per sample, seeded by (seed, its place), so that a
        sample does not depend on how many are drawn beside it.

        `given` with `keep` (bool, per map position) completes codes of which a part is known.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method sample(layout, condition, seed)")
