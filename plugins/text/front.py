"""Text as ids and back, without loss: bytes, characters, or subwords (sentencepiece).

Every front has the 256 bytes among its pieces: a text unlike any it has seen has ids too, and comes back exactly.
"""

import hashlib
import importlib
import io
import json
import re
import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from vqmm.utils.errors import Remark, UserError, unknown
from vqmm.utils.files import write_text

PAD = 0
BYTES = tuple(bytes([value]) for value in range(256))
REPLACEMENT = "\ufffd"  # what Unicode puts where bytes are no text
DESCRIPTION, MODEL = "front.json", "front.model"

# What sentencepiece does not carry, each with its stand-in: it writes a space as U+2581 and reads that back as a space;
# its trainer drops every item with U+2585 in silence, and skips U+0000. U+001A (SUBSTITUTE) leads the
# stand-ins, being the one character that texts do not use, and is itself doubled.
ESCAPE = "\x1a"
ESCAPES = {ESCAPE: ESCAPE + ESCAPE, "\0": ESCAPE + "0", "\u2581": ESCAPE + "1", "\u2585": ESCAPE + "5"}
ORIGINALS = {escaped: character for character, escaped in ESCAPES.items()}
TO_ESCAPE = re.compile(f"[{''.join(ESCAPES)}]")
ESCAPED = re.compile(f"{ESCAPE}[{ESCAPE}015]?")  # a network's guess may hold the first half alone

LONGEST_ITEM = 4192  # bytes; sentencepiece's trainer drops longer ones in silence
RESERVED = 2 + len(BYTES)  # pad and unknown, which sentencepiece wants, though bytes leave nothing unknown
TRAINING = {
    "normalization_rule_name": "identity",
    "add_dummy_prefix": False,
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,  # an indentation can be one piece
    "byte_fallback": True,
    "character_coverage": 1.0,
    "hard_vocab_limit": False,
    "pad_id": PAD,
    "unk_id": 1,
    "bos_id": -1,
    "eos_id": -1,
    "max_sentence_length": LONGEST_ITEM,
    "num_threads": 1,  # the model depends on it
    "minloglevel": 2,  # errors come back as exceptions; the rest would go to standard error
}


class FrontKind(ABC):
    """Text <-> ids in [0, size). `decode(encode(text)) == text` for every text that has UTF-8, the empty one too.

    Attributes:
        kind: the name under which `make_front` and `load_front` know it.
        pad: the id that stands for nothing. `encode` never gives it.
        pieces: for each id the UTF-8 that it adds to a text; part of a character where it is a single byte.
    """

    kind: ClassVar[str]
    pad: ClassVar[int] = PAD

    def __init__(self, pieces: Sequence[bytes]):
        self.pieces = tuple(pieces)

    @property
    def size(self) -> int:
        """How many ids there are, the pad among them."""
        return len(self.pieces)

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Raises:
            UserError: a lone surrogate, by its position: it is half a character and has no UTF-8.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """The text of any ids, a network's guess too: bytes that make no character become U+FFFD, pads are left out.

        Raises:
            UserError: an id outside [0, size).
        """
        if len(ids) and not (min(ids) >= 0 and max(ids) < self.size):
            wrong = next(id for id in ids if not 0 <= id < self.size)
            raise UserError(f"no piece of text has the id {int(wrong)}: this front has ids from 0 to {self.size - 1}")
        return b"".join(map(self.pieces.__getitem__, ids)).decode("utf-8", "replace")

    def save(self, folder: Path) -> None:
        """Write `front.json`, and what else `load` needs, into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / DESCRIPTION, self.state_bytes().decode() + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read it back.

        Raises:
            UserError: no front there, a damaged one, or one of another kind.
        """
        said = _read_description(folder)
        if said["kind"] != cls.kind:
            raise UserError(f"{folder / DESCRIPTION} describes a front of {said['kind']!r}, not of {cls.kind!r}")
        return cls._restored(said, folder)

    def state_bytes(self) -> bytes:
        """All that decides which ids a text gets, for fingerprints."""
        return json.dumps({"kind": self.kind, **self._described()}).encode()

    def _described(self) -> dict[str, Any]:
        """What `front.json` says beside the kind; of what lies in other files, a digest."""
        return {}

    @classmethod
    @abstractmethod
    def _restored(cls, said: dict[str, Any], folder: Path) -> Self:
        """A front from what `_described` gave."""


class ByteFront(FrontKind):
    """UTF-8 as it is: 256 ids and the pad, nothing to learn."""

    kind = "bytes"

    def __init__(self) -> None:
        super().__init__((b"", *BYTES))

    def encode(self, text: str) -> list[int]:
        """Each byte of the UTF-8, plus 1; a `UserError` for a lone surrogate."""
        return [value + 1 for value in utf8(text)]

    @classmethod
    def _restored(cls, said: dict[str, Any], folder: Path) -> Self:
        return cls()


