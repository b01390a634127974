"""Text from the command line: trained, judged, encoded, decoded, compressed; and what mistakes are answered with."""

import gzip

import pytest

from tests.processes import Program

SMALL = (
    "modality.width=16",
    "modality.blocks=1",
    "quantizer.codebook_size=16",
    "quantizer.dim=8",
    "train.batch_size=4",
)
SET = [word for setting in SMALL for word in ("--set", setting)]
LINES = [f"{['a', 'b', 'c', 'd', 'e'][i % 5]} is line {i} of größer 大 text," for i in range(30)]


@pytest.fixture(scope="module")
def poems(tmp_path_factory):
    folder = tmp_path_factory.mktemp("poems")
    (folder / "one.txt").write_text("\n".join(LINES[:20]) + "\n", encoding="utf-8")
    (folder / "two.txt.gz").write_bytes(gzip.compress("\n".join(LINES[20:]).encode()))
    (folder / "latin.txt").write_bytes("größer".encode("latin-1"))
    return folder


@pytest.fixture(scope="module")
def small(poems, tmp_path_factory):
    from vqmm.commands.train import train

    out = tmp_path_factory.mktemp("runs") / "small"
    train("text", poems, out, steps=4, settings=SMALL, quiet=True)
    return out


@pytest.fixture(scope="module")
def lossless(poems, tmp_path_factory):
    from vqmm.commands.train import train

    out = tmp_path_factory.mktemp("runs") / "lossless"
    settings = ["modality.front=subwords", "modality.vocabulary=290"]
    train("text", poems, out, "identity", settings=settings, quiet=True)
    return out


def test_train_and_eval_state_rates_in_bits_per_character(vqmm, poems, small, tmp_path):
    done = vqmm("train", "text", "--data", poems, "--out", tmp_path / "run", "--steps", 10, *SET)
    assert done.code == 0 and "latin.txt: not UTF-8: byte 2 is 0xF6; save it as UTF-8" in done.err
    told = vqmm("eval", small, "--data", poems, "--json").json
    expected = {"char_accuracy", "token_accuracy", "line_accuracy", "bleu", "rouge_l", "entropy_bits_per_char"}
    assert expected <= told["metrics"].keys() <= told["rules"].keys()
    assert 2 <= told["metrics"]["bits_per_char"] < 2.2  # 4 bits for two characters; a last code may span one


def test_the_lossless_front_needs_no_training_and_gives_everything_back(vqmm, poems, lossless, tmp_path):
    told = vqmm("eval", lossless, "--data", poems, "--json").json
    assert told["metrics"]["line_accuracy"] == 1 and told["metrics"]["bits_per_char"] > 3
    assert vqmm("encode", lossless, poems, "--out", tmp_path / "tokens").code == 0
    assert vqmm("decode", lossless, tmp_path / "tokens", "--out", tmp_path / "back").code == 0
    assert sorted(file.name for file in (tmp_path / "back").iterdir()) == ["one.txt", "two.txt"]
    assert (tmp_path / "back" / "one.txt").read_text(encoding="utf-8") == "\n".join(LINES[:20]) + "\n"
    assert (tmp_path / "back" / "two.txt").read_text(encoding="utf-8") == "\n".join(LINES[20:]) + "\n"


