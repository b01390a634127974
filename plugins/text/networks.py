"""Networks over ids: an embedding, blocks at every position, `stride` positions as one code, and back.

The decoder is parallel: it guesses all ids at once from the vectors. One that also saw the ids before would be strong
enough to do without the codes (Bowman et al. 2016, arXiv 1511.06349, section 3), and has to step through a text.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from vqmm.nn.layers import Attention, ChannelNorm, ResidualBlock, Stack, conv
from vqmm.nn.network import Layer, Network, Span
from vqmm.nn.receptive_field import receptive_field
from vqmm.nn.recurrent import recurrent

Kind = Literal["convolution", "lstm"]

KERNEL = 5  # of the blocks, in positions


class BidirectionalLSTM(Layer):
    """x + an LSTM in both directions (Hochreiter and Schmidhuber 1997): (B, width, T) in and out; skips padding."""

    takes_mask = True

    def __init__(self, width: int):
        super().__init__()
        self.norm = ChannelNorm(width)
        self.lstm = nn.LSTM(width, width // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, width, T), mask bool (B, T) -> the same shape; both directions stop at each sample's end."""
        line = self.norm(x).transpose(1, 2)
        if not line.numel():
            return x
        if mask is None:
            return x + recurrent(self.lstm, line)[0].transpose(1, 2)
        packed = pack_padded_sequence(line, mask.sum(dim=1).clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        read, _ = pad_packed_sequence(recurrent(self.lstm, packed)[0], batch_first=True, total_length=line.shape[1])
        return x + read.transpose(1, 2)

    def seen(self, outputs: Span, axis: int = 0) -> None:
        """None, for no limit: an output depends on the whole sample."""
        return None  # noqa: RET501 (a span: no limit)


def blocks(kind: Kind, width: int, count: int, attention: bool) -> list[nn.Module]:
    """`count` layers of a kind, self-attention after each where it is asked for."""
    layers: list[nn.Module] = []
    for _ in range(count):
        layers.append(BidirectionalLSTM(width) if kind == "lstm" else ResidualBlock(1, width, width, KERNEL))
        if attention:
            layers.append(Attention(width))
    return layers


class TextEncoder(Network):
    """x int64 (B, 1, T), ids in [0, ids) -> z (B, dim, T / stride).

    Args:
        width: channels where a position is a code; half of it where it is an id.
        count: layers at the codes; half as many at the ids.
        attention: self-attention after each layer at the codes, over all of them.
        dropout: the share of ids that are hidden in training (replaced by `pad`), so that codes lean on their
            surroundings: the word dropout of Bowman et al. 2016.
    """

    takes_mask = True

    def __init__(
        self,
        ids: int,
        dim: int,
        stride: int,
        width: int,
        count: int,
        kind: Kind = "convolution",
        attention: bool = False,
        dropout: float = 0.0,
        pad: int = 0,
    ):
        super().__init__()
        self.dropout, self.pad = dropout, pad
        fine = fine_width(width)
        self.embedding = nn.Embedding(ids, fine)
        head = [ChannelNorm(width), conv(1, width, dim, kernel=1)]
        self.layers = Stack(
            [
                *blocks(kind, fine, fine_count(count), False),
                nn.Conv1d(fine, width, stride, stride),  # each `stride` neighbours become one
                *blocks(kind, width, count, attention),
                *head,
            ]
        )
        self.receptive_field = receptive_field(self.layers, stride, 1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x int64 (B, 1, T), mask bool (B, T) -> z (B, dim, T / stride). In training it hides ids at random."""
        ids = x[:, 0]
        if self.training and self.dropout:
            ids = torch.where(torch.rand(ids.shape, device=ids.device) < self.dropout, self.pad, ids)
        return self.layers(self.embedding(ids).transpose(1, 2), mask)


class TextDecoder(Network):
    """vectors (B, dim, T) -> logits (B, ids, T * stride): the mirror of `TextEncoder`."""

    takes_mask = True

    def __init__(
        self,
        ids: int,
        dim: int,
        stride: int,
        width: int,
        count: int,
        kind: Kind = "convolution",
        attention: bool = False,
    ):
        super().__init__()
        fine = fine_width(width)
        head = [ChannelNorm(fine), conv(1, fine, ids, kernel=1)]
        self.layers = Stack(
            [
                conv(1, dim, width, kernel=1),
                *blocks(kind, width, count, attention),
                nn.ConvTranspose1d(width, fine, stride, stride),
                *blocks(kind, fine, fine_count(count), False),
                *head,
            ]
        )
        self.receptive_field = receptive_field(self.layers, 1, stride)

    def forward(self, vectors: Tensor, mask: Tensor | None = None) -> Tensor:
        """vectors (B, dim, N), mask bool (B, N) -> logits (B, ids, N * stride)."""
        return self.layers(vectors, mask)


def fine_width(width: int) -> int:
    """Channels where a position is an id: there are `stride` times as many of those, and less to know of each."""
    return max(width // 2, 8)


def fine_count(count: int) -> int:
    """Layers where a position is an id: half of those at the codes, rounded up."""
    return (count + 1) // 2


def ids_loss(logits: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
    """Cross-entropy in nats per id: logits and one-hot target (B, ids, T), mask bool (B, T); 0 where nothing counts."""
    each = F.cross_entropy(logits, target.argmax(dim=1), reduction="none")
    if mask is not None:
        return torch.where(mask, each, 0).sum() / mask.sum().clamp(min=1)
    return each.mean() if each.numel() else logits.sum()
