"""Codes as few bytes, and back; the content of a compressed file."""

import zlib
from math import log2

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fakes import TwoMaps
from vqmm.compression import adaptive as coding
from vqmm.compression.container import BODY, HEAD, MAGIC, pack, unpack
from vqmm.decoders.direct import DirectDecoder
from vqmm.plugins.image import Image
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.tokens.shards import Row
from vqmm.utils.errors import UserError

sizes = st.sampled_from([1, 2, 3, 5, 16, 255, 256, 257, 2**16 + 1, 2**20, 2**40])


@st.composite
def coded(draw):
    """The maps of one sample and the sizes of their codebooks; the tokenizer may have more stages than were used."""
    rank, maps, own = draw(st.integers(1, 3)), [], draw(st.lists(st.lists(sizes, min_size=1, max_size=3), max_size=3))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    for stages in own:
        grid = [draw(st.integers(0, 5)) for _ in range(rank)]
        used = stages[: draw(st.integers(1, len(stages)))]
        skew = draw(st.sampled_from([1, 9]))  # the higher, the more of the codes are low ones
        planes = [(random.random(grid) ** skew * size).astype(np.int64) for size in used]
        maps.append(np.stack(planes))
    return maps, own


@settings(deadline=None, max_examples=60)
@given(coded())
@example(([np.zeros((1, 0, 4), dtype=np.int64)], [[512]]))
@example(([np.zeros((1, 1, 1), dtype=np.int64)], [[1]]))
@example(([np.full((2, 1), 2**40 - 1)], [[2**40, 2**40]]))
def test_codes_come_back(case):
    maps, own = case
    method, data = coding.pack(maps, own)
    again = coding.unpack(method, data, [one.shape for one in maps], own)
    assert len(again) == len(maps) and all(map(np.array_equal, again, maps))
    # never more than equally likely codes would take, but for the coder's last bytes and probabilities of 16 bits
    assert 8 * len(data) <= coding.nominal_bits(maps, own) * 1.001 + 40


def test_random_codes_cost_what_they_are_nominally_worth():
    codes = np.random.default_rng(0).integers(0, 300, (1, 40, 30))
    method, data = coding.pack([codes], [[300]])
    assert method == coding.UNIFORM and 1200 * log2(300) <= 8 * len(data) <= 1200 * log2(300) * 1.01


