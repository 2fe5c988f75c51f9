"""Pictures of the report pages for docs/images, made by headless Chromium:

    python tools/screenshots.py BINARY MOE --data FILE [--data FILE ...]

Profiles MOE, zips it, and keeps single sections of the two pages, in light and dark, each under 150 KB."""

import argparse
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

IMAGES = Path(__file__).resolve().parents[1] / "docs/images"
# name -> (page, words in the heading of the section, dark)
SHOTS = {
    "profile-routing": ("profile", "Where tokens go", False),
    "profile-coactivation": ("profile", "Which experts fire together", True),
    "profile-groupings": ("profile", "What a grouping could gain", True),
    "profile-tokens": ("profile", "Token by token", False),
    "zip-made": ("zip", "What zip made of it", False),
}
LIMIT = 150_000


def only(page, heading):
    """The page with one section shown and nothing else."""
    style = "header,.tiles,section{display:none}section.kept{display:block;margin:0;border:0;border-radius:0}main{padding:0;max-width:none}"
    script = (f"<style>{style}</style><script>document.querySelectorAll('section').forEach(s=>s.classList.toggle('kept',s.querySelector('h2').textContent==={heading!r}));"
              "document.title=document.querySelector('section.kept').offsetHeight</script></body>")
    return page.replace("</body>", script)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("moe")
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--tokens", default="16384")
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    if browser is None:
        raise SystemExit("no Chromium here: apt-get install chromium")

    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        common = [word for file in options.data for word in ("--data", file)] + ["--tokens", options.tokens, "--ctx", "256", "--quiet"]
        subprocess.run([options.binary, "profile", options.moe, *common, "-o", place / "s.safetensors", "--report", place / "profile.html"], check=True)
        subprocess.run([options.binary, "zip", options.moe, place / Path(options.moe).name, *common, "--keep", "0.5", "--report", place / "zip.html"], check=True)
        for name, (page, heading, dark) in SHOTS.items():
            file, picture = place / f"{name}.html", place / f"{name}.png"
            file.write_text(only((place / f"{page}.html").read_text(), heading))
            chromium = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={place / 'browser'}", "--virtual-time-budget=3000",
                        *(["--blink-settings=preferredColorScheme=0"] if dark else [])]
            dom = subprocess.run([*chromium, "--window-size=1060,2000", "--dump-dom", file.as_uri()], check=True, capture_output=True, text=True).stdout
            height = int(re.search(r"<title>(\d+)</title>", dom).group(1))
            subprocess.run([*chromium, f"--window-size=1060,{height}", f"--screenshot={picture}", file.as_uri()], check=True, capture_output=True)
            size = picture.stat().st_size
            print(f"{name}.png: {height} pixels high, {size / 1000:.0f} KB")
            if size > LIMIT:
                raise SystemExit(f"{name}.png is larger than {LIMIT / 1000:.0f} KB")
            shutil.copy(picture, IMAGES)


if __name__ == "__main__":
    main()
