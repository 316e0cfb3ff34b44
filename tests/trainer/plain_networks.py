"""Networks of others, written down as their sources have them."""

from torch import nn


def torchvisions(num_maps: int, hidden: tuple[int, int], num_classes: int) -> nn.Sequential:
    """torchvision's AlexNet; `num_maps`: numbers behind its last pool (9,216 for pictures of 224, 256 for 64)."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten(),
        nn.Dropout(), nn.Linear(num_maps, hidden[0]), nn.ReLU(), nn.Dropout(), nn.Linear(*hidden), nn.ReLU(),
        nn.Linear(hidden[1], num_classes),
    )  # fmt: skip