class CharacterFront(FrontKind):
    """One id for each of some characters; the bytes of all others. Ids: the pad, 256 bytes, the characters.

    Args:
        characters: distinct ones, in the order of their ids.
    """

    kind = "characters"

    def __init__(self, characters: Sequence[str]):
        super().__init__((b"", *BYTES, *(utf8(character) for character in characters)))
        self.characters = tuple(characters)
        self._ids = {character: id for id, character in enumerate(characters, 1 + len(BYTES))}
        if len(self._ids) < len(characters) or any(len(character) != 1 for character in characters):
            raise UserError("the characters of a front are single ones, each given once")

    @classmethod
    def learn(cls, size: int | None, texts: Iterator[str]) -> "CharacterFront":
        """The most frequent characters of the texts, as many as `size` ids hold (None: all); ties by code point."""
        least = 2 + len(BYTES)
        if size is not None and size < least:
            raise UserError(f"a vocabulary of {size} holds no character: the pad and bytes take {least - 1}; take more")
        counts: Counter[str] = Counter()
        for text in _checked(texts):
            counts.update(text)
        if not counts:
            raise UserError("the training text is empty: there is no character to learn")
        ordered = sorted(counts, key=lambda character: (-counts[character], character))
        front = cls(ordered if size is None else ordered[: size - least + 1])
        _remark_size(front, size)
        return front

    def encode(self, text: str) -> list[int]:
        """One id for each known character, one for each byte of any other; a `UserError` for a lone surrogate."""
        utf8(text)  # surrogates are refused by their position
        ids = self._ids
        known_ids: list[int | None] = list(map(ids.get, text))
        if None not in known_ids:
            return known_ids  # type: ignore[return-value]
        out: list[int] = []
        for character, id in zip(text, known_ids, strict=True):
            if id is None:
                out.extend(value + 1 for value in character.encode())
            else:
                out.append(id)
        return out

    def _described(self) -> dict[str, Any]:
        return {"characters": self.characters}

    @classmethod
    def _restored(cls, said: dict[str, Any], folder: Path) -> Self:
        characters = said.get("characters")
        if not isinstance(characters, list):
            raise UserError(f"{folder / DESCRIPTION} is damaged: it has no list of characters")
        try:
            return cls(characters)
        except UserError as error:
            raise UserError(f"{folder / DESCRIPTION} is damaged: {error}") from None


