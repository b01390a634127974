"""What stands on the page of a run: finished, unfinished, without its data, and with HTML where text should be."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from PIL import Image

import vqmm
from tests.pages.conftest import TINY, log
from vqmm.pages import report
from vqmm.pages.page import duration, number

UNFINISHED = ["checkpoints", "tokenizer"]  # what a run lacks that was killed before its first look


def page_of(run: Path) -> str:
    told = report(run)
    assert told == {"report": str(run / "report.html")}
    return Path(told["report"]).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory) -> str:
    """Of the run as it is."""
    return page_of(Path(shutil.copytree(finished, tmp_path_factory.mktemp("page") / "digits")))


def change_recipe(run: Path, **fields: object) -> None:
    file = run / "recipe.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), **fields}))


class Tags(HTMLParser):
    """Every tag with its attributes, and a count of those that are open."""

    def __init__(self, page: str):
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.seen.append((tag, dict(attributes)))


def test_a_finished_run_has_every_part(run, page):
    for part in ("Originals over", "Rate and distortion", "Use of the codebook", "Training", "Health", "Settings"):
        assert part in page
    for name in ("psnr_db", "bits_per_pixel", "gradient norm", "learning rate", "commitment", "codebook_size"):
        assert name in page
    assert "of 32 codes used" in page and "unfinished" not in page and "No event in the whole run." in page
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert f"{lines[-1]['metrics']['psnr_db']:.2f}" in page, "the page looks at the same samples as the run did"
    assert "64 of 176 samples; the held-out tenth; centre crop of at most 8 x 8 pixels" in page


def test_the_page_refers_to_nothing_outside_itself(page):
    tags = Tags(page).seen
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in tags}
    links = [value for _, told in tags for name, value in told.items() if name in ("src", "href", "xlink:href")]
    assert links and all(value.startswith(("data:", "#")) for value in links)
    assert "http://" not in page and "https://" not in page and "@import" not in page
    assert all(where.startswith("#") for where in re.findall(r"url\((.*?)\)", page))
    ids = [told["id"] for _, told in tags if "id" in told]
    assert len(ids) == len(set(ids)), "charts share ids"


def test_pictures_hold_originals_above_reconstructions(page):
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", page)
    assert len(pictures) == 2  # of four samples each
    for picture in pictures:
        image = Image.open(io.BytesIO(base64.b64decode(picture)))
        assert image.width > 1.8 * image.height > 150


def test_health_events_the_command_and_the_machine_of_the_run(run):
    log(run, kind="health", step=30, event="dead codes", said="12 of 32 codes < 1 %")
    noted = {"command": ["vqmm", "train", "image", "--data", "my photos"], "machine": {"cpu": "Abacus 9", "threads": 2}}
    (run / "run.json").write_text(json.dumps(noted))
    page = page_of(run)
    assert "dead codes" in page and "12 of 32 codes &lt; 1 %" in page and "No event" not in page
    assert "vqmm train image --data &#39;my photos&#39;" in page
    assert "Abacus 9" in page and "The machine of the run" in page


def test_html_in_names_is_shown_as_text(finished, tmp_path):
    evil = "<script>alert(1)</script>"
    folder = tmp_path / "pictures" / "<b>bold"
    folder.mkdir(parents=True)
    for i in range(30):
        Image.new("L", (8, 8), 8 * i).save(folder / f"<i>{i}.png")
    out = tmp_path / "a<u>b"
    vqmm.train("image", tmp_path / "pictures", out, steps=2, settings=[*TINY, "condition=label"], quiet=True)
    change_recipe(out, about=evil)
    log(out, kind="health", step=2, event=evil, said=evil)
    log(out, kind="train", step=2, losses={evil: 0.5})
    log(out, kind="held-out", step=2, metrics={evil: 0.5})
    (out / "run.json").write_text(json.dumps({"command": evil, "machine": {evil: evil}}))
    tags = {tag for tag, _ in Tags(page_of(out)).seen}
    assert not tags & {"script", "u"}
    page = (out / "report.html").read_text()
    assert "&lt;i&gt;" in page and "a&lt;u&gt;b" in page and "&lt;b&gt;bold" in page and "alert(1)" in page
    assert "<script" not in page


def test_an_unfinished_run_says_so(run):
    change_recipe(run, train={**yaml.safe_load((run / "recipe.yaml").read_text())["train"], "steps": 3000})
    page = page_of(run)
    assert "This run is unfinished: 40 of 3,000 steps so far." in page and "No event so far." in page
    assert "Originals over" in page


def test_a_run_without_a_tokenizer_or_any_line_says_so(run):
    for name in UNFINISHED:
        shutil.rmtree(run / name)
    (run / "metrics.jsonl").unlink()
    page = page_of(run)
    assert "0 of 40 steps" in page and "no model is saved yet" in page and "metrics.jsonl holds no line yet" in page
    assert "Originals over" not in page and "Settings" in page


def test_a_line_cut_short_is_left_out(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"kind": "train", "losses": {}}\n{"kind": "train", "ste')
    assert "Training" in page_of(run)


def test_values_that_are_no_numbers_leave_gaps(run):
    log(run, kind="train", step=50, losses={"reconstruction": float("nan"), "entropy": -1.0}, gradient_norm=None)
    log(run, kind="held-out", step=50, metrics={"psnr_db": None, "nmse": float("inf")})
    page = page_of(run)
    assert "entropy" in page and "nan" in page


def test_data_that_is_gone_is_said_in_one_sentence(run, tmp_path):
    change_recipe(run, data=str(tmp_path / "gone"))
    page = page_of(run)
    notes = re.findall(r'<p class="note">(.*)</p>', page)
    assert len(notes) == 1 and "held-out data cannot be read: there is nothing at" in notes[0]
    assert "Originals over" not in page and "Use of the codebook" not in page
    assert "psnr_db" in page and "The last look at held-out data that the run itself took." in page


def test_a_modality_that_is_not_installed_is_named(run):
    file = run / "tokenizer" / "config.json"
    file.write_text(file.read_text().replace('"image"', '"smell"'))
    assert "&#39;smell&#39;" in page_of(run)


def test_an_autoencoder_has_no_codebook_to_show(tmp_path):
    settings = [setting for setting in TINY if "codebook" not in setting]
    vqmm.train("image", "builtin:digits", tmp_path / "ae", "ae", steps=1, settings=settings, quiet=True)
    page = page_of(tmp_path / "ae")
    assert "Originals over" in page and "Use of the codebook" not in page


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(vqmm.UserError, match=r"is no run: it has no recipe\.yaml; give the folder"):
            report(folder)
    (tmp_path / "recipe.yaml").write_text("[1")
    with pytest.raises(vqmm.UserError, match="is not YAML"):
        report(tmp_path)
    (tmp_path / "recipe.yaml").write_text("3")
    with pytest.raises(vqmm.UserError, match="holds int"):
        report(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["recipe.yaml"]


def test_numbers_and_durations_read_well():
    assert [number(v) for v in (None, 12345, 0.0123456, 2816.4, 27.6543, float("inf"))] == [
        "\N{EN DASH}",
        "12,345",
        "0.01235",
        "2,816",
        "27.65",
        "inf",
    ]
    assert [duration(s) for s in (8.44, 59.99, 750, 11100)] == ["8.4 s", "60.0 s", "12 min 30 s", "3 h 5 min"]
