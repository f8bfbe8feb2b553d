"""The README's tables, out of benchmarks/results: no number of it is typed, and a test holds it to what this prints.

python scripts/readme_tables.py            prints them
python scripts/readme_tables.py --write    puts them into README.md, between their marks
"""

import argparse
import re
from pathlib import Path

from result_tables import markdown_table, result_tables

ROOT = Path(__file__).resolve().parents[1]
METHODS = {
    "tscam": "TS-CAM, Gao et al., ICCV 2021",
    "trt": "TRT, Su et al., BMVC 2022",
    "scm": "SCM, Bai et al., ECCV 2022",
    "sat": "SAT, Wu et al., ICCV 2023",
    "trilite": "TriLite, CVPR 2026",
    "molt": "MOLT, VCIP 2023",
    "center baseline": "a centred Gaussian, no model",
}
# Work; the published way and the best plain way: what each is called, and file and case of the measurement beside it.
SPEEDS = [
    (
        "`best_box_iou`, 32 maps of 224 x 224, 1,000 thresholds",
        ("the evaluator's loop", "boxes", "best_box_iou, all, 1000 thresholds, 1 threads"),
        None,
    ),
    (
        "`extract_boxes`, a map of 224 x 224, 100 thresholds",
        None,
        (
            "OpenCV",
            "boxes",
            "extract_boxes, largest, 1 x 224 x 224, 100 thresholds, one thread; baseline: by hand",
        ),
    ),
    (
        "`class_attention` and gradient, 8 x 577 tokens",
        ("the matrix", "class_attention", "operator, forward + backward, 8 x 6 heads x 577 x 64"),
        (
            "the row alone, 8 x 197",
            "class_attention",
            "operator, forward + backward, (8, 6, 197, 64), heads apart, against the row alone in plain PyTorch",
        ),
    ),
    (
        "`masked_reattention` and gradient, 2 x 1,025 tokens",
        (
            "TRT's program",
            "masked_reattention",
            "forward and backward, 2 x 6 heads x 1025 x 64, 50% kept, float32, against published",
        ),
        (
            "fused attention",
            "masked_reattention",
            "forward and backward, 2 x 6 heads x 1025 x 64, 50% kept, float32, against fused",
        ),
    ),
    (
        "`spatial_gate` and gradient, 8 x 577 tokens",
        (
            "SAT's program",
            "spatial_gate",
            "forward + backward, 8 x 6 heads x 577 x 64; baseline: published_gate",
        ),
        (
            "the row alone",
            "spatial_gate",
            "forward + backward, 8 x 6 heads x 577 x 64; baseline: row_alone",
        ),
    ),
    (
        "`spatial_diffusion` and gradient, 16 grids of 14 x 14",
        (
            "SCM's program",
            "spatial_diffusion",
            "forward + backward, 16 x 200 x 14 x 14, 16 iterations",
        ),
        None,
    ),
    (
        "`normalized_cut`, 1,369 tokens",
        ("`eigh`", "normalized_cut", "scipy_eigh, 1369 tokens, one thread"),
        ("`eigsh`", "normalized_cut", "scipy_eigsh, 1369 tokens, one thread"),
    ),
    (
        "`label_components`, a mask of 1080 x 1920",
        None,
        ("OpenCV", "components", "OpenCV, smooth, 1080 x 1920, connectivity 8, one thread"),
    ),
    (
        "`slic`, an image of 512 x 512",
        ("scikit-image", "slic", "slic, 1 x 512 x 512, 1 threads; baseline: scikit-image"),
        ("fast-slic", "slic", "slic, 1 x 512 x 512, 1 threads; baseline: fast-slic"),
    ),
]


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="into README.md")
    if parser.parse_args().write:
        path = ROOT / "README.md"
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n".join(tables().values()))


def filled(readme: str) -> str:
    """The README with its tables as the results have them."""
    for name, table in tables().items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
        readme, count = place.subn(lambda found, table=table: found[1] + table + found[2], readme)
        if count != 1:
            raise ValueError(f"README.md should hold <!-- {name} --> and <!-- end --> once")
    return readme


def tables() -> dict[str, str]:
    """Each table by the name of its mark."""
    return {"methods": methods(), "speeds": speeds()}


def methods() -> str:
    """Methods, and what they reach on photographs."""
    found = {row["method"]: row["maxboxacc"] for row in _rows("photographs")}
    rows = [
        [name if " " in name else f"`{name}`", paper, found[name]]
        for name, paper in METHODS.items()
    ]
    header = ["method", "paper", "`maxboxacc` on photographs"]
    return markdown_table([header, *rows]) + "\n"


def speeds() -> str:
    """Operators beside the published way and the best plain way."""
    header = ["operator", "beside the published way", "beside the best plain way"]
    rows = [
        [work, _gain(published, memory=True), _gain(plain)] for work, published, plain in SPEEDS
    ]
    return markdown_table([header, *rows]) + "\n"


def _gain(measured: tuple[str, str, str] | None, memory: bool = False) -> str:
    if measured is None:
        return ""
    beside, file, case = measured
    (row,) = [row for row in _rows(f"cpu_{file}") if row["case"] == case]
    times = float(re.match(r"[\d.]+", row["speedup"])[0])
    text = f"{beside}: {times:.3g}x" if times < 100 else f"{beside}: {times:.0f}x"
    if memory and (peaks := re.findall(r"\d+ MiB", row["peak memory, baseline / ours"])):
        text += f"; {peaks[1]} instead of {peaks[0]}"
    return text


def _rows(name: str) -> list[dict[str, str]]:
    """The rows of all tables of a file of results, by their columns."""
    return [
        dict(zip(header, row, strict=True)) for header, rows in result_tables(name) for row in rows
    ]


if __name__ == "__main__":
    main()
