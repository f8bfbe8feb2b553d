"""Pictures in a folder a class, their labels all that is known, to boxes.

python examples/train_on_a_folder.py pictures/train photos --out runs/mine
"""

import argparse

import wsol_ext
from wsol_ext.training import TrainingConfig, train


def main():
    """Train, or continue an interrupted run, and print the boxes of other pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", help="folder of class folders to train on")
    parser.add_argument("photos", help="folder of pictures to find objects in")
    parser.add_argument("--out", default="runs/mine", help="folder of the run")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--pretrained", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    config = TrainingConfig(
        out=options.out,
        model="tscam",
        data="folder",
        root=options.pictures,
        epochs=options.epochs,
        img_size=options.img_size,
        pretrained=options.pretrained,
    )
    run = train(config)
    for prediction in wsol_ext.load(run.path).predict(options.photos):
        for box, name, score in zip(
            prediction.boxes.tolist(), prediction.names, prediction.scores.tolist(), strict=True
        ):
            print(f"{prediction.path}: {name} {score:.2f} {[round(side) for side in box]}")


if __name__ == "__main__":
    main()
