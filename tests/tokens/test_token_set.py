"""Rows of token shards by number: the right ones, in little memory, and damage named."""

import random
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vqmm.tokens import shards
from vqmm.tokens.shards import HELD_OUT, TRAIN, Header, Row, ShardWriter, read_header, read_rows
from vqmm.tokens.token_set import TokenSet
from vqmm.utils.errors import UserError


def rows_of_shapes(count):
    """Two maps, the second of two stages with codebooks of different sizes; grids that vary, some empty."""
    drawn = np.random.default_rng(0)
    for i in range(count):
        side = i % 4
        maps = (drawn.integers(0, 9, (1, side)), np.stack([drawn.integers(0, n, 2 * side) for n in (5, 300)]))
        yield Row(f"k{i}é", "ab"[i % 2] if i % 3 else None, (8 * side,), maps, None, HELD_OUT if i % 5 == 0 else TRAIN)


HEADER = Header("f", "sound", ((9,), (5, 300)), None, "every fifth")


def write(folder, rows, header=HEADER, a_shard=7):
    for number in range(0, max(len(rows), 1), a_shard):
        with ShardWriter(folder, header, number // a_shard) as writer:
            for row in rows[number : number + a_shard]:
                writer.add(row)
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS_A_GROUP", 3)
    return write(tmp_path, list(rows_of_shapes(40)))


def told(row):
    return (row.key, row.label, row.size, row.split, [(one.dtype.name, one.tolist()) for one in row.maps])


@pytest.mark.parametrize("cache_mb", [256, 0])
def test_rows_are_those_that_reading_through_gives(folder, cache_mb):
    tokens = TokenSet(folder, cache_mb=cache_mb)
    assert tokens.header == HEADER and len(tokens) == 40
    expected = [told(row) for row in read_rows(*read_header(folder))]
    assert [told(row) for row in tokens] == expected
    for number in random.Random(0).choices(range(40), k=100):
        assert told(tokens[number]) == expected[number]


def test_only_the_rows_of_a_split(folder):
    parts = {split: TokenSet(folder, split) for split in (TRAIN, HELD_OUT)}
    assert [row.key for row in parts[HELD_OUT]] == [f"k{i}é" for i in range(0, 40, 5)]
    assert len(parts[TRAIN]) == 32 and {row.split for row in parts[TRAIN]} == {TRAIN}
    assert parts[HELD_OUT].column("key") == [row.key for row in parts[HELD_OUT]]
    assert TokenSet(folder).column("label") == [row.label for row in TokenSet(folder)]


def test_what_is_kept_stays_within_the_room(folder):
    tokens = TokenSet(folder)
    tokens._room = 2 * tokens._read(0).size + 10
    tokens._kept.clear()
    list(tokens)
    assert 1 <= len(tokens._kept) <= 3 and tokens._room >= 0
    last = list(tokens._kept)
    tokens[0]
    assert 0 in tokens._kept and last[0] not in tokens._kept, "the one asked for longest ago goes"
    tokens._room = 2**20
    for number in (0, 10, 20, 0):  # of three groups
        tokens[number]
    assert [*tokens._kept][-1] == 0, "what was asked for again is not the oldest any more"


@pytest.mark.parametrize("number", [40, -1, 10**9])
def test_a_number_that_is_no_rows_is_refused(folder, number):
    with pytest.raises(IndexError, match=f"row {number} of 40"):
        TokenSet(folder)[number]


def test_a_split_that_is_not_told_or_is_none(folder, tmp_path):
    with pytest.raises(UserError, match=r"no split of tokens is called 'test'. There is: held-out, train"):
        TokenSet(folder, "test")
    (tmp_path / "old").mkdir()
    old = write(tmp_path / "old", list(rows_of_shapes(3)), replace(HEADER, split=None))
    assert [row.split for row in TokenSet(old)] == [None] * 3
    with pytest.raises(UserError, match="does not tell which of its rows are held out"):
        TokenSet(old, TRAIN)


def test_a_folder_of_no_rows(tmp_path):
    tokens = TokenSet(write(tmp_path, []), TRAIN)
    assert len(tokens) == 0 and list(tokens) == [] and tokens.column("key") == []


DAMAGE = {
    "a code beyond the first codebook": (
        [[0, 1, 2, 5, 299, 0, 0, 0]],
        "map 1 of 'a': codes from .* to .* in stage 0, where the codebook has 0 to 4",
    ),
    "codes that fill no grid": ([[0, 1, 2, 3, 4]], "reshape"),
    "fewer codes than the grid": ([[0, 1, 2]], "has no codes for its grid"),
    "too many stages": ([[0, 1, 2, 3] * 3], "map 1 of 'a': 3 stages of codes, where the tokenizer has 2"),
    "no codes": ([None], "has no codes for its grid"),
}


@pytest.mark.parametrize(("codes", "said"), DAMAGE.values(), ids=DAMAGE.keys())
def test_codes_that_cannot_be_are_refused_and_named(tmp_path, codes, said):
    row = Row("a", None, (8,), (np.zeros((1, 2), np.int64), np.zeros((2, 4), np.int64)), None, TRAIN)
    (file,) = write(tmp_path, [row]).glob("*.parquet")
    table = pq.read_table(file)
    bad = pa.array(codes, pa.list_(pa.uint16()))
    pq.write_table(table.set_column(table.column_names.index("map1"), "map1", bad), file)
    with pytest.raises(UserError, match=f"part-00000.parquet is no token shard.*{said}"):
        TokenSet(tmp_path)[0]


def test_a_file_that_was_cut_short_is_refused(folder):
    file = sorted(folder.glob("*.parquet"))[2]
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"part-00002\.parquet is no token shard"):
        TokenSet(folder)


def test_rows_that_are_kept_come_fast(tmp_path):
    """Small, so that a busy machine passes; 60,000 such rows were measured at 13 microseconds each."""
    maps = (np.arange(49).reshape(1, 7, 7),)
    write(tmp_path, [Row(str(i), "1", (28, 28), maps) for i in range(2000)], Header("f", "image", ((128,),)), 1000)
    tokens = TokenSet(tmp_path)
    order = random.Random(0).sample(range(2000), 2000)
    [tokens[number] for number in order]
    start = time.process_time()
    [tokens[number] for number in order]
    assert (time.process_time() - start) / 2000 < 50e-6
