"""Two pages of `wsol report` as a browser shows them: of one run by day, and of two by night where they have pictures.

wsol demo --out runs/demo_tscam && wsol demo --model scm --out runs/demo_scm
python scripts/picture_report.py runs/demo_tscam runs/demo_scm docs/report.jpg
"""

import argparse
import sys
import tempfile
from pathlib import Path

from PIL import Image

from wsol_ext.cli import main as wsol

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from report.browser import browser

_WIDTH, _HEIGHT, _GAP = 1080, 1300, 24  # of a page's part, in pixels


def main() -> None:
    """Write the pages of one run and of both, and draw them side by side."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs=2, help="folders of two evaluated runs of the same pictures")
    parser.add_argument("out", type=Path, help="the picture to write")
    options = parser.parse_args()
    sheet = Image.new("RGB", (2 * _WIDTH + _GAP, _HEIGHT), "white")
    with tempfile.TemporaryDirectory() as folder, browser() as chromium:
        one, both, seen = (Path(folder, name) for name in ("one.html", "both.html", "seen.png"))
        wsol(["report", options.runs[0], "--out", str(one)])
        wsol(["report", *options.runs, "--out", str(both)])
        for place, (page, dark) in enumerate(((one, False), (both, True))):
            chromium.open(page, width=_WIDTH, height=_HEIGHT, dark=dark)
            if dark:
                chromium.value("document.querySelector('#pictures').scrollIntoView()")
            chromium.picture(seen)
            sheet.paste(Image.open(seen), (place * (_WIDTH + _GAP), 0))
    size = (sheet.width * 2 // 3, sheet.height * 2 // 3)
    sheet.resize(size, Image.Resampling.LANCZOS).save(options.out, quality=82)


if __name__ == "__main__":
    main()
