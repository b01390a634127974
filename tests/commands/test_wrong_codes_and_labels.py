"""Wrong codes, and wrong labels, get the same line wherever they come in: what is wrong, and what would be right."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import vqmm
from tests.lines import line_tokenizer, noise
from vqmm.compression import adaptive
from vqmm.contracts.batch import check_codes
from vqmm.contracts.vocabulary import Vocabulary
from vqmm.data.source import label_numbers
from vqmm.tokens.shards import Header, Row, ShardWriter, read_header, read_rows
from vqmm.tokens.token_set import TokenSet
from vqmm.utils.errors import UserError

PLUGINS = ["tests.lines"]
WRONG = np.array([[0, 1, 2], [0, 40, -1]])  # wrong in the second stage
SIZES = (32, 32)
HEADER = Header("f", "line", (SIZES,))


def shard(folder, codes):
    writer = ShardWriter(folder, HEADER)
    with writer:
        writer.add(Row("a", None, (36,), (codes,)))
    return folder


def damaged(folder):
    """A shard with the wrong codes in it, written by somebody else."""
    (file,) = shard(folder, np.zeros_like(WRONG)).glob("*.parquet")
    table = pq.read_table(file)
    codes = pa.array([[0, 1, 2, 0, 40, 1]], pa.list_(pa.uint8()))
    pq.write_table(table.set_column(table.column_names.index("map0"), "map0", codes), file)
    return folder


CODES = {
    "check_codes of an array": lambda folder: check_codes(WRONG, SIZES, "x"),
    "check_codes of a tensor": lambda folder: check_codes(torch.from_numpy(WRONG), SIZES, "x"),
    "compression": lambda folder: adaptive.pack([WRONG], [SIZES]),
    "a vocabulary": lambda folder: (
        Vocabulary().add("line", [SIZES], longest=4)["line"].join([torch.from_numpy(WRONG)[None]])
    ),
    "a shard to be written": lambda folder: shard(folder, WRONG),
    "a shard to be read": lambda folder: [*read_rows(*read_header(damaged(folder)))],
    "a token set": lambda folder: TokenSet(damaged(folder))[0],
    "a stream": lambda folder: vqmm.StreamingDecoder(line_tokenizer(stages=2)).push(torch.from_numpy(WRONG)),
}


@pytest.mark.parametrize("place", CODES)
def test_codes_that_the_codebook_does_not_have(place, tmp_path):
    with pytest.raises(
        UserError, match=r": codes from (-1|0) to 40 in stage 1, where the codebook has 0 to 31$"
    ) as error:
        CODES[place](tmp_path)
    assert "\n" not in str(error.value)
    if place in ("a shard to be read", "a token set"):
        assert "part-00000.parquet" in str(error.value), "the file is named"


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A tokenizer whose decoder is conditioned on labels, saved, and a sound."""
    folder = tmp_path_factory.mktemp("told")
    line_tokenizer(labels=("bass", "drum")).save(folder / "run")
    (folder / "sounds").mkdir()
    np.save(folder / "sounds" / "a.npy", noise(70).numpy())
    vqmm.encode(folder / "run", folder / "sounds", folder / "tokens", plugins=PLUGINS)
    return folder


def compress(folder, out, label):
    vqmm.compress(folder / "run", folder / "sounds" / "a.npy", out / "a.vqmm", label=label, plugins=PLUGINS)


def decode(folder, out, label):
    """Of tokens that have that label."""
    tokens = out / "tokens"
    tokens.mkdir()
    for file in (folder / "tokens").iterdir():
        (tokens / file.name).write_bytes(file.read_bytes())
    for file in tokens.glob("*.parquet"):
        table = pq.read_table(file)
        pq.write_table(table.set_column(1, "label", pa.array([label] * len(table), pa.string())), file)
    vqmm.decode(folder / "run", tokens, out / "decoded", plugins=PLUGINS)


LABELS = {
    "a stream": lambda folder, out, label: vqmm.StreamingDecoder(line_tokenizer(labels=("bass", "drum")), label),
    "compress": compress,
    "decode": decode,
}


@pytest.mark.parametrize("place", LABELS)
@pytest.mark.parametrize(
    ("label", "said"),
    [
        (None, "no label is given, and the decoder needs one. There is: bass, drum."),
        ("drums", "no label is called 'drums'. There is: bass, drum. Did you mean 'drum'?"),
    ],
)
def test_a_missing_or_unknown_label(place, label, said, told, tmp_path):
    with pytest.raises(UserError) as error:
        LABELS[place](told, tmp_path, label)
    assert str(error.value).endswith(f": {said}") and "\n" not in str(error.value)
    assert not (tmp_path / "decoded").exists() and not (tmp_path / "a.vqmm").exists(), "nothing is written"


def test_samples_and_files_are_named(told):
    samples = [vqmm.Sample("a.npy", lambda: noise(3), "bass"), vqmm.Sample("b.npy", lambda: noise(3), "drums")]
    with pytest.raises(UserError, match=r"^b.npy: no label is called 'drums'\. There is: bass, drum\. Did"):
        label_numbers(samples, ["bass", "drum"])
    with pytest.raises(UserError, match=r"^these samples: no label is given, and the decoder needs one"):
        vqmm.reconstruct(told / "run", told / "sounds", told / "out", plugins=PLUGINS)
