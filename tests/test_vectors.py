"""`vqmm encode --vectors`: the vectors that codes stand for, beside the codes."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import vqmm
from tests.cli.runner import TINY
from vqmm.tokens.shards import Header, Row, ShardWriter, codes_of, read_header, read_rows

SETTINGS = {
    "vqvae-ema": ("quantizer.codebook_size=16", "quantizer.project=3"),
    "rvq": ("quantizer.codebook_size=16",),
    "vqvae2": (),
}


@pytest.fixture(scope="module", params=SETTINGS)
def run(request, tmp_path_factory):
    """Pictures of two sizes, and a tokenizer trained on them."""
    home = tmp_path_factory.mktemp(request.param)
    random = np.random.default_rng(1)
    (home / "pictures").mkdir()
    for i in range(8):
        picture = random.integers(0, 256, (9, 8 + 3 * (i // 4)), dtype=np.uint8)
        Image.fromarray(picture).save(home / "pictures" / f"{i}.png")
    settings = [*TINY[1::2], *SETTINGS[request.param]]
    vqmm.train("image", home / "pictures", home / "run", request.param, steps=2, settings=settings, quiet=True)
    return home / "run"


@pytest.mark.parametrize("stages", [None, 1])
def test_vectors_are_what_the_codes_stand_for(run, tmp_path, stages):
    vqmm.encode(run, run.parent / "pictures", tmp_path / "tokens", vectors=True, stages=stages)
    header, files = read_header(tmp_path / "tokens")
    assert header.dim == 8
    tokenizer = vqmm.Tokenizer.load(run)
    rows = list(read_rows(header, files, vectors=True))
    assert len(rows) == 8
    for row in rows:
        codes = codes_of([row], {})
        assert codes.maps[0].shape[1] == (stages or tokenizer.quantizer.stages)
        assert row.vectors.dtype == np.float32 and row.vectors.shape == (*codes.maps[-1].shape[2:], 8)
        assert np.allclose(row.vectors, tokenizer.quantizer.lookup(codes)[0].movedim(0, -1), atol=1e-5)


def test_shards_with_vectors_are_decoded_as_those_without(run, tmp_path):
    outputs = []
    for name, vectors in (("with", True), ("without", False)):
        vqmm.encode(run, run.parent / "pictures", tmp_path / name, vectors=vectors)
        vqmm.decode(run, tmp_path / name, tmp_path / f"{name}-out")
        outputs.append([file.read_bytes() for file in sorted((tmp_path / f"{name}-out").iterdir())])
    assert outputs[0] == outputs[1] and len(outputs[0]) == 8
    header, files = read_header(tmp_path / "without")
    assert header.dim is None and "vectors" not in pq.read_schema(files[0]).names
    assert all(row.vectors is None for row in read_rows(header, files, vectors=True))
    header, files = read_header(tmp_path / "with")
    assert all(row.vectors is None for row in read_rows(header, files))


def test_an_empty_grid_has_no_vectors(tmp_path):
    header = Header("f", "m", ((4,),), 3)
    with ShardWriter(tmp_path, header) as writer:
        writer.add(Row("a", None, (0,), (np.zeros((1, 0), dtype=np.int64),), np.zeros((0, 3), dtype=np.float32)))
    (row,) = read_rows(*read_header(tmp_path), vectors=True)
    assert row.vectors.shape == (0, 3)


@pytest.mark.parametrize("vectors", [None, np.zeros((1, 2), dtype=np.float32)])
def test_vectors_that_do_not_fit_the_header_are_refused(tmp_path, vectors):
    with (
        pytest.raises(ValueError, match=r"'a' has .* where the header says vectors of 3 numbers"),
        ShardWriter(tmp_path, Header("f", "m", ((4,),), 3)) as writer,
    ):
        writer.add(Row("a", None, (1,), (np.zeros((1, 1), dtype=np.int64),), vectors))
    assert not list(tmp_path.iterdir())


def test_from_the_command_line(run, tmp_path, capsys):
    from tests.cli.runner import Vqmm

    vqmm_ = Vqmm(capsys)
    told = vqmm_("encode", run, run.parent / "pictures", "--out", tmp_path / "tokens", "--vectors", "--json").json
    assert told["samples"] == 8
    assert read_header(tmp_path / "tokens")[0].dim == 8
