"""A prior without attention, and the sampling of one id after the other without a cache."""

import torch
from torch import Tensor, nn

import vqmm
from vqmm.contracts.vocabulary import NULL, PAD, Range, Vocabulary
from vqmm.generation.sampling import Draw


class Recurrent(vqmm.Prior):
    """A GRU over ids."""

    name = "recurrent"

    class Options(vqmm.Prior.Options):
        width: int = 12

    def __init__(self, vocabulary, context, options=None):
        super().__init__(vocabulary, context, options)
        self.ids = nn.Embedding(len(vocabulary), self.options.width)
        self.kinds = nn.Embedding(self.grammar.kinds, self.options.width)
        self.gru = nn.GRU(self.options.width, self.options.width, batch_first=True)
        self.head = nn.Linear(self.options.width, len(vocabulary), bias=False)

    def features(self, ids: Tensor, places: Tensor) -> Tensor:
        return self.gru(self.ids(ids) + self.kinds(self.grammar.kind[places]))[0]

    def start(self, batch: int, length: int) -> dict[str, Tensor]:
        return {"hidden": self.head.weight.new_zeros(1, batch, self.options.width)}

    def step(self, ids: Tensor, places: Tensor, state: dict[str, Tensor]) -> Tensor:
        features, state["hidden"] = self.gru(self.ids(ids) + self.kinds(self.grammar.kind[places]), state["hidden"])
        return features


def made(vocabulary: Vocabulary, seed: int = 0, sharp: float = 3.0) -> Recurrent:
    """An untrained one whose distributions are far from uniform."""
    torch.manual_seed(seed)
    prior = Recurrent(vocabulary, vocabulary.longest).eval()
    with torch.no_grad():
        for weight in prior.parameters():
            weight.normal_(std=sharp * weight.shape[-1] ** -0.5)
    return prior


@torch.no_grad()
def drawn_without_cache(
    prior: vqmm.Prior, own: Range, prompt: Tensor, known: Tensor, uniform: Tensor, draw: Draw
) -> Tensor:
    """What `sample` has to give: every id from the whole sequence before it, and the whole vocabulary."""
    block = [own.begin]
    for step in range(len(own.layout)):
        logits = prior.logits(torch.tensor([[*prompt.tolist(), *block]]))[:, -1]
        if draw.guidance != 1:
            gone = prior.logits(torch.tensor([[*[NULL] * len(prompt), *block]]))[:, -1]
            likely = logits.softmax(-1) >= 0.1 * logits.softmax(-1).max()
            legal = logits.isfinite() & (likely | (draw.guidance < 1))
            logits = torch.where(legal, gone + draw.guidance * (logits - gone), -torch.inf)
        one = int(draw.pick(logits, uniform[step : step + 1]))
        block.append(int(known[step]) if known[step] != PAD else one)
        if block[-1] == own.end:
            return torch.tensor(block)
    return torch.tensor([*block, own.end])
