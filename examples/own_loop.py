"""A training loop of one's own around a model of `wsol_ext`.

python examples/own_loop.py pictures/train
"""

import argparse

import torch
from torch.utils.data import DataLoader

import wsol_ext
from wsol_ext.data import FolderDataset, collate, train_transform


def main():
    """Train SAT for some epochs, and show the maps it gives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", help="folder of class folders to train on")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--pretrained", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    dataset = FolderDataset(options.pictures, transform=train_transform(options.img_size))
    loader = DataLoader(dataset, options.batch_size, shuffle=True, collate_fn=collate)
    model = wsol_ext.create_model(
        "sat",
        num_classes=len(dataset.class_names),
        img_size=options.img_size,
        pretrained=options.pretrained,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5, weight_decay=0.05)
    for epoch in range(options.epochs):
        for batch in loader:
            losses = model.training_loss(batch["images"], batch["labels"])
            optimizer.zero_grad()
            losses["loss"].backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {losses['loss'].item():.3f}")
    model.eval()
    with torch.inference_mode():
        logits, maps = model.localize(batch["images"])
    print(f"classes {logits.argmax(dim=1).tolist()}, maps {tuple(maps.shape)}")


if __name__ == "__main__":
    main()
