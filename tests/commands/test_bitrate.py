"""A bit rate that is asked for, and the stages that it pays for."""

import math

import pyarrow.parquet as pq
import pytest
import torch

from tests.cli.runner import Vqmm
from tests.clicks import Clicks
from tests.fakes import TwoMaps
from vqmm.commands.bitrate import Rate, choose_rate, offered_kbps
from vqmm.commands.train import train
from vqmm.decoders.direct import DirectDecoder
from vqmm.plugins.image import Image
from vqmm.quantizers.none import NoQuantizer
from vqmm.quantizers.residual import ResidualQuantizer
from vqmm.quantizers.vector import VectorQuantizer
from vqmm.tokenizer.tokenizer import Tokenizer
from vqmm.utils.errors import UserError

PLUGIN = "tests.clicks"


def tokenizer(kind=ResidualQuantizer, modality=None, **options):
    """Lines of 100 numbers a second, a code every 4: 25 codes a second of each stage."""
    modality = modality or Clicks(Clicks.Options(stride=4))
    return Tokenizer(modality, kind(kind.Options(dim=8, **options), modality.rank), DirectDecoder(modality, 8))


@pytest.fixture(scope="module")
def three():
    return tokenizer(stages=3, codebook_size=(256, 256, 16))  # 0.2, 0.4 and 0.5 kbit/s


def test_the_rates_are_those_of_the_stages(three):
    assert offered_kbps(three) == pytest.approx([0.2, 0.4, 0.5], rel=1e-12)


def test_a_rate_that_is_there_uses_its_stages_to_the_last_digit(three):
    for stages, kbps in enumerate([0.2, 0.4, 0.5], start=1):
        assert choose_rate(three, bitrate_kbps=kbps) == Rate(stages, pytest.approx(kbps))
    third = tokenizer(modality=Clicks(Clicks.Options(stride=8)), stages=3, codebook_size=10)
    for stages, kbps in enumerate(offered_kbps(third), start=1):  # numbers that no float is
        assert choose_rate(third, bitrate_kbps=kbps).stages == stages
        assert choose_rate(third, bitrate_kbps=float(f"{kbps:.12g}")).stages == stages


@pytest.mark.parametrize(("asked", "stages"), [(0.21, 1), (0.399, 1), (0.401, 2), (0.4999, 2)])
def test_between_two_rates_the_lower_one_is_taken(three, asked, stages):
    used = choose_rate(three, bitrate_kbps=asked)
    assert used.stages == stages and used.bitrate_kbps <= asked


@pytest.mark.parametrize("asked", [0.1999, 0.5001, 0.0, -1.0, math.inf, math.nan])
def test_a_rate_outside_is_refused_and_the_rates_are_named(three, asked):
    with pytest.raises(UserError, match=r"kbit/s: this run offers 0.2, 0.4, 0.5 kbit/s: give a rate from 0.2 to 0.5"):
        choose_rate(three, bitrate_kbps=asked)


def test_one_rate_and_many_rates_are_told_in_one_line():
    with pytest.raises(UserError, match=r"^1 kbit/s: this run has one rate, 0.225 kbit/s$"):
        choose_rate(tokenizer(VectorQuantizer, codebook_size=512), bitrate_kbps=1)
    with pytest.raises(UserError, match=r"offers 0.025, 0.05, 0.075, ..., 0.475, 0.5 kbit/s: give a rate from 0.025"):
        choose_rate(tokenizer(stages=20, codebook_size=2), bitrate_kbps=9)


def test_stages_and_rate_exclude_each_other(three):
    with pytest.raises(UserError, match=r"stages 2 and 0.4 kbit/s are both given"):
        choose_rate(three, 2, 0.4)


def test_without_a_rate_the_stages_that_are_used_are_told(three):
    assert choose_rate(three) == Rate(3, pytest.approx(0.5)) and choose_rate(three, 2) == Rate(2, pytest.approx(0.4))
    with pytest.raises(UserError, match="4 stages: the quantizer 'residual' of this run has 3"):
        choose_rate(three, 4)


def test_every_map_counts_on_its_own_grid():
    maps = tokenizer(TwoMaps, codebook_size=16)  # 4 bits at half the positions, 5 at each
    assert offered_kbps(maps) == pytest.approx([(12.5 * 4 + 25 * 5) / 1000])


def test_a_rate_is_what_encode_writes(three):
    x = torch.rand(1, 1, 400)  # 4 s
    for stages, kbps in enumerate(offered_kbps(three), start=1):
        (codes,) = three.encode(three.modality.collate([x[0]], ["a"]), stages).maps
        assert kbps * 4000 == pytest.approx(sum([8, 8, 4][:stages]) * codes[0, 0].numel())


def test_signals_without_seconds_and_without_codes():
    pictures = tokenizer(modality=Image(Image.Options(width=16)), stages=2)
    with pytest.raises(UserError, match=r"in bits per pixel, not per second: choose with --stages, of which .* has 2"):
        choose_rate(pictures, bitrate_kbps=3)
    assert choose_rate(pictures) == Rate(2, None)
    with pytest.raises(UserError, match="has no codes"):
        choose_rate(tokenizer(NoQuantizer), bitrate_kbps=3)


# On the command line


@pytest.fixture(scope="module")
def clicks(tmp_path_factory):
    """Eight lines of numbers, and a stack of three stages trained on them for two steps."""
    home = tmp_path_factory.mktemp("bitrate")
    data = home / "data"
    data.mkdir()
    for i in range(8):
        (data / f"{i}.txt").write_text(" ".join(str((i + t) % 7 / 7) for t in range(40)))
    options = ["quantizer.dim=8", "quantizer.stages=3", "quantizer.codebook_size=16", "train.batch_size=4"]
    train("clicks", data, home / "run", "rvq", steps=2, settings=options, plugins=[PLUGIN], quiet=True)
    return home / "run", data


def test_encode_at_a_rate_says_what_it_used(clicks, tmp_path, capsys):
    line, (run, data) = Vqmm(capsys), clicks
    rest = ("--plugin", PLUGIN, "--bitrate-kbps", 0.25)
    told = line("encode", run, data, "--out", tmp_path / "one", *rest, "--json").json
    assert (told["stages"], told["bitrate_kbps"], told["bits"]) == (2, 0.2, 8 * 10 * 2 * 4)
    (shard,) = (tmp_path / "one").glob("*.parquet")
    assert {len(codes) for codes in pq.read_table(shard)["map0"].to_pylist()} == {2 * 10}
    finished = line("encode", run, data, "--out", tmp_path / "two", *rest)
    assert finished.code == 0 and "0.2 kbit/s: 2 stages of codes" in finished.out
    told = line("encode", run, data, "--out", tmp_path / "all", "--plugin", PLUGIN, "--json").json
    assert (told["stages"], told["bitrate_kbps"]) == (3, pytest.approx(0.3))


def test_a_rate_that_is_not_there_writes_nothing(clicks, tmp_path, capsys):
    line, (run, data) = Vqmm(capsys), clicks
    call = ("encode", run, data, "--out", tmp_path / "out", "--plugin", PLUGIN)
    assert "offers 0.1, 0.2, 0.3 kbit/s" in line.refuses(*call, "--bitrate-kbps", 0.31)
    assert "are both given" in line.refuses(*call, "--bitrate-kbps", 0.2, "--stages", 2)
    assert "'--bitrate-kbps'" in line.refuses(*call, "--bitrate-kbps", "high")
    assert not (tmp_path / "out").exists()