def test_each_context_finds_the_structure_that_is_its_own():
    """Every saving is one that no other context can make: of a whole map drawn from two random ones."""
    random = np.random.default_rng(0)
    flat = random.integers(0, 16, (1, 48, 48))
    nominal = 48 * 48 * 4 / 8
    few = np.where(random.random((1, 48, 48)) < 0.9, flat // 8, flat)
    along = np.repeat(random.integers(0, 16, (1, 48, 1)), 48, axis=2)  # each equals the one before it in its row
    down = along.swapaxes(1, 2)
    stages = np.concatenate([flat, 15 - flat, flat])  # later stages follow from the first
    finer = flat.repeat(2, axis=1)
    for maps, own, share in (
        ([few], [[16]], 0.7),
        ([along], [[16]], 0.35),
        ([down], [[16]], 0.35),
        ([stages], [[16, 16, 16]], 1.2),
        ([flat, 15 - finer], [[16], [16]], 1.25),
    ):
        _, data = coding.pack(maps, own)
        assert len(data) < share * nominal, (len(data), nominal)


def test_probabilities_are_what_they_have_always_been():
    """A file written today must be readable on another machine and in years: its bytes are part of the format."""
    codes = (np.arange(240).reshape(1, 12, 20) ** 2 % 23 // 3).astype(np.int64)
    method, data = coding.pack([codes, codes[:, ::2]], [[8], [9]])
    assert (method, zlib.crc32(data)) == (coding.ADAPTIVE, 0x8477A8A8)
    squash, stretch, _, _ = coding._curves()
    assert len(squash) == len(stretch) - 1 == 4095 and squash[2047] == coding.ONE // 2
    assert squash[0] > 0 and squash == sorted(squash) and squash[-1] < coding.ONE and stretch == sorted(stretch)


@pytest.mark.parametrize("wrong", [-1, 8])
def test_codes_that_the_codebook_does_not_have(wrong):
    with pytest.raises(
        UserError,
        match=f"map 0: codes from {min(wrong, 0)} to {max(wrong, 0)} in stage 0, where the codebook has 0 to 7",
    ):
        coding.pack([np.array([[0, wrong]])], [[8]])


@pytest.fixture(scope="module")
def tokenizer():
    modality = Image(Image.Options(width=8, stride=2, size=8, blocks=0, channels=1))
    quantizer = TwoMaps(TwoMaps.Options(dim=4, codebook_size=16))
    return Tokenizer(modality, quantizer, DirectDecoder(modality, 4), labels=("cat", "Wal"), conditional=True)


def row_of(tokenizer, height=6, width=10, label="Wal"):
    random = np.random.default_rng(height)
    grids = (-(-height // 4), -(-width // 4)), (-(-height // 2), -(-width // 2))
    maps = [random.integers(0, k, (1, *grid)) for (k,), grid in zip(tokenizer.quantizer.sizes, grids, strict=True)]
    return Row("", label, (height, width), tuple(maps))


@pytest.mark.parametrize("extent", [(6, 10), (1, 1), (0, 7), (300, 200)])
@pytest.mark.parametrize("label", [None, "", "Wal", "猫"])
def test_a_row_comes_back_from_the_content_of_a_file(tokenizer, extent, label):
    row = row_of(tokenizer, *extent, label)
    again = unpack(tokenizer, pack(tokenizer, row), "x")
    assert (again.size, again.label) == (row.size, label)
    assert all(map(np.array_equal, again.maps, row.maps))


def test_the_header_is_small(tokenizer):
    assert len(pack(tokenizer, row_of(tokenizer, 0, 0, None))) == 33


def test_every_cut_and_every_altered_byte_is_refused(tokenizer):
    data = pack(tokenizer, row_of(tokenizer))
    for length in range(len(data)):
        with pytest.raises(UserError, match=r"x is no file of|x is cut short|x was cut short or altered"):
            unpack(tokenizer, data[:length], "x")
    for place in range(len(data)):
        with pytest.raises(UserError, match=r"x is no file of|x is of format|x was cut short or altered"):
            unpack(tokenizer, data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :], "x")
    with pytest.raises(UserError, match="altered"):
        unpack(tokenizer, data + b"\0", "x")


def signed(body):
    return HEAD.pack(MAGIC, 1, zlib.crc32(body)) + body


def test_a_header_without_sense_is_refused_whatever_its_checksum_says(tokenizer):
    body = pack(tokenizer, row_of(tokenizer))[HEAD.size :]
    fixed, rest = body[: BODY.size], body[BODY.size :]
    for made in (b"", b"\x02", b"\xff\xff\xff", b"\x02\x06\x0a\x03\xff\xff", b"\x02\x06\x0a\x00\x01\x01\x01\x01"):
        with pytest.raises(UserError, match="x is damaged"):
            unpack(tokenizer, signed(fixed + made), "x")
    with pytest.raises(UserError, match="another version"):  # other codes than were written
        unpack(tokenizer, signed(fixed + rest[:-1] + bytes([rest[-1] ^ 128])), "x")


def test_the_file_of_another_tokenizer_is_refused_with_both_names(tokenizer):
    data = pack(tokenizer, row_of(tokenizer))
    modality = tokenizer.modality
    torch.manual_seed(3)
    other = Tokenizer(modality, TwoMaps(TwoMaps.Options(dim=4, codebook_size=16)), DirectDecoder(modality, 4))
    with pytest.raises(UserError) as refused:
        unpack(other, data, "x")
    assert tokenizer.code_fingerprint() in str(refused.value) and other.code_fingerprint() in str(refused.value)
