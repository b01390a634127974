"""The page in a real browser: nothing to complain about, nothing from outside, and no sideways scrolling on a phone."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.pages.conftest import log
from vqmm.pages import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")

MEASURE = """<script>
addEventListener("load", () => parent.postMessage(
  [innerWidth, document.documentElement.scrollWidth, document.body.scrollWidth].join(" "), "*"));
</script>"""
# a browser's own window has a smallest width; a frame has none
FRAME = """<title></title><script>addEventListener("message", told => document.title = told.data)</script>
<iframe src="measured.html" style="border:0; width:{width}px; height:2000px"></iframe>"""


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    profile = f"--user-data-dir={page.parent / 'profile'}"
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", profile, "--enable-logging=stderr", "--v=0"]
    command += ["--virtual-time-budget=3000", *options, "--dump-dom", page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.fixture
def page(run) -> Path:
    log(run, kind="health", step=30, event="dead_codes", said="x" * 300)
    log(run, kind="train", step=41, losses={"a_loss_with_a_name_" * 6: 0.5})
    (run / "run.json").write_text('{"command": "vqmm train image --data /' + "long/" * 60 + '"}')
    return Path(report(run)["report"])


def test_the_console_is_silent_and_nothing_is_fetched(page):
    seen = browse(page)
    assert "CONSOLE" not in seen.stderr, seen.stderr
    assert "Rate and distortion" in seen.stdout
    page.write_text(page.read_text().replace("</h1>", '</h1><img src="https://example.org/x.png">'))
    assert "Content Security Policy" in browse(page).stderr, "a request would have been noticed, and refused"


@pytest.mark.parametrize("width", [360, 390, 1280])
def test_the_page_is_no_wider_than_its_window(page, width):
    text, count = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', MEASURE, page.read_text())
    assert count == 1
    (page.parent / "measured.html").write_text(text)
    frame = page.parent / "frame.html"
    frame.write_text(FRAME.format(width=width))
    (told,) = re.findall("<title>(.*)</title>", browse(frame, "--window-size=1400,2200").stdout)
    window, *widths = map(int, told.split())
    assert window == width and max(widths) <= width, told
