"""One picture from a file that may be anything: by named formats alone, of bounded size, with 8 bits a channel."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from profl.bench.data.dataset import SIDE
from profl.bench.errors import InputError, in_one_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Those tried, whatever a file is called, by Pillow's names: for others it has readers that start programs."""

EIGHT_BITS = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
"""Pillow's modes of 8 bits a channel or fewer, which it converts rightly. It reads 16 bits in colour as 8."""


def read_picture(path: Path) -> Tensor:
    """Return a picture as RGB, resized to 32x32 bilinearly; uint8, shape (3, 32, 32).

    Grey of 16 bits is scaled to 8.

    Raises
    ------
    InputError
        If the file is no picture of the `FORMATS`, is damaged, has more pixels than Pillow takes for harmless
        (89 million), or has numbers for pixels whose black and white are not known, such as floating-point ones.
    """
    from PIL.Image import Resampling
    from torchvision.transforms.functional import pil_to_tensor

    try:
        picture = _opened(path)
    except Exception as error:  # Pillow has no common one: OSError, SyntaxError, ... by format
        raise InputError(
            f"{path} is not a readable picture ({in_one_line(error)}); replace or remove it ({', '.join(FORMATS)})"
        ) from error
    if _is_grey_of_16_bits(picture):
        picture = _scaled(picture)
    elif picture.mode not in EIGHT_BITS:
        raise InputError(
            f"{path} has pixels of kind {picture.mode} ({picture.format}), of which black and white are not known: "
            "save it with 8 bits a channel"
        )
    return pil_to_tensor(picture.convert("RGB").resize((SIDE, SIDE), Resampling.BILINEAR))


def _opened(path: Path) -> Image:
    from PIL import Image

    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        picture = Image.open(file, formats=FORMATS)
        picture.load()
    return picture


def _is_grey_of_16_bits(picture: Image) -> bool:
    """Return whether pixels are numbers of which 0 is black and 65535 is white."""
    from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

    if isinstance(picture, TiffImageFile):  # it may also have 12 bits, 32 bits, or white for 0
        bits, black = (picture.tag_v2.get(tag) for tag in (BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION))
        return picture.mode.startswith("I;16") and bits == (16,) and black == 1
    return picture.mode.startswith("I")  # PNG, and PGM, whose largest number Pillow makes 65535


def _scaled(picture: Image) -> Image:
    import numpy as np
    from PIL import Image

    return Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))  # 65535 becomes 255