def test_encoded_and_decoded_texts_have_their_length(vqmm, poems, small, tmp_path):
    told = vqmm("encode", small, poems / "one.txt", "--out", tmp_path / "tokens", "--json").json
    assert told["samples"] == 20 and told["codes"] == sum(-(-len(line) // 2) for line in LINES[:20])
    assert vqmm("decode", small, tmp_path / "tokens", "--out", tmp_path / "back").code == 0
    lines = (tmp_path / "back" / "one.txt").read_text(encoding="utf-8").split("\n")
    assert len(lines) == 21 and lines[-1] == ""


def test_compress_and_decompress_one_text(vqmm, lossless, tmp_path):
    (tmp_path / "line.txt").write_text("größer \u2581 大 🙂", encoding="utf-8")
    assert vqmm("compress", lossless, tmp_path / "line.txt", "--out", tmp_path / "line.vqmm").code == 0
    assert vqmm("decompress", lossless, tmp_path / "line.vqmm", "--out", tmp_path / "again").code == 0
    assert (tmp_path / "again.txt").read_text(encoding="utf-8") == "größer \u2581 大 🙂"


def test_compare_puts_modes_side_by_side(vqmm, poems, tmp_path):
    words = [
        "compare",
        "text",
        "--recipes",
        "vqvae-ema,identity",
        "--data",
        poems,
        "--out",
        tmp_path / "c",
        "--steps",
        2,
    ]
    rows = vqmm(*words, *SET[:4], "--set", "train.batch_size=4", "--json").json["rows"]
    assert [row["recipe"] for row in rows] == ["vqvae-ema", "identity"]
    assert rows[1]["char_accuracy"] == 1 and rows[1]["weights"] == 0


def remarks(*words) -> str:
    """What a process of its own says: here warnings are errors."""
    with Program(*words) as program:
        code, _, said = program.ended()
    assert code == 0, said
    return said


def test_a_vocabulary_that_the_text_does_not_support_is_said_and_used(poems, tmp_path):
    words = ["train", "text", "--data", poems, "--recipe", "identity", "--out", tmp_path / "run"]
    said = remarks(*words, "--set", "modality.front=subwords", "--set", "modality.vocabulary=9000")
    assert said.count("subwords, not 9000: ") == 1


def test_longer_texts_are_cut_and_counted(small, tmp_path):
    (tmp_path / "long.txt").write_text("x" * 5000 + "\nshort\n")
    said = remarks("encode", small, tmp_path / "long.txt", "--out", tmp_path / "tokens")
    assert said.count("1 of 2 texts are longer than 4096 characters (modality.longest): they are cut there") == 1


@pytest.mark.parametrize(
    ("name", "content", "settings", "said"),
    [
        ("a.txt", b"", (), "it is empty"),
        ("a.txt", b"abc\xff", (), "not UTF-8: byte 3 is 0xFF"),
        ("a.tsv", b"label\ttxet\npos\thello\n", (), "Did you mean 'txet'?"),
        ("a.tsv", b"label\ttext\npos\thello\n", ("modality.label=lable",), "Did you mean 'label'?"),
        ("a.pdf", b"%PDF", (), "is no text file: take a file .txt"),
    ],
)
def test_what_is_no_text_gets_one_line_and_leaves_nothing(vqmm, tmp_path, name, content, settings, said):
    (tmp_path / name).write_bytes(content)
    words = [word for setting in settings for word in ("--set", setting)]
    assert said in vqmm.refuses("train", "text", "--data", tmp_path / name, "--out", tmp_path / "run", *words)
    assert not (tmp_path / "run").exists()


def test_identity_is_for_ids_alone(vqmm, tmp_path, pictures):
    said = vqmm.refuses("train", "image", "--data", pictures, "--recipe", "identity", "--out", tmp_path / "run")
    assert "samples of 'image' are none" in said and not (tmp_path / "run").exists()


def test_texts_side_by_side_have_the_codes_of_each_alone(small, tmp_path, monkeypatch):
    """Lines of other lengths go through the networks together, padded; one at a time there is nothing to pad."""
    from vqmm.commands.encode import encode
    from vqmm.tokenizer.tokenizer import Tokenizer
    from vqmm.tokens.token_set import TokenSet

    (tmp_path / "lines.txt").write_text("".join("abc def ghij"[: 7 + i % 6] + "\n" for i in range(12)))
    seen, plain = [], Tokenizer.quantize

    def counted(self, batch, stages=None):
        seen.append(len(batch))
        return plain(self, batch, stages)

    monkeypatch.setattr(Tokenizer, "quantize", counted)
    encode(small, tmp_path / "lines.txt", tmp_path / "together")
    monkeypatch.setattr("vqmm.tokenizer.inputs.BATCH", 1)
    encode(small, tmp_path / "lines.txt", tmp_path / "alone")
    together, alone = TokenSet(tmp_path / "together"), TokenSet(tmp_path / "alone")
    assert seen == [12, *[1] * 12] and len(together) == 12
    for one, other in zip(together, alone, strict=True):
        assert one.key == other.key and one.size == other.size and (one.maps[0] == other.maps[0]).all()
