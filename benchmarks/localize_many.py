"""`wsol localize` of few and of many pictures: memory, speed, and whether a kill in the middle changes anything.

    python benchmarks/localize_many.py [--few 1000] [--many 10000] [--overlays 100] [--save]

Drawn pictures, and a network so small that reading and writing are most of the work. --save writes
benchmarks/results/localize_many.md.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from wsol_ext import create_model
from wsol_ext.checkpoints import save_model
from wsol_ext.data import SyntheticDataset

RESULT = Path(__file__).parent / "results" / "localize_many.md"
TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
FILES = ("boxes.json", "dataset.json")
HEADER = "| pictures | peak memory, MiB | said |\n| --- | --- | --- |\n"


def drawn_pictures(folder, count):
    """So many JPEG files, of some hundred different pictures."""
    data = SyntheticDataset(min(count, 200), img_size=96)
    pictures = [to_pil_image(data[index]["image"]) for index in range(len(data))]
    for index in range(count):
        path = folder / f"{index // 1000:03d}" / f"{index:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture: Image.Image = pictures[index % len(pictures)]
        picture.save(path, quality=90)
    return folder


def command(model, pictures, out, overlays):
    flags = ["--overlays", str(overlays), "--progress", "false", "--batch-size", "64"]
    return [
        *(sys.executable, "-m", "wsol_ext.cli", "localize", str(model), str(pictures)),
        *("--out", str(out), *flags),
    ]


def run(arguments):
    """What a command says of its speed, and the most memory that its main process or a worker held, in MiB."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return next(line for line in said.splitlines() if " a second" in line), usage.ru_maxrss / 1024


def killed_in_the_middle(arguments, out, count):
    """Kill a command by SIGKILL once half of the pictures are kept, and let it go on."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, start_new_session=True)
    journal = out / "journal-0.jsonl"
    while process.poll() is None:
        if journal.exists() and journal.read_bytes().count(b"\n") > count // 2:
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return run(arguments)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=10000)
    parser.add_argument("--overlays", default="100")
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = folder / "model.safetensors"
        save_model(create_model("tscam", "vit_tiny_patch16_224", 4, False, 32, TINY), model)
        for count in (options.few, options.many):
            pictures = drawn_pictures(folder / f"pictures{count}", count)
            out = folder / f"out{count}"
            said, peak = run(command(model, pictures, out, options.overlays))
            rows.append((str(count), peak, said))
        again = folder / "again"
        said, peak = killed_in_the_middle(
            command(model, pictures, again, options.overlays), again, count
        )
        assert [(again / name).read_bytes() for name in FILES] == [
            (out / name).read_bytes() for name in FILES
        ]
        rows.append((f"{count}, killed halfway and continued: same files", peak, said))
    table = HEADER + "".join(f"| {what} | {peak:.0f} | {said} |\n" for what, peak, said in rows)
    print(table)
    if options.save:
        RESULT.write_text(f"# localize_many\n\n{table}")


if __name__ == "__main__":
    main()
