"""Draw a folder of pictures as `profl sweep` takes it, train/CLASS and test/CLASS: circles and squares."""

import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw


def draw(shape: str, dice: random.Random) -> Image.Image:
    picture = Image.new("RGB", (48, 48), "white")
    left, top, side = dice.randrange(20), dice.randrange(20), dice.randrange(12, 28)
    outline = ImageDraw.Draw(picture)
    draw_shape = outline.ellipse if shape == "circle" else outline.rectangle
    draw_shape((left, top, left + side, top + side), fill="navy")
    return picture


def fill(folder: Path) -> None:
    dice = random.Random(0)
    for split, count in (("train", 40), ("test", 10)):
        for shape in ("circle", "square"):
            (folder / split / shape).mkdir(parents=True)
            for number in range(count):
                draw(shape, dice).save(folder / split / shape / f"{number}.png")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: draw_pictures.py FOLDER")
    fill(Path(sys.argv[1]))
