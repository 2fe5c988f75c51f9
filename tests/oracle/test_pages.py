"""The pages that `profile`, `zip` and `train` write, opened in headless Chromium where there is one: they draw what they should without
a word on the console, in light and dark."""

import html
import re
import shutil
import subprocess

import pytest
from calibration_text import save_text, save_tokenizer
from tiny_models import run, save_variant

BROWSER = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome", "chrome-headless-shell"])), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: the pages are not looked at")


def opened(page, tmp_path, *options):
    """The page's elements after its scripts have run; what it says on the console is an error."""
    done = subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'browser'}",
                           "--virtual-time-budget=3000", *options, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout


def part(dom, name):
    return re.search(rf'<(\w+)[^>]* id="{name}"[^>]*>(.*?)(?=<section|<div id="tip"|<p>|<div class="controls"|$)', dom, re.S).group(2)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("pages")
    save_variant("qwen3_moe", path / "model")
    save_tokenizer(path / "model")
    save_text(path / "a & b.txt", 80)
    save_text(path / "<i>c.txt", 80, seed=3)
    return path


@pytest.mark.parametrize("dark", [False, True])
def test_the_profile_page_draws_everything(place, dark):
    run("profile", place / "model", "--data", place / "a & b.txt", "--data", place / "<i>c.txt", "--ctx", 32, "-o", place / "s.safetensors", "--report", place / "page.html")
    dom = opened(place / "page.html", place, *(["--blink-settings=preferredColorScheme=0"] if dark else []))
    layers, experts = 3, 6
    assert part(dom, "heat").count("<rect") == layers * experts
    assert part(dom, "square").count("<rect") >= experts * (experts - 1)
    assert part(dom, "ring").count("<circle") == experts and part(dom, "ring").count("<path") >= experts // 2
    assert part(dom, "curves").count("<path") == layers
    assert "co-activation, pairs" in part(dom, "groupings")
    assert part(dom, "redundancy").count("<tr") == part(dom, "load").count("<tr") == layers + 1
    assert "NaN" not in dom and "undefined" not in re.sub(r"<script.*?</script>", "", dom, flags=re.S)
    shown = "".join(html.unescape(piece) for piece in re.findall(r"<span data-expert[^>]*>(.*?)</span>", part(dom, "tokens"), re.S))
    assert len(shown) > 40 and (place / "a & b.txt").read_text().startswith(shown), "the sample is the text itself"
    assert '<section id="zip" hidden' in dom


def test_the_zip_page_shows_what_was_made(place):
    run("zip", place / "model", place / "out", "--data", place / "a & b.txt", "--ctx", 32, "--keep", 0.5, "--threads", 1, "--report", place / "zip.html")
    dom = opened(place / "zip.html", place)
    assert "neurons an expert" in part(dom, "made") and part(dom, "made").count("<tr") == 4
    assert part(dom, "errors").count("<rect") >= 6
    assert "NaN" not in dom and '<section id="zip" hidden' not in dom
