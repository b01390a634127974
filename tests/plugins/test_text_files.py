"""Texts on disk: every format, line end and unit; folders, labels and splits; damage of every kind."""

import gzip
import json
import os
import pickle

import pytest
import torch

from vqmm.contracts.modality import Modality
from vqmm.contracts.sample import Unreadable
from vqmm.data.loader import Views, training_batches
from vqmm.plugins.text.files import TextReading, decode_bytes, encode_bytes, text_samples, write_text_file
from vqmm.utils.errors import Remark, UserError

ODD = "a\tb \u2028c\u2029\x85\x0b\x0c\x1c d\r e"  # all of it inside one line: only \n and \r\n end one
TSV = 'id\tlabel\ttext\n7\tgood\tsay "hi", he\n8\tbad\t"open \n9\tgood\t\U0001f600\n'


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def texts(path, **options):
    return {sample.key: decode_bytes(sample.read()) for sample in text_samples(path, TextReading(**options))}


def sorted_out(path, **options):
    return [(sample.key, sample.label, sample.split) for sample in text_samples(path, TextReading(**options))]


def mistaken(path, **options):
    """The one line that a mistake in a file is answered with; it begins with the file's name."""
    with pytest.raises(UserError) as caught:
        list(text_samples(path, TextReading(**options)))
    said = str(caught.value)
    assert not isinstance(caught.value, Unreadable) and "\n" not in said and said.startswith(str(path))
    return said.removeprefix(str(path))


def damage(path, **options):
    """What each sample that cannot be read says, by key."""
    found = {}
    for sample in text_samples(path, TextReading(**options)):
        try:
            sample.read()
        except Unreadable as error:
            assert "\n" not in str(error)
            found[sample.key] = str(error)
    return found


# Plain text


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["a.txt", "a.text", "a.md", "A.TXT", "a.txt.gz", "a.md.GZ"])
def test_lines_end_at_newlines_and_nowhere_else(tmp_path, name, end):
    data = end.join(["one", "", ODD, "  ", "", "last"]).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
    assert texts(path) == {f"{name}:00001": "one", f"{name}:00003": ODD, f"{name}:00004": "  ", f"{name}:00006": "last"}


def test_a_byte_order_mark_goes_and_only_at_the_start(tmp_path):
    path = put(tmp_path / "a.txt", "\ufeffone\n\ufefftwo")
    assert texts(path) == {"a.txt:00001": "one", "a.txt:00002": "\ufefftwo"}
    assert list(texts(put(tmp_path / "b.csv", "\ufefftext\nhello\n")).values()) == ["hello"]
    assert texts(path, unit="files") == {"a.txt": "one\n\ufefftwo"}


def test_a_carriage_return_that_no_newline_follows_is_text(tmp_path):
    assert list(texts(put(tmp_path / "a.txt", "a\rb\r\r\nc\r")).values()) == ["a\rb\r", "c\r"]


