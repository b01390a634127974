"""vqmm compress and vqmm decompress."""

import json
import shutil

import pytest
from PIL import Image

import vqmm
from tests.cli.runner import TINY_CODES
from vqmm.commands.decode import decode
from vqmm.commands.encode import encode
from vqmm.commands.train import train

RVQ = [
    "quantizer.codebook_size=16",
    "quantizer.stages=3",
    *(each for each in TINY_CODES[1::2] if "codebook" not in each),
]


@pytest.fixture(scope="module")
def residual(pictures, tmp_path_factory):
    """A tokenizer of three stages."""
    out = tmp_path_factory.mktemp("residual") / "run"
    train("image", pictures, out, "rvq", steps=2, settings=RVQ, quiet=True)
    return out


@pytest.fixture(scope="module")
def packed(run, pictures, tmp_path_factory):
    """A compressed picture, to read."""
    out = tmp_path_factory.mktemp("packed") / "00.vqmm"
    vqmm.compress(run, pictures / "00.png", out)
    return out


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("extent", [(1, 1), (7, 9), (61, 34)])
@pytest.mark.parametrize("stages", [(), ("--stages", 2)])
def test_a_picture_comes_back_as_encode_and_decode_give_it(vqmm, run, residual, tmp_path, extent, stages):
    run = residual if stages else run
    picture = tmp_path / "a b.png"
    Image.linear_gradient("L").resize(extent).save(picture)
    told = vqmm("compress", run, picture, *stages, "--json").json
    file = tmp_path / "a b.vqmm"
    assert told["file"] == str(file) and told["bytes"] == file.stat().st_size and told["bits"] == 8 * told["bytes"]
    assert told["bits_per_pixel"] == told["bits"] / (extent[0] * extent[1]) and told["size"] == [*extent[::-1]]
    cells = -(-extent[0] // 2) * -(-extent[1] // 2)
    assert told["nominal_bits"] == told["codes"] * (4 if stages else 5) and told["codes"] == cells * (
        2 if stages else 1
    )
    assert told["saved"] == pytest.approx(1 - told["bits"] / told["nominal_bits"])

    finished = vqmm("decompress", run, file)
    assert (finished.code, finished.out) == (0, f"{tmp_path / 'a b.decoded.png'}\n")
    encode(run, picture, tmp_path / "tokens", stages=stages[1] if stages else None)
    decode(run, tmp_path / "tokens", tmp_path / "out")
    assert (tmp_path / "a b.decoded.png").read_bytes() == (tmp_path / "out" / "a b.png").read_bytes()


def test_what_it_says(vqmm, run, pictures, tmp_path):
    (tmp_path / "flat.png").write_bytes((pictures / "00.png").read_bytes())
    finished = vqmm("compress", run, tmp_path / "flat.png")
    size = (tmp_path / "flat.vqmm").stat().st_size
    first, second = finished.out.splitlines()
    assert first == f"{tmp_path / 'flat.vqmm'}: {size:,} bytes, {8 * size / 64:.4g} bits per pixel"
    assert second == f"16 codes, nominally 10 bytes: {8 * size / 80 - 1:.1%} more, for the header"
    Image.new("L", (400, 300), 90).save(tmp_path / "flat.png")
    finished = vqmm("compress", run, tmp_path / "flat.png", "--overwrite")
    assert "30,000 codes, nominally 18,750 bytes: 99." in finished.out and finished.out.endswith("% saved\n")


def test_names_of_what_is_written(vqmm, run, packed, tmp_path):
    for out, name in (("x", "x.png"), ("y.png", "y.png"), ("deep/er/z.PNG", "deep/er/z.PNG")):
        told = vqmm("decompress", run, packed, "--out", tmp_path / out, "--json").json
        assert told == {"file": str(tmp_path / name), "size": [8, 8], "codes": 16}
    assert files(tmp_path) == ["deep", "deep/er", "deep/er/z.PNG", "x.png", "y.png"]
    line = vqmm.refuses("decompress", run, packed, "--out", tmp_path / "new" / "x.jpg")
    assert "image writes .png" in line and "x.png" in line
    assert not (tmp_path / "new").exists()


def test_nothing_is_written_over_unless_asked(vqmm, run, pictures, packed, tmp_path):
    out = tmp_path / "x.png"
    out.write_text("mine")
    for verb in ("compress", run, pictures / "00.png"), ("decompress", run, packed):
        for name in ("x.png", "x"):
            if verb[0] == "decompress" or name == "x.png":
                assert "x.png exists already" in vqmm.refuses(*verb, "--out", tmp_path / name)
        assert "is a folder" in vqmm.refuses(*verb, "--out", tmp_path)
        assert "is a file, not a folder" in vqmm.refuses(*verb, "--out", out / "y.png")
    assert files(tmp_path) == ["x.png"] and out.read_text() == "mine"
    assert vqmm("decompress", run, packed, "--out", out, "--overwrite").code == 0
    assert vqmm("compress", run, pictures / "00.png", "--out", tmp_path / "00.vqmm").code == 0
    assert vqmm("compress", run, pictures / "01.png", "--out", tmp_path / "00.vqmm", "--overwrite").code == 0
    assert files(tmp_path) == ["00.vqmm", "x.png"] and out.read_text(errors="replace") != "mine"


def test_files_that_cannot_be_decompressed(vqmm, run, pictures, packed, tmp_path):
    data = packed.read_bytes()
    bad = tmp_path / "bad.vqmm"
    for content, said in (
        (b"", "is no file of vqmm compress: it begins with nothing"),
        (data[:20], "bad.vqmm is cut short: 20 bytes"),
        (data[:-1], f"bad.vqmm was cut short or altered: its {len(data) - 1} bytes"),
        (data[:-1] + bytes([data[-1] ^ 1]), "bad.vqmm was cut short or altered"),
        (data[:4] + b"\x09" + data[5:], "bad.vqmm is of format 9"),
        ((pictures / "00.png").read_bytes(), "is no file of vqmm compress: it begins with 89 50 4e 47"),
    ):
        bad.write_bytes(content)
        assert said in vqmm.refuses("decompress", run, bad, "--out", tmp_path / "out")
    assert "there is no file" in vqmm.refuses("decompress", run, tmp_path / "no.vqmm")
    assert "there is no file" in vqmm.refuses("decompress", run, tmp_path)
    assert files(tmp_path) == ["bad.vqmm"]


def test_the_file_of_another_tokenizer(vqmm, run, residual, packed, tmp_path):
    line = vqmm.refuses("decompress", residual, packed, "--out", tmp_path / "out")
    for each in (run, residual):
        assert json.loads((each / "tokenizer" / "config.json").read_text())["code_fingerprint"] in line
    assert not files(tmp_path)


def test_inputs_that_cannot_be_compressed(vqmm, run, pictures, tmp_path):
    out = ("--out", tmp_path / "deep" / "x.vqmm")
    assert "there is nothing at" in vqmm.refuses("compress", run, tmp_path / "no.png", *out)
    assert "holds 24 samples" in vqmm.refuses("compress", run, pictures, *out)
    assert "holds no tokenizer" in vqmm.refuses("compress", tmp_path, pictures / "00.png", *out)
    assert "2 stages" in vqmm.refuses("compress", run, pictures / "00.png", "--stages", 2, *out)
    (tmp_path / "bad.png").write_text("no picture")
    assert "bad.png: not a PNG" in vqmm.refuses("compress", run, tmp_path / "bad.png", *out)
    assert files(tmp_path) == ["bad.png"]


def test_a_bottleneck_without_codes(vqmm, pictures, packed, tmp_path):
    settings = [each for each in TINY_CODES[1::2] if "codebook" not in each]
    train("image", pictures, tmp_path / "ae", "ae", steps=1, settings=settings, quiet=True)
    assert "has no codes" in vqmm.refuses("compress", tmp_path / "ae", pictures / "00.png")
    assert "has no codes" in vqmm.refuses("decompress", tmp_path / "ae", packed)


def test_a_decoder_that_is_told_labels(vqmm, pictures, tmp_path):
    for i, name in enumerate(["cat", "dog"] * 4):
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(pictures / f"{i:02}.png", tmp_path / "data" / name)
    run, picture, out = tmp_path / "run", pictures / "00.png", tmp_path / "x.vqmm"
    train("image", tmp_path / "data", run, steps=2, settings=[*TINY_CODES[1::2], "condition=label"], quiet=True)
    line = vqmm.refuses("compress", run, picture, "--out", out)
    assert "--label: no label is given, and the decoder needs one. There is: cat, dog." in line
    line = vqmm.refuses("compress", run, picture, "--out", out, "--label", "cats")
    assert "--label: no label is called 'cats'. There is: cat, dog. Did you mean 'cat'?" in line
    for label in ("cat", "dog"):
        assert vqmm("compress", run, picture, "--out", out, "--label", label, "--overwrite").code == 0
        assert vqmm("decompress", run, out, "--out", tmp_path / label).code == 0
    encode(run, tmp_path / "data", tmp_path / "tokens")
    decode(run, tmp_path / "tokens", tmp_path / "out")
    with Image.open(tmp_path / "out" / "cat" / "00.png") as expected, Image.open(tmp_path / "cat.png") as found:
        difference = max(abs(a - b) for a, b in zip(expected.tobytes(), found.tobytes(), strict=True))
    assert difference <= 1  # encoded in a batch of eight there, alone here
    assert (tmp_path / "cat.png").read_bytes() != (tmp_path / "dog.png").read_bytes()
