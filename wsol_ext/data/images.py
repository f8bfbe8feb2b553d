"""Reading picture files, with errors that name the file."""

from pathlib import Path

from PIL import Image

__all__ = ["ImageError", "read_grey", "read_image"]

# A file is read as what it is, whatever its name; and Pillow knows formats that start other programs (EPS).
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF")


class ImageError(OSError):
    """A picture that cannot be read: missing, truncated, or no picture at all. The message names the file."""


def read_image(path: str | Path) -> Image.Image:
    """Read a picture file to its last byte as RGB.

    Pixels come as they are stored: an EXIF orientation is not applied, since the boxes of every data set of the field
    are given for the stored pixels (and the published programs read them so).

    Args:
        path: the file, JPEG, PNG, BMP, WebP, TIFF, PPM or GIF; grey, palette and alpha pictures become RGB.

    Returns:
        A Pillow image of mode RGB, wholly read.

    Raises:
        ImageError: the file is missing, truncated, or no picture.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (4, 3), 255).save(f"{folder}/white.png")
        ...     image = read_image(f"{folder}/white.png")
        >>> image.mode, image.size, image.getpixel((0, 0))
        ('RGB', (4, 3), (255, 255, 255))
    """
    return _read(path, "RGB")


def read_grey(path: str | Path) -> Image.Image:
    """Read a picture file as one grey channel of 0 to 255, such as a mask; alpha is ignored.

    Args:
        path: the file, in a format that `read_image` takes.

    Returns:
        A Pillow image of mode L, wholly read.

    Raises:
        ImageError: the file is missing, truncated, or no picture.
    """
    return _read(path, "L")


def _read(path: str | Path, mode: str) -> Image.Image:
    try:
        with Image.open(path, formats=_FORMATS) as image:
            # Formats differ in what a cut file raises: SyntaxError or ValueError (PNG), OSError (JPEG), EOFError (GIF).
            return image.convert(mode)
    except FileNotFoundError as error:
        raise ImageError(f"{path}: no such image file") from error
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: cannot be read as an image: {error}") from error
