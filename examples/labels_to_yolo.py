"""Labelled pictures to the data file of a YOLO detector, by a trained run.

python examples/labels_to_yolo.py runs/mine pictures/train detector
yolo detect train data=detector/yolo/data.yaml
"""

import argparse

from wsol_ext.cli import main as wsol


def main():
    """Write boxes of the known class of each picture, and what a detector's training reads."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a trained run")
    parser.add_argument("pictures", help="folder of class folders")
    parser.add_argument("out", help="the folder to write to")
    options = parser.parse_args()
    labels = ["--labels", "folder", "--format", "yolo", "coco", "--overlays", "false"]
    status = wsol(["localize", options.run, options.pictures, "--out", options.out, *labels])
    print(f"{options.out}/yolo/data.yaml")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
