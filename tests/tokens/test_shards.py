"""Codes on disk: what is written comes back, in integers as small as they can be."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vqmm.contracts.batch import Codes
from vqmm.tokens import shards
from vqmm.tokens.shards import Header, Row, ShardWriter, code_type, codes_of, read_header, read_keys, read_rows, rows_of
from vqmm.utils.errors import UserError

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


def groups_of(file):
    told = pq.read_metadata(file)
    return [told.row_group(group).num_rows for group in range(told.num_row_groups)]


def test_a_shard_is_written_in_groups_of_rows_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS_A_GROUP", 3)
    header, rows = header_and_rows(7)
    written(tmp_path, header, rows)
    found, files = read_header(tmp_path)
    assert [file.name for file in files] == ["part-00000.parquet"] and groups_of(files[0]) == [3, 3, 1]
    assert [row.key for row in read_rows(found, files)] == [str(i) for i in range(7)]


def test_large_rows_close_a_group_earlier(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "VALUES_A_GROUP", 8)
    assert groups_of(written(tmp_path, *header_and_rows(5, codes=4)).path) == [2, 2, 1]


def test_shards_are_in_the_order_of_their_numbers(tmp_path):
    header, rows = header_and_rows(3)
    for row, number in zip(rows, (100_000, 99_999, 3), strict=True):
        with ShardWriter(tmp_path, header, number) as writer:
            writer.add(row)
    _, files = read_header(tmp_path)
    assert [file.name for file in files] == ["part-00003.parquet", "part-99999.parquet", "part-100000.parquet"]


def test_a_shard_tells_what_it_holds(tmp_path):
    header, rows = header_and_rows(3)
    with ShardWriter(tmp_path, header) as writer:
        for row in rows:
            writer.add(row)
        writer.tally.unreadable.append("bad.png: cut")
    assert shards.read_tally(writer.path) == shards.Tally(3, 12, pytest.approx(12 * np.log2(10)), ["bad.png: cut"])
    pq.write_table(pq.read_table(writer.path).replace_schema_metadata({}), writer.path)
    with pytest.raises(UserError, match="no token shard"):
        shards.read_tally(writer.path)


def test_the_split_of_each_row_is_kept_and_is_not_needed(tmp_path):
    header, (row,) = header_and_rows(1)
    told = replace(header, split="by hand")
    for name, own in (("old", header), ("new", told)):
        (tmp_path / name).mkdir()
        written(tmp_path / name, own, [replace(row, split="held-out")])
    assert read_header(tmp_path / "new")[0] == told and read_header(tmp_path / "old")[0] == header
    (again,) = read_rows(*read_header(tmp_path / "new"))
    (old,) = read_rows(*read_header(tmp_path / "old"))
    assert (again.split, old.split) == ("held-out", None)
    assert "split" not in pq.read_schema(tmp_path / "old" / "part-00000.parquet").names


@pytest.mark.parametrize("field", ["key", "label", "size", "maps", "split"])
def test_a_shard_that_does_not_read_back_is_refused(tmp_path, monkeypatch, field):
    header, (row,) = header_and_rows(1)
    other = {"key": "x", "label": "x", "size": (5,), "maps": (row.maps[0] + 1,), "split": "train"}
    damaged = (
        replace(row, split="held-out", **{field: other[field]}) if field != "split" else replace(row, split="train")
    )
    monkeypatch.setattr(shards, "read_rows", lambda *_, **__: iter([damaged]))
    with pytest.raises(UserError, match="reads back otherwise"):
        written(tmp_path, replace(header, split="by hand"), [replace(row, split="held-out")])
    assert not any(tmp_path.iterdir())


def test_a_shard_that_fails_a_check_leaves_nothing(tmp_path):
    header, rows = header_and_rows(2)
    seen = []

    def check(row, again):
        seen.append((row.key, again.key, again.maps[0].tolist()))
        raise UserError("no")

    with pytest.raises(UserError, match="no"), ShardWriter(tmp_path, header, check=check) as writer:
        for row in rows:
            writer.add(row)
    assert seen == [("0", "0", [[0, 1, 2, 3]])] and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("plan", "said"), [('{"shards": 2}', "holds 1 of 2 shards"), ("[]", "damaged"), ("{", "damaged")]
)
def test_a_folder_that_lacks_shards_is_refused(tmp_path, plan, said):
    written(tmp_path, *header_and_rows(1))
    (tmp_path / shards.PLAN).write_text(plan)
    with pytest.raises(UserError, match=said):
        read_header(tmp_path)


def test_a_folder_without_rows_still_says_what_it_is(tmp_path):
    header, _ = header_and_rows(0)
    written(tmp_path, header, [])
    found, files = read_header(tmp_path)
    assert found == header and list(read_rows(found, files)) == []


@pytest.mark.parametrize("code", [-1, 10, 255, 256])
def test_a_code_outside_the_codebook_is_not_written(tmp_path, code):
    header, (row,) = header_and_rows(1)
    with (
        pytest.raises(ValueError, match="in stage 0, where the codebook has 0 to 9"),
        ShardWriter(tmp_path, header) as writer,
    ):
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