class SubwordFront(FrontKind):
    """Frequent parts of words by sentencepiece, and bytes. Ids: the pad, one never given, 256 bytes, the subwords.

    Args:
        model: the bytes of a model that `learn` trained.
    """

    kind = "subwords"

    def __init__(self, model: bytes):
        self._model = model
        self._processor: Any = _sentencepiece().SentencePieceProcessor(model_proto=model)
        subwords = map(self._processor.id_to_piece, range(RESERVED, self._processor.vocab_size()))
        super().__init__((b"", utf8(REPLACEMENT), *BYTES, *(utf8(piece.replace("\u2581", " ")) for piece in subwords)))

    @classmethod
    def learn(
        cls, size: int | None, texts: Iterator[str], method: Literal["unigram", "bpe"] = "unigram"
    ) -> "SubwordFront":
        """Train on the texts, which are held in memory; the same texts give the same model, byte for byte.

        Raises:
            UserError: no size; one that does not hold every character of the texts; texts with nothing but line ends.
        """
        if size is None:
            raise UserError("subwords need the size of their vocabulary, such as 2048")
        items = [item for text in _checked(texts) for item in cut(escape(text), LONGEST_ITEM)]
        if not any(item.strip("\r\n") for item in items):  # sentencepiece takes line ends from the ends of items
            raise UserError("the training text is empty, or has nothing but line ends: there is no subword to learn")
        model = io.BytesIO()
        trainer = _sentencepiece().SentencePieceTrainer
        try:
            trainer.train(
                sentence_iterator=iter(items), model_writer=model, model_type=method, vocab_size=size, **TRAINING
            )
        except (RuntimeError, OSError, ValueError) as error:  # its own check of a text or of an option
            least = RESERVED + len(set().union(*(item.strip("\r\n").replace(" ", "\u2581") for item in items)))
            if size < least:
                raise UserError(
                    f"a vocabulary of {size} subwords does not hold the pad, the bytes and each of the text's "
                    f"{least - RESERVED} characters: take at least {least}"
                ) from None
            raise UserError(
                f"sentencepiece cannot learn {size} subwords from this text: {' '.join(str(error).split())}"
            ) from None
        front = cls(model.getvalue())
        _remark_size(front, size)
        return front

    def encode(self, text: str) -> list[int]:
        """sentencepiece's ids, those of bytes where no subword fits; a `UserError` for a lone surrogate."""
        utf8(text)  # surrogates are refused by their position
        return list(self._processor.encode(escape(text)))

    def decode(self, ids: Sequence[int]) -> str:
        """As `FrontKind.decode`, with escapes undone: one that a network left unfinished becomes U+FFFD."""
        text = super().decode(ids)
        return unescape(text.replace("\u2581", " "))  # the bytes of a space, where the training text had none

    def save(self, folder: Path) -> None:
        """Write `front.model`, sentencepiece's own format, and `front.json`, with its SHA-256."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MODEL).write_bytes(self._model)
        super().save(folder)

    def _described(self) -> dict[str, Any]:
        return {"size": self.size, "sha256": hashlib.sha256(self._model).hexdigest()}

    @classmethod
    def _restored(cls, said: dict[str, Any], folder: Path) -> Self:
        try:
            model = (folder / MODEL).read_bytes()
        except OSError as error:
            raise UserError(f"{folder / MODEL}, the model of the subwords, cannot be read: {error.strerror}") from None
        if hashlib.sha256(model).hexdigest() != said.get("sha256"):  # half a model may load, and cut texts otherwise
            raise UserError(f"{folder / MODEL} is damaged, or not the model that {DESCRIPTION} beside it describes")
        return cls(model)


FRONTS: dict[str, type[FrontKind]] = {front.kind: front for front in (ByteFront, CharacterFront, SubwordFront)}


def make_front(
    kind: str, size: int | None, texts: Iterator[str], method: Literal["unigram", "bpe"] = "unigram"
) -> FrontKind:
    """A front learnt from the training texts.

    Args:
        kind: "bytes", "characters" or "subwords".
        size: how many ids, the pad and the 256 bytes among them, and for subwords one id more that is never given. A
            text that supports fewer gets fewer, with a `Remark`. None: as many as there are characters, for characters
            only. Bytes have 257, whatever it says, and read no text.
        method: how subwords are learnt.

    Raises:
        UserError: no such kind; a size that is too small; an empty training text; one with a lone surrogate.
    """
    if kind == ByteFront.kind:
        return ByteFront()
    if kind == CharacterFront.kind:
        return CharacterFront.learn(size, texts)
    if kind == SubwordFront.kind:
        return SubwordFront.learn(size, texts, method)
    raise unknown("front", kind, FRONTS)


def load_front(folder: Path) -> FrontKind:
    """The front that was saved into a folder, of any kind; a `UserError` where there is none, or a damaged one."""
    return FRONTS[_read_description(folder)["kind"]].load(folder)


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}, which says how text becomes ids, cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path} is damaged: {' '.join(str(error).split())}") from None
    if not isinstance(said, dict) or not isinstance(said.get("kind"), str):
        raise UserError(f"{path} is damaged: it names no kind of front")
    if said["kind"] not in FRONTS:
        raise unknown("front", said["kind"], FRONTS)
    return said


# Text


def utf8(text: str) -> bytes:
    """UTF-8 of a text; a `UserError` that names the position of a lone surrogate."""
    if not isinstance(text, str):
        raise UserError(f"text is a str, not {type(text).__name__} {text!r:.40}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"position {error.start} holds the lone surrogate U+{ord(text[error.start]):04X}, half a character, "
            "which has no UTF-8: replace it"
        ) from None


def escape(text: str) -> str:
    """A text as sentencepiece can carry it; `unescape` brings back every text."""
    return TO_ESCAPE.sub(lambda match: ESCAPES[match[0]], text)


def unescape(text: str) -> str:
    """What `escape` was given. An escape with no end, as a network may guess it, becomes U+FFFD."""
    return ESCAPED.sub(lambda match: ORIGINALS.get(match[0], REPLACEMENT), text)


def cut(text: str, longest: int) -> Iterator[str]:
    """A text in pieces of at most `longest` bytes of UTF-8 (4 or more), each of whole characters."""
    data = text.encode()
    start = 0
    while start < len(data):
        end = min(start + longest, len(data))
        while end < len(data) and data[end] & 0b1100_0000 == 0b1000_0000:  # a byte that goes on with a character
            end -= 1
        yield data[start:end].decode()
        start = end


def _checked(texts: Iterator[str]) -> Iterator[str]:
    """The texts; a `UserError` that names the first one that is none."""
    for number, text in enumerate(texts, 1):
        try:
            utf8(text)
        except UserError as error:
            raise UserError(f"training text {number}: {error}") from None
        yield text


def _remark_size(front: FrontKind, size: int | None) -> None:
    if size is not None and front.size < size:
        warnings.warn(
            f"the training text supports a vocabulary of {front.size} {front.kind}, not {size}: {front.size} are used",
            Remark,
            stacklevel=4,
        )


def _sentencepiece() -> Any:
    try:
        return importlib.import_module("sentencepiece")
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"subwords need sentencepiece, which did not load ({reason}): pip install sentencepiece"
        ) from None
