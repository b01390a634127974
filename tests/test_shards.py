"""Codes on disk: what is written comes back, in integers as small as they can be."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqmm import shards
from vqmm.batch import Codes
from vqmm.errors import UserError
from vqmm.shards import Header, Row, ShardWriter, code_type, codes_of, read_header, read_keys, read_rows, rows_of

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
keys = st.lists(texts.filter(lambda t: t not in ("", ".", "..") and "/" not in t), min_size=1, max_size=3).map("/".join)
sizes = st.sampled_from([1, 2, 255, 256, 257, 65535, 65536, 65537, 2**31])


@st.composite
def headers(draw):
    maps = draw(st.lists(st.lists(sizes, min_size=1, max_size=3).map(tuple), min_size=1, max_size=3))
    return Header(draw(texts), draw(texts), tuple(maps))


@st.composite
def rows_for(draw, header):
    rank = draw(st.integers(1, 3))
    maps = []
    for own in header.sizes:
        grid = draw(st.lists(st.integers(0, 3), min_size=rank, max_size=rank))
        stages = len(own) if 0 in grid else draw(st.integers(1, len(own)))
        planes = [draw(st.lists(st.integers(0, n - 1), min_size=27, max_size=27)) for n in own[:stages]]
        cells = int(np.prod(grid))
        maps.append(np.array([plane[:cells] for plane in planes], dtype=np.int64).reshape(stages, *grid))
    size = tuple(draw(st.lists(st.integers(0, 2**31 - 1), min_size=rank, max_size=rank)))
    return Row(draw(keys), draw(st.none() | texts), size, tuple(maps))


def written(folder, header, rows):
    with ShardWriter(folder, header) as writer:
        for row in rows:
            writer.add(row)
    return writer


@settings(deadline=None, max_examples=40)
@given(data=st.data(), header=headers())
def test_rows_come_back_as_they_were(data, header):
    rows = data.draw(st.lists(rows_for(header), max_size=4))
    with tempfile.TemporaryDirectory() as folder:
        written(Path(folder), header, rows)
        again, files = read_header(Path(folder))
        assert again == header
        assert read_keys(files) == [row.key for row in rows]
        found = list(read_rows(again, files))
        schema = pq.read_schema(files[0])
    for m, own in enumerate(header.sizes):
        assert schema.field(f"map{m}").type.value_type.bit_width == next(
            8 * n for n in (1, 2, 4, 8) if max(own) <= 256**n
        )
    assert len(found) == len(rows)
    for row, same in zip(rows, found, strict=True):
        assert (same.key, same.label, same.size) == (row.key, row.label, row.size)
        assert all(map(np.array_equal, same.maps, row.maps)) and len(same.maps) == len(row.maps)


@pytest.mark.parametrize(
    ("codebook_size", "kind"),
    [(1, "u1"), (256, "u1"), (257, "u2"), (65536, "u2"), (65537, "u4"), (2**32, "u4"), (2**32 + 1, "u8")],
)
def test_codes_take_the_smallest_unsigned_integer_that_holds_them(codebook_size, kind):
    assert code_type(codebook_size) == np.dtype(kind)


def header_and_rows(count, codes=4):
    row = Row("", None, (codes,), (np.arange(codes, dtype=np.int64).reshape(1, codes) % 10,))
    return Header("f", "image", ((10,),)), [Row(str(i), row.label, row.size, row.maps) for i in range(count)]


def test_rows_are_spread_over_shards_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS_A_SHARD", 3)
    header, rows = header_and_rows(7)
    assert written(tmp_path, header, rows).shards == 3
    _, files = read_header(tmp_path)
    assert [file.name for file in files] == [f"part-0000{n}.parquet" for n in range(3)]
    assert [row.key for row in read_rows(header, files)] == [str(i) for i in range(7)]


def test_large_rows_close_a_shard_earlier(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "CODES_A_SHARD", 8)
    assert written(tmp_path, *header_and_rows(4, codes=4)).shards == 2


def test_a_folder_without_rows_still_says_what_it_is(tmp_path):
    header, _ = header_and_rows(0)
    written(tmp_path, header, [])
    found, files = read_header(tmp_path)
    assert found == header and list(read_rows(found, files)) == []


@pytest.mark.parametrize("code", [-1, 10, 255, 256])
def test_a_code_outside_the_codebook_is_not_written(tmp_path, code):
    header, (row,) = header_and_rows(1)
    with pytest.raises(ValueError, match="where the codebook has 10"), ShardWriter(tmp_path, header) as writer:
        writer.add(Row(row.key, row.label, row.size, (np.full((1, 4), code),)))
    assert not any(tmp_path.iterdir())


def test_shards_of_two_tokenizers_are_not_mixed(tmp_path):
    header, rows = header_and_rows(1)
    written(tmp_path, header, rows)
    (tmp_path / "part-00000.parquet").rename(tmp_path / "part-00001.parquet")
    written(tmp_path, Header("other", "image", ((10,),)), rows)
    with pytest.raises(UserError, match=r"of the tokenizer f, .* of other"):
        read_header(tmp_path)


def masked_codes():
    """Two maps, the fine one twice the coarse; the second sample is half as long, and its padding holds other codes."""
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    coarse, fine = torch.tensor([[[1, 2]], [[3, 9]]]), torch.tensor([[[1, 2, 3, 4]], [[5, 6, 9, 9]]])
    return Codes((coarse, fine), torch.tensor([[16], [7]]), mask, torch.tensor([0, 1]))


def test_padding_is_trimmed_on_every_map():
    long, short = rows_of(masked_codes(), ["long", "short"], ["a", "b"])
    assert [one.tolist() for one in long.maps] == [[[1, 2]], [[1, 2, 3, 4]]]
    assert [one.tolist() for one in short.maps] == [[[3]], [[5, 6]]]
    assert (short.key, short.label, short.size) == ("short", "b", (7,))


def test_rows_become_codes_again():
    for row in rows_of(masked_codes(), ["long", "short"], ["a", "b"]):
        codes = codes_of([row, row], {"a": 0, "b": 1})
        assert codes.mask is None and codes.size.tolist() == [list(row.size)] * 2
        assert codes.label.tolist() == [{"a": 0, "b": 1}[row.label]] * 2
        for again in rows_of(codes, ["x", "y"], [row.label] * 2):
            assert all(map(np.array_equal, again.maps, row.maps)) and again.size == row.size


def test_a_box_in_two_dimensions_is_trimmed_along_both():
    mask = torch.zeros(1, 3, 4, dtype=torch.bool)
    mask[0, :2, :3] = True
    maps = torch.arange(24).reshape(1, 2, 3, 4)
    (row,) = rows_of(Codes((maps,), torch.tensor([[8, 12]]), mask), ["k"], [None])
    assert np.array_equal(row.maps[0], maps[0, :, :2, :3])


def test_labels_are_numbers_only_if_all_are_known():
    rows = list(rows_of(masked_codes(), ["a", "b"], ["a", None]))[:1]
    assert codes_of(rows, {"a": 3}).label.tolist() == [3]
    assert codes_of(rows, {}).label is None
    assert codes_of([rows[0], Row("k", None, rows[0].size, rows[0].maps)], {"a": 3}).label is None