@pytest.mark.parametrize("block", [1, 2, 7, 1000])
def test_blocks_joined_are_the_file(tmp_path, block):
    whole = "\n\n" + ODD + "\r\n学而时习之 \U0001f469\u200d\U0001f680\n\n"
    found = texts(put(tmp_path / "a.txt", whole), unit="blocks", block=block)
    assert "".join(found.values()) == whole and all(len(text) == block for text in list(found.values())[:-1])
    assert list(found) == [f"a.txt:{n:05}" for n in range(1, -(-len(whole) // block) + 1)]


def test_paragraphs_stand_between_blank_lines(tmp_path):
    path = put(tmp_path / "a.txt", "\n \n  one\r\nmo\r\rre\r\n\t\n\n\ntwo\u2028\n\u3000\nstill two\n\nthree")
    assert texts(path, unit="paragraphs") == {
        "a.txt:00003": "  one\r\nmo\r\rre",
        "a.txt:00008": "two\u2028\n\u3000\nstill two",
        "a.txt:00012": "three",
    }


def test_a_whole_file_is_one_sample_named_as_it_is(tmp_path):
    put(tmp_path / "x/a.txt", "one\r\n\r\ntwo\n")
    put(tmp_path / "x/b.md.gz", "\n")
    assert texts(tmp_path / "x", unit="files") == {"a.txt": "one\r\n\r\ntwo\n", "b.md.gz": "\n"}


# Tables and objects


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_csv_is_quoted_and_its_texts_are_left_as_they_are(tmp_path, packed):
    rows = ' text ,other\r\n"a, ""b""\r\nc", x\r\n\r\n  d  ,\u2028y\r\n'
    found = texts(put(tmp_path / f"a.csv{packed}", rows))
    assert found == {f"a.csv{packed}:00002": 'a, "b"\r\nc', f"a.csv{packed}:00005": "  d  "}
    assert list(texts(tmp_path / f"a.csv{packed}", text="other").values()) == [" x", "\u2028y"]


def test_a_tsv_is_never_quoted(tmp_path):
    path = put(tmp_path / "a.tsv", TSV)
    assert texts(path) == {"a.tsv:7": 'say "hi", he', "a.tsv:8": '"open ', "a.tsv:9": "\U0001f600"}
    assert sorted_out(path) == [("a.tsv:7", "good", None), ("a.tsv:8", "bad", None), ("a.tsv:9", "good", None)]
    assert [label for _, label, _ in sorted_out(path, label="")] == [None] * 3


def test_a_cell_may_be_long(tmp_path):
    import csv

    before = csv.field_size_limit()
    assert list(texts(put(tmp_path / "a.csv", f"text\n{'é' * 200_000}\n")).values()) == ["é" * 200_000]
    assert csv.field_size_limit() == before


def test_objects_have_a_text_each_and_labels_of_any_kind(tmp_path):
    lines = [{"t": "a\nb\u2028", "label": 3}, {"t": "c", "label": " x "}, {"t": "d", "label": None}, {"t": "e"}]
    path = put(tmp_path / "a.jsonl", "\r\n".join(map(json.dumps, lines)) + "\r\n \r\n")
    assert list(texts(path, text="t").values()) == ["a\nb\u2028", "c", "d", "e"]
    assert sorted_out(path, text="t") == [(f"a.jsonl:{n:05}", x, None) for n, x in enumerate(["3", "x", None, None], 1)]


def test_ids_name_rows_only_where_each_has_one_of_its_own(tmp_path):
    assert list(texts(put(tmp_path / "a.csv", "id,text\n ../b/c ,x\n2,y\n"))) == ["a.csv:b/c", "a.csv:2"]
    for rows in ("2,x\n2,y", "2,x\n,y", "b,x\n../b,y"):
        assert list(texts(put(tmp_path / "a.csv", f"id,text\n{rows}\n"))) == ["a.csv:00002", "a.csv:00003"]
    damaged = put(tmp_path / "a.csv", "id,text\nx,one\ny\nz,two\n")
    assert [key for key, _, _ in sorted_out(damaged)] == ["a.csv:x", "a.csv:00003", "a.csv:z"]
    meeting = put(tmp_path / "a.csv", "id,text\nx,one\ny\n00003,two\n")
    assert [key for key, _, _ in sorted_out(meeting)] == ["a.csv:00002", "a.csv:00003", "a.csv:00004"]
    assert list(texts(put(tmp_path / "a.jsonl", '{"id": 5, "text": "x"}'))) == ["a.jsonl:5"]


# Labels and splits


def test_folders_name_labels_and_split_and_rows_know_better(tmp_path):
    put(tmp_path / "train/good/a.txt", "one\ntwo")
    put(tmp_path / "test/bad/b.csv", "text,label\nx,fine\ny,\n")
    put(tmp_path / "test/bad/.hidden.txt", "no")
    assert sorted_out(tmp_path) == [
        ("test/bad/b.csv:00002", "fine", "test"),
        ("test/bad/b.csv:00003", "bad", "test"),
        ("train/good/a.txt:00001", "good", "train"),
        ("train/good/a.txt:00002", "good", "train"),
    ]


def test_a_split_column(tmp_path):
    path = put(tmp_path / "a.csv", "text,split\na,train\nb, test \n")
    assert [split for _, _, split in sorted_out(path)] == ["train", "test"]
    put(tmp_path / "x/train/a.csv", "text,split\na,test\nb,train\n")
    put(tmp_path / "x/test/a.txt", "c\n")
    assert [split for _, _, split in sorted_out(tmp_path / "x")] == ["test", "test", "train"]  # rows know better
    path = put(tmp_path / "a.csv", "text,part,split\na,train,x\nb,test,x\nc,,x\n")
    assert mistaken(path, split="part") == ", line 4: the split is '': it must be 'train' or 'test'"
    assert [split for _, _, split in sorted_out(path, split="")] == [None] * 3


def test_the_tail_of_each_file_is_held_out(tmp_path):
    put(tmp_path / "a.txt", "\n".join(f"line {n}" for n in range(29)))
    put(tmp_path / "b.csv", "text,split\nx,test\ny,train\n")
    splits = [split for _, _, split in sorted_out(tmp_path, tail=0.1)]
    assert splits == ["train"] * 26 + ["test"] * 3 + ["train"] * 2
    assert [split for _, _, split in sorted_out(tmp_path)] == [None] * 29 + ["test", "train"]


def test_a_tail_of_nothing_is_a_mistake_in_training_data_alone(tmp_path):
    path = put(tmp_path / "a.txt", "one\ntwo")
    with pytest.raises(UserError, match=r"modality.tail: 0.1 of the samples of each file is none: .* has 2 in all"):
        list(text_samples(path, TextReading(tail=0.1)))
    assert [split for _, _, split in sorted_out(path, tail=0.1, insist=False)] == ["train"] * 2


# Length


def test_long_texts_are_cut_between_characters_and_counted_once(tmp_path):
    put(tmp_path / "a.txt", "学而时习\n学而时\nab\n")
    put(tmp_path / "b.csv", "text\nabcdefg\n")
    with pytest.warns(Remark, match=r"2 of 4 texts are longer than 3 characters \(modality.longest\)") as caught:
        found = texts(tmp_path, longest=3)
    assert list(found.values()) == ["学而时", "学而时", "ab", "abc"] and len(caught) == 1
    assert len(texts(tmp_path, longest=7)) == 4  # and no remark: warnings are errors here


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unit": "line"}, "modality.unit: 'line' does not fit.*Did you mean 'lines'"),
        ({"block": 0}, "modality.block: 0"),
        ({"longest": 0}, "modality.longest: 0"),
        ({"tail": 1.0}, "modality.tail: 1.0"),
        ({"tail": -0.1}, "modality.tail: -0.1"),
        ({"tail": float("nan")}, "modality.tail: nan"),
    ],
)
def test_options_that_do_not_fit(options, said):
    with pytest.raises(UserError, match=said):
        TextReading(**options)


# Mistakes


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "", ": it is empty"),
        ("a.txt", "\ufeff", ": it is empty"),
        ("a.csv.gz", "", ": it is empty"),
        ("a.txt", "\n\r\n \n", ": it holds blank lines only"),
        ("a.jsonl", "\n\n", ": it holds blank lines only"),
        ("a.tsv", "\n\n", ": it holds blank lines only"),
        ("a.csv", "text,label\n", " has a header and no rows: each row must hold a text"),
        ("a.csv", "Text,id\nx,1\n", " has no column 'text'. There is: Text, id. Did you mean 'Text'?"),
        ("a.csv", f'"{"x" * 50}\ny"\nz\n', f" has no column 'text'. There is: {'x' * 37}...."),
        ("a.tsv", "text\ttext\nx\ty\n", " has 2 columns 'text': rename all but one"),
        ("a.csv", 'text\nfine\n"open\nand\non', ", line 3: not a row of a CSV file: unexpected end of data"),
        ("a.jsonl", '{"text": "x"}\n\n[1]', ", line 3: [1] is no JSON object: it must be one with a field 'text'"),
        ("a.jsonl", '{"text": "x"}\n{"texts": 1}', ", line 2 has no field 'text'. There is: texts. Did you mean"),
        ("a.jsonl", '{"text": 5}', ", line 1: the field 'text' is 5: it must be a string"),
        ("a.jsonl", '{"text": "x"}\n{"text": ', ", line 2: not JSON at character 9: Expecting value"),
        ("a.txt", b"caf\xe9 x", ": not UTF-8: byte 3 is 0xE9; save it as UTF-8"),
        ("a.csv", b"\xef\xbb\xbftext\n\xff\n", ": not UTF-8: byte 8 is 0xFF; save it as UTF-8"),
        ("a.txt.gz", b"ab\xe2\x82", ": not UTF-8: byte 2 of what it unpacks to is 0xE2; save it as UTF-8"),
        ("a.txt", "hi".encode("utf-16"), ": not UTF-8: byte 0 is 0xFF; it begins as UTF-16 does: save it as UTF-8"),
        ("a.txt", b"\xed\xa0\x80", ": not UTF-8: byte 0 is 0xED; save it as UTF-8"),
        ("a.pdf", "x", " is no text file: take a file .txt, .text, .md, .csv, .tsv, .jsonl (each also .gz), or"),
        ("a.gz", "x", " is no text file: take a file .txt"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_file_is_answered_in_one_line(tmp_path, name, content, said):
    assert mistaken(put(tmp_path / name, content)).startswith(said)


def test_json_that_is_deep_or_has_a_number_too_long_is_answered(tmp_path):
    for line in ("[" * 100_000, '{"text": ' + "1" * 10_000 + "}"):
        assert mistaken(put(tmp_path / "a.jsonl", line)).startswith(", line 1: not JSON: ")


def test_columns_asked_for_by_name_must_be_there_unless_a_trained_model_reads(tmp_path):
    table, objects = put(tmp_path / "a.tsv", TSV), put(tmp_path / "a.jsonl", '{"text": "x", "rating": 1}')
    assert "has no column 'labels'. There is: id, label, text. Did you mean 'label'?" in mistaken(table, label="labels")
    assert "has no field 'ratings'. There is: rating, text. Did" in mistaken(objects, label="ratings")
    assert "has no column 'part'" in mistaken(table, split="part")
    assert [label for _, label, _ in sorted_out(table, label="labels", insist=False)] == [None] * 3
    with pytest.raises(UserError, match="has no column 'words'"):
        sorted_out(table, text="words", insist=False)


def test_damaged_files_of_a_folder_are_one_damaged_sample_each(tmp_path):
    put(tmp_path / "x/good.txt", "fine")
    put(tmp_path / "x/empty.txt", "")
    put(tmp_path / "x/latin.csv", b"text\ncaf\xe9\n")
    packed = gzip.compress(bytes(range(32, 127)) * 50)
    for name, data in {"cut": packed[:-9], "none": b"plain", "wrong": packed[:30] + b"\0\0\0" + packed[33:]}.items():
        (tmp_path / f"x/{name}.txt.gz").write_bytes(data)
    (tmp_path / "x/gone.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "x/pipe.txt")
    found = damage(tmp_path / "x")
    assert set(found) == {"empty.txt", "latin.csv", "cut.txt.gz", "none.txt.gz", "wrong.txt.gz", "gone.txt", "pipe.txt"}
    assert found["empty.txt"].endswith("empty.txt: it is empty") and "byte 8 is 0xE9" in found["latin.csv"]
    assert all(found[key].startswith(f"{tmp_path}/x/{key}: ") for key in found)
    assert {sample.key for sample in text_samples(tmp_path / "x", TextReading())} == {*found, "good.txt:00001"}
    for name in ("cut", "none", "wrong"):
        mistaken(tmp_path / f"x/{name}.txt.gz")


def test_damaged_rows_are_named_and_the_others_read(tmp_path):
    path = put(tmp_path / "a.tsv", "text\tlabel\nx\ty\n\tz\nmany\tmore\ttabs\nfew\nlast\tz\n")
    assert damage(path) == {
        "a.tsv:00003": f"{path}, line 3: 'text' is empty",
        "a.tsv:00004": f"{path}, line 4: the header has 2 cells, the row 3",
        "a.tsv:00005": f"{path}, line 5: the header has 2 cells, the row 1",
    }
    path = put(tmp_path / "a.jsonl", '{"text": "a\\ud800"}\n{"text": "\\ud83d\\ude00"}\n')
    told = "a.jsonl:00001: character 1 is U+D800, half of a surrogate pair: UTF-8 cannot write it"
    assert damage(path) == {"a.jsonl:00001": told}
    assert decode_bytes(list(text_samples(path, TextReading()))[1].read()) == "\U0001f600"


def test_a_folder_without_texts(tmp_path):
    put(tmp_path / "a.png", "x")
    assert " holds no text file: looked in it and its sub-folders for .txt, .txt.gz, " in mistaken(tmp_path)


# One text


@pytest.mark.parametrize("text", ["", "\0", ODD, "学\U0001f600\u2581\ufeff\r\n"])
def test_a_text_comes_back_from_its_bytes_and_its_file(tmp_path, text):
    sample = encode_bytes(text)
    assert sample.dtype == torch.uint8 and sample.shape == (1, len(text.encode())) and decode_bytes(sample) == text
    file = write_text_file(text, tmp_path / "v1.2")
    assert file == tmp_path / "v1.2.txt" and file.read_bytes() == text.encode()


def test_what_is_no_text(tmp_path):
    with pytest.raises(UserError, match=r"character 2 is U\+DC00, half of a surrogate pair"):
        encode_bytes("ab\udc00")
    with pytest.raises(UserError, match=r"character 0 is U\+D83D"):
        write_text_file("\ud83d", tmp_path / "a")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="not UTF-8: byte 1 is 0xFF"):
        decode_bytes(torch.tensor([[65, 255]], dtype=torch.uint8))
    for wrong in (torch.zeros(1, 3), torch.zeros(3, dtype=torch.uint8), torch.zeros(2, 3, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"a text is uint8 \(1, bytes\), not"):
            decode_bytes(wrong)


# Many, workers, real texts


def test_forty_thousand_lines_are_listed_and_read_without_the_file(tmp_path):
    path = put(tmp_path / "a.txt", "twenty-five characters...\n" * 40_000)
    samples = list(text_samples(path, TextReading()))
    path.unlink()
    assert len(samples) == 40_000 and samples[-1].key == "a.txt:40000"
    again = pickle.loads(pickle.dumps(samples[1]))
    assert decode_bytes(again.read()) == "twenty-five characters..." == decode_bytes(samples[1].read())
    with pytest.raises(AttributeError):
        samples[0].key = "other"


class Bytes(Modality):
    name, rank, channels = "bytes", 1, 1


def test_workers_read_them_and_name_the_damaged(tmp_path):
    path = put(tmp_path / "a.tsv", "text\nabc\nde\nfghi\n\tx\n")
    views = Views(Bytes(), list(text_samples(path, TextReading())), {}, cache_mb=1)
    batches = training_batches(views, 4, 0, workers=2)
    batch, unreadable = next(batches)
    found = {key: x[0][mask] for key, x, mask in zip(batch.key, batch.x, batch.mask, strict=True)}
    assert {key: decode_bytes(x[None]) for key, x in found.items()} == {
        "a.tsv:00002": "abc", "a.tsv:00003": "de", "a.tsv:00004": "fghi"
    }  # fmt: skip
    assert unreadable == [f"{path}, line 5: the header has 1 cells, the row 2"]


def test_a_value_read_twice_is_not_shared(tmp_path):
    (sample,) = text_samples(put(tmp_path / "a.txt", "abc"), TextReading())
    sample.read().zero_()
    value = sample.read()
    assert decode_bytes(value) == "abc" and value.untyped_storage().nbytes() == value.nbytes  # so that it can be kept


def test_real_texts_are_read_to_the_last_line(data):
    folder = data / "text"
    found = list(text_samples(folder / "sentiment_en.tsv.gz", TextReading()))
    assert len(found) == 23_339 and {sample.label for sample in found} == {"positive", "negative", "neutral"}
    assert not damage(folder / "sentiment_en.tsv.gz")
    whole = (folder / "tinyshakespeare.txt").read_bytes().decode()
    assert "".join(texts(folder / "tinyshakespeare.txt", unit="blocks").values()) == whole
    splits = [sample.split for sample in text_samples(folder / "tinyshakespeare.txt", TextReading(tail=0.1))]
    assert splits == ["train"] * (len(splits) - round(len(splits) / 10)) + ["test"] * round(len(splits) / 10)
    chinese = "\n".join(texts(folder / "zh_classics.txt.gz").values())
    plain = gzip.decompress((folder / "zh_classics.txt.gz").read_bytes()).decode()
    assert chinese == "\n".join(line for line in plain.split("\n") if line) and "\r" not in plain
