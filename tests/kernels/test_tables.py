"""The tables of tiles: what ships, what a wrong one is answered, and one that is written and read."""

import json

import pytest

from vqmm.kernels import tables
from vqmm.kernels.code_sums.tables import TABLES as SUMS
from vqmm.kernels.codebook_softmax.tables import KERNELS
from vqmm.kernels.codebook_softmax.tables import TABLES as SOFTMAX
from vqmm.kernels.nearest_code.tables import TABLES as SEARCH
from vqmm.kernels.nearest_code.tables import Config
from vqmm.kernels.residual_quantize.tables import TABLES as RESIDUAL
from vqmm.kernels.tables import ANY, PRECISIONS
from vqmm.kernels.update_codebook.tables import TABLES as UPDATE
from vqmm.kernels.vector_quantize.tables import TABLES as GRADIENT

EVERY = (SEARCH, RESIDUAL, SOFTMAX, SUMS, UPDATE, GRADIENT)
GPUS = ((8, 0), (8, 9), (9, 0), (10, 0), (12, 0))


def small(precision: str = "exact", dot: str = "split", **changed: object) -> Config:
    return Config(ANY, ANY, precision, 32, 32, 1024, 4, 2, dot, 16)._replace(**changed)


@pytest.mark.parametrize("each", EVERY, ids=lambda each: each.kernel)
def test_every_table_that_ships_can_be_run_and_limits_rise(each):
    """A row behind one with wider limits would never be taken."""
    for path in each.folder.glob("*.json"):
        assert each.read(path), path
    for capability in GPUS:
        limits = {}
        for row in each.rows(capability):
            key = tuple(getattr(row, name) for name in ("kernel", "precision") if hasattr(row, name))
            limit = (row.max_width, getattr(row, "max_k", ANY))
            assert limits.get(key, (0, 0)) < limit, row
            limits[key] = limit


def test_what_takes_any_width_has_a_row_for_it():
    for capability in GPUS:
        for each in (SUMS, GRADIENT):
            assert each.find(capability, max_width=ANY) is not None
        assert all(SEARCH.find(capability, max_width=ANY, max_k=ANY, precision=p) is not None for p in PRECISIONS)
        assert UPDATE.find(capability, max_width=8_192) is not None and UPDATE.find(capability, max_width=8_193) is None


def test_the_kernels_of_a_softmax_are_for_the_same_widths():
    for capability in GPUS:
        for precision, widest in (("exact", 64), ("fast", 128)):
            for width in (1, 16, 17, 64, 65, 128, 129):
                rows = [SOFTMAX.find(capability, kernel=k, max_width=width, precision=precision) for k in KERNELS]
                assert [row is not None for row in rows] == [width <= widest] * 4, (capability, precision, width)


def test_the_first_row_whose_limits_hold_is_taken():
    assert [SUMS.find((9, 0), max_width=width).max_width for width in (1, 8, 9, 200)] == [8, 8, 16, ANY]
    assert RESIDUAL.find((9, 0), max_width=257, precision="fast") is None


def test_a_table_can_be_written_and_read(tmp_path):
    rows = [small("exact", "fma", measured=True), small("fast", "torch"), small("certified", "high")]
    path = SEARCH.save((9, 0), rows, device="a GPU", versions={"triton": "3.6"}, date="2026-01-01", folder=tmp_path)
    assert SEARCH.read(path) == tuple(rows)
    head = json.loads(path.read_text())
    assert head["device"] == "a GPU" and head["date"] == "2026-01-01" and head["capability"] == [9, 0]
    with pytest.raises(ValueError, match="row 0: dot is 'tf32', which is not as good as float32"):
        SEARCH.save((9, 0), [small("exact", "tf32")], folder=tmp_path)
    assert SEARCH.read(path) == tuple(rows)


def test_a_row_that_is_not_for_this_triton_is_left_out(tmp_path, monkeypatch):
    wide = small("exact", "fma")
    path = SEARCH.save((9, 0), [wide._replace(block_n=128, below="3.8"), wide], folder=tmp_path)
    for version, first in (((3, 6), 128), ((3, 7), 128), ((3, 8), wide.block_n), ((3, 10), wide.block_n)):
        monkeypatch.setattr(tables, "triton_version", lambda version=version: version)
        assert SEARCH.read(path)[0].block_n == first


@pytest.mark.parametrize(
    "each, message, change",
    [
        (SEARCH, r"nearest_code, t.json, row 1: below is '3'; it is a Triton such as \"3.8\"", {"below": "3"}),
        (SEARCH, "row 1: block_n is 24; it is a power of two, 16 or more", {"block_n": 24}),
        (SEARCH, "row 1: small_k is 8; it is a power of two, 16 or more", {"small_k": 8}),
        (SEARCH, "row 1: warps is 6; it is a power of two, 1 to 32", {"warps": 6}),
        (SEARCH, "row 1: stages is 0; it is 1 or more", {"stages": 0}),
        (SEARCH, "row 1: max_k is 0; it is 1 or more, 2147483647 for no limit", {"max_k": 0}),
        (SEARCH, "row 1: precision is 'half'; it can be exact, fast, certified", {"precision": "half"}),
        (SEARCH, "row 1: dot is 'tf33'; it can be split", {"dot": "tf33"}),
        (SEARCH, "row 1: block_k is '64'; it is of type int", {"block_k": "64"}),
        (SEARCH, "row 1: 'blockn' is no column; the columns are max_width, max_k", {"blockn": 32}),
        (SEARCH, "row 1: 'warps' is missing; the columns are max_width, max_k", {"warps": None}),
        (RESIDUAL, "residual_quantize, t.json, row 1: dot is 'bf16'; it can be split, tf32x3", {"dot": "bf16"}),
        (RESIDUAL, "dot is 'tf32', which is not as good as float32; exact can have split", {"dot": "tf32"}),
        (SOFTMAX, "kernel is 'sideways'; it can be forward, usage, backward_x", {"kernel": "sideways"}),
        (SOFTMAX, "dot is 'tf32' for exact; it can be tf32x3 for exact, tf32 for fast", {"dot": "tf32"}),
        (SUMS, "code_sums, t.json, row 1: block_d is 12; it is a power of two, 1 or more", {"block_d": 12}),
    ],
)
def test_a_wrong_table_is_answered_in_one_line(each, message, change, tmp_path):
    rows = json.loads((each.folder / "default.json").read_text())["rows"][:2]
    rows[1] = {name: value for name, value in {**rows[1], **change}.items() if value is not None}
    (tmp_path / "t.json").write_text(json.dumps({"rows": rows}))
    with pytest.raises(ValueError, match=message) as caught:
        each.read(tmp_path / "t.json")
    assert "\n" not in str(caught.value)
