"""Text: a line of codes for `.txt`, `.csv`, `.tsv` and `.jsonl` files, of characters, bytes or subwords."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

import vqmm
from vqmm.contracts.sample import Sample
from vqmm.plugins.text import files
from vqmm.plugins.text.front import ByteFront, FrontKind, load_front, make_front
from vqmm.utils.errors import UserError

EXAMPLE = "The quick brown fox jumps over the lazy dog. "


@vqmm.hookimpl
def register_modalities(register) -> None:  # type: ignore[no-untyped-def]
    """Offer the modality `text`."""
    register(Text)


class Text(vqmm.Strings, vqmm.ManyPerFile, vqmm.Modality):
    """Texts of any length and language. Samples are UTF-8 as read, uint8 (1, bytes); int64 ids (1, T) in a batch.

    A *front* (`vqmm.plugins.text.front`), learnt from the training texts, turns characters into ids and back without
    loss. With the quantizer `identity` the ids are the codes; with any other the networks quantize them, a code for
    `stride` ids.
    """

    name = "text"
    rank = 1
    channels = 1

    class Options(vqmm.Modality.Options):
        """How files are cut into texts, what an id stands for, and the kind and size of the networks."""

        # what is read, and how
        unit: files.Unit = Field("lines", description="what one sample of a plain file is")
        block: int = Field(1024, ge=1, description="characters of a block, where unit is blocks")
        longest: int = Field(4096, ge=1, description="characters; longer texts are cut there, and counted")
        tail: float = Field(0.0, ge=0, lt=1, description="the share of each file, at its end, that is the test split")
        text: str = Field("text", description="the column or field that holds the text")
        label: str = Field("label", description="the column or field that holds the label; empty: none")
        split: str = Field("split", description="the column or field that says train or test; empty: none")
        # the front
        front: Literal["characters", "bytes", "subwords"] = Field("characters", description="what an id stands for")
        vocabulary: int | None = Field(None, ge=1, description="how many ids; none: every character of the texts")
        method: Literal["unigram", "bpe"] = Field("unigram", description="how subwords are learnt")
        # networks
        length: int = Field(256, ge=1, description="characters of a training view; shorter texts are taken whole")
        network: Literal["convolution", "lstm"] = Field("convolution", description="what the blocks are made of")
        stride: int | tuple[int, ...] = Field(2, description="ids that a code spans")
        width: int = Field(256, ge=8, description="channels where a position is a code; half of it where it is an id")
        blocks: int = Field(4, ge=0, description="layers at the codes, in each network; half as many at the ids")
        word_dropout: float = Field(0.0, ge=0, lt=1, description="the share of ids hidden from the encoder in training")

    options: Options

    def __init__(self, options: Options | None = None):
        super().__init__(options)
        o = self.options
        if o.front == "subwords" and o.vocabulary is None:
            raise UserError("modality.vocabulary: subwords need the size of their vocabulary, such as 2048")
        self._front = TextFront(o)
        self.reading = files.TextReading(o.text, o.label, o.split, o.unit, o.block, o.longest, o.tail)

    def check_strides(self) -> None:
        """Any stride will do."""
        if self.strides[0] < 1:
            raise UserError(f"modality.stride: {self.strides[0]} ids: a code must span at least 1")

    @property
    def ids(self) -> int:  # type: ignore[override]
        """How many there are, the pad among them."""
        return self._front.learnt.size

    # From disk and back

    def samples(self, path: Path) -> Iterator[Sample]:
        """Every text of a file or folder: uint8 (1, bytes) of UTF-8, as `text_samples` says.

        Raises:
            UserError: there is none; a table or a JSON file that cannot be read, or lacks the text's column or field.
        """
        return files.text_samples(path, replace(self.reading, insist=not self.trained))

    def write(self, sample: Tensor, path: Path) -> Path:
        """A UTF-8 file."""
        return files.write_text_file(self.text_of(sample), path)

    def file_of(self, key: str) -> str:
        """The file that a sample was read from: `poems.txt` for `poems.txt:00012`."""
        return files.file_of(key)

    def join(self, samples: Sequence[Tensor]) -> Tensor:
        """Lines and paragraphs get their breaks again, blocks have none."""
        return self.ids_of(files.joined(list(map(self.text_of, samples)), self.reading))

    def text_of(self, sample: Tensor) -> str:
        """The text of ids (1, T)."""
        return self._front.learnt.decode(sample.reshape(-1).tolist())

    def ids_of(self, text: str) -> Tensor:
        """int64 ids (1, T) of a text."""
        return torch.tensor(self._front.learnt.encode(text), dtype=torch.int64)[None]

    # From samples to a batch

    def crop(self, sample: Tensor, generator: torch.Generator | None) -> Tensor:
        """The ids of a random stretch of `length` characters; for evaluation of the whole."""
        text = files.decode_bytes(sample)
        if generator is not None:
            spare = max(len(text) - self.options.length, 0)
            start = int(torch.randint(spare + 1, (), generator=generator))
            text = text[start : start + self.options.length]
        return self.ids_of(text)

    def collate(
        self, samples: Sequence[Tensor], keys: Sequence[str], labels: Sequence[int] | None = None
    ) -> vqmm.Batch:
        """Ids are taken as they are, UTF-8 becomes ids."""
        ids = [self.ids_of(files.decode_bytes(s)) if s.dtype == torch.uint8 else s for s in samples]
        return super().collate(ids, keys, labels)

    # Networks

    def build_encoder(self, dim: int) -> nn.Module:
        """x int64 (B, 1, T) -> z (B, dim, T / stride), for the front as it is now."""
        from vqmm.plugins.text.networks import TextEncoder

        o, pad = self.options, self._front.learnt.pad
        return TextEncoder(
            self.ids, dim, self.strides[0], o.width, o.blocks, o.network, o.attention, dropout=o.word_dropout, pad=pad
        )

    def build_decoder(self, dim: int) -> nn.Module:
        """vectors (B, dim, N) -> logits (B, ids, N * stride), for the front as it is now."""
        from vqmm.plugins.text.networks import TextDecoder

        o = self.options
        return TextDecoder(self.ids, dim, self.strides[0], o.width, o.blocks, o.network, o.attention)

    def target(self, x: Tensor) -> Tensor:
        """One-hot: (B, ids, T)."""
        return F.one_hot(x[:, 0], self.ids).transpose(1, 2).float()

    def reconstruction_loss(self, output: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
        """Cross-entropy in nats per id."""
        from vqmm.plugins.text.networks import ids_loss

        return ids_loss(output, target, mask)

    def postprocess(self, output: Tensor) -> Tensor:
        """Logits (B, ids, T) -> the likeliest ids (B, 1, T)."""
        return output.argmax(dim=1, keepdim=True)

    def example(self, batch: int) -> Tensor:
        """An English sentence, begun at another word for each sample."""
        extent = self.strides[0] * (2 + batch % 3)
        words = EXAMPLE.split(" ")[:-1] * (1 + extent)
        rows = [self.ids_of(" ".join(words[i : i + extent]))[:, :extent] for i in range(batch)]
        return torch.stack(rows) if rows else torch.zeros(0, 1, extent, dtype=torch.int64)

    # Objects of their own

    def evaluation(self) -> vqmm.Evaluation:
        """A `TextEvaluation`: metrics of characters and words, rates per character, differences marked."""
        from vqmm.plugins.text.evaluation import TextEvaluation

        return TextEvaluation(self.text_of, self.options.longest)

    def front(self) -> "TextFront":
        """What turns characters into ids and back; ids of bytes until it has learnt from texts or was loaded."""
        return self._front


class TextFront(vqmm.Front):
    """The front of a text modality: of a kind that the options name, once `fit` or `load` has made it.

    Attributes:
        learnt: what it has learnt; bytes until then.
    """

    def __init__(self, options: Text.Options):
        self._options = options
        self.learnt: FrontKind = ByteFront()

    def fit(self, samples: Iterator[Tensor]) -> None:
        """Learn from the training texts, each uint8 (1, bytes) of UTF-8. Bytes have nothing to learn.

        Raises:
            UserError: as `make_front`: too small a vocabulary, no text to learn from, or no sentencepiece for subwords.
        """
        o = self._options
        self.learnt = make_front(o.front, o.vocabulary, map(files.decode_bytes, samples), o.method)

    def save(self, folder: Path) -> None:
        """Write `front.json`, and for subwords `front.model`, into the folder."""
        self.learnt.save(folder)

    def load(self, folder: Path) -> None:
        """Read them back; a `UserError` where there is none, or a damaged one."""
        self.learnt = load_front(folder)

    def state_bytes(self) -> bytes:
        """The front as JSON: the same bytes mean the same ids for every text."""
        return self.learnt.state_bytes()
