"""Reading picture files, with errors that name the file."""

import importlib
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from wsol_ext._files import not_there
from wsol_ext._names import printable

__all__ = [
    "ImageError",
    "NamedBytes",
    "PictureFile",
    "check_image",
    "format_by_content",
    "formats_of_suffix",
    "heif_hint",
    "image_suffixes",
    "is_like_image",
    "is_readable_format",
    "is_readable_name",
    "read_grey",
    "read_image",
    "read_reduced",
    "resize_nearest",
    "shown_size",
    "simplejpeg_module",
    "to_rgb",
]

# A file is read as what it is, whatever its name; and Pillow knows formats that start other programs (EPS), or take
# any bytes for a picture (TGA).
_FORMATS = (
    *("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM", "GIF"),
    *("DIB", "JPEG2000", "AVIF", "QOI", "HEIF"),
)
# What files of those begin with, where it says enough: two letters of PPM do not.
_BEGINNINGS = {
    name: re.compile(beginning, re.DOTALL)
    for name, beginning in {
        "JPEG": rb"\xff\xd8\xff",
        "PNG": rb"\x89PNG\r\n\x1a\n",
        "GIF": rb"GIF8[79]a",
        "WEBP": rb"RIFF....WEBP",
        "TIFF": rb"II[*+]\0|MM\0[*+]",
        "BMP": rb"BM.{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0",
        "JPEG2000": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
        "AVIF": rb".{4}ftypavi[fs]",
        "HEIF": rb".{4}ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)",
        "QOI": rb"qoif",
    }.items()
}
_HEIF_SUFFIXES = (".heic", ".heif", ".hif")
# Of pictures in formats that are not read here, so that they are not passed over in silence.
_OTHER_SUFFIXES = frozenset(
    [
        *_HEIF_SUFFIXES,
        *(".avif", ".jp2", ".j2k", ".jxl", ".jxr", ".qoi", ".tga", ".psd", ".exr", ".hdr"),
        *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"),
        *(".eps", ".svg", ".ico"),
    ]
)


class ImageError(OSError):
    """A picture that cannot be read: missing, truncated, or no picture at all. The message names the file."""


class NamedBytes(BytesIO):
    """The bytes of a file within another one, such as an archive, with the name that messages call it by."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


PictureFile: TypeAlias = str | Path | NamedBytes
"""Where a picture is read from."""


def read_image(
    path: PictureFile, upright: bool = False, at_least: int | None = None
) -> Image.Image:
    """Read a picture file to its last byte as RGB.

    Transparent pictures are laid over white. Of pictures with more than 8 bits, 16-bit integers are divided by 257 (and
    those of 32 bits that stay below 65536 taken for such), floats from 0 to 1 are multiplied by 255, both rounded.

    Args:
        path: the file, or its bytes: JPEG, PNG, BMP, WebP, TIFF, PPM, GIF, JPEG 2000, AVIF or QOI as Pillow was built
            to read them, or HEIF where `pillow_heif` is installed; of an animation the first picture.
        upright: whether to turn the picture as its EXIF orientation asks, as viewers show it. Otherwise pixels come as
            they are stored, which is what the boxes of the field's published data sets are given for (and their
            programs read). TIFF is always turned: Pillow does it.
        at_least: None; or how many pixels the longest side needs. Of a JPEG with more, a half, a quarter or an eighth
            of the size is decoded then, which is faster; its pixels are not quite those of the picture resized.

    Returns:
        A Pillow image of mode RGB, wholly read.

    Raises:
        ImageError: the file is missing, truncated, or no picture; or its pixels are integers or floats of which nothing
            tells which is white.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (4, 3), 255).save(f"{folder}/white.png")
        ...     image = read_image(f"{folder}/white.png")
        >>> image.mode, image.size, image.getpixel((0, 0))
        ('RGB', (4, 3), (255, 255, 255))
    """
    with _opened(path) as image:
        if at_least is not None:
            width, height = (math.ceil(at_least * side / max(image.size)) for side in image.size)
            image.draft(image.mode, (width, height))
        return _to_rgb(image, upright)


def read_reduced(
    path: str | Path, width: int, height: int
) -> tuple[Image.Image | np.ndarray, tuple[int, int]]:
    """Read a picture file as `read_image` does, upright, of a large JPEG no more than a smaller size needs.

    JPEG files are decoded by simplejpeg where it is installed, and by Pillow where that refuses one.

    Args:
        path: the file.
        width: how many pixels the picture is to have at least, as it is shown.
        height: likewise.

    Returns:
        The picture, or of a JPEG that is at least twice as large the half, quarter or eighth of its size which is the
        next larger: a Pillow image of mode RGB, or uint8 (h, w, 3); and width and height of the whole one, as it is
        shown.

    Raises:
        ImageError: as `read_image`.
    """
    with _opened(path) as image:
        stored, turn = image.size, _turn_of(image)
        sideways = turn in _SIDEWAYS
        reduced = image.draft(image.mode, (height, width) if sideways else (width, height))
        if reduced is None:
            rgb = _to_rgb(image, upright=True)
            return rgb, rgb.size
        shown = (stored[1], stored[0]) if sideways else stored
        pixels = _decoded_jpeg(image)
        if pixels is None:
            return _to_rgb(image, upright=True), shown
        return pixels if turn is None else Image.fromarray(pixels).transpose(turn), shown


def _decoded_jpeg(image: Image.Image) -> np.ndarray | None:
    """The pixels (h, w, 3) of a JPEG that is opened, and of the size it has, by simplejpeg; None: left to Pillow."""
    simplejpeg, file = simplejpeg_module(), getattr(image, "fp", None)
    if simplejpeg is None or file is None or image.mode not in ("RGB", "L"):
        return None
    file.seek(0)
    try:
        # Damage of any kind is an error to it. What Pillow makes of that counts: a picture, or a message.
        pixels = simplejpeg.decode_jpeg(
            file.read(), "RGB", min_height=image.height, min_width=image.width
        )
    except ValueError:
        return None
    return pixels if pixels.shape == (image.height, image.width, 3) else None


@lru_cache(maxsize=1)
def simplejpeg_module() -> Any:
    """The module simplejpeg, which decodes JPEG files faster than Pillow; None where it is not installed."""
    try:
        return importlib.import_module("simplejpeg")
    except ImportError:
        return None


def read_grey(path: str | Path) -> Image.Image:
    """Read a picture file as one grey channel of 0 to 255, such as a mask, in stored pixels; alpha is ignored.

    Of pictures with more than 8 bits, values above 255 become 255: a mask's objects stay above 0.

    Args:
        path: the file, in a format that `read_image` takes.

    Returns:
        A Pillow image of mode L, wholly read.

    Raises:
        ImageError: the file is missing, truncated, or no picture.
    """
    with _opened(path) as image:
        return _to_grey(image)


def resize_nearest(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pixels (h, w, ...) resized to (height, width, ...) by nearest neighbour, as OpenCV does and masks are evaluated.

    Example:
        >>> resize_nearest(np.arange(6).reshape(1, 6), 2, 3)
        array([[0, 2, 4],
               [0, 2, 4]])
    """
    # Down to the rounding of 1 / (new / old). (Pillow takes pixel centres.)
    rows, columns = (
        np.minimum((np.arange(new) * (1 / (new / old))).astype(int), old - 1)
        for new, old in zip((height, width), pixels.shape, strict=False)
    )
    return pixels[rows[:, None], columns]


def shown_size(path: PictureFile, upright: bool = False) -> tuple[int, int]:
    """Width and height that `read_image` gives a picture, by the file's header alone.

    Raises:
        ImageError: the file is missing, or no picture.
    """
    with _opened(path) as image:
        if image.format == "TIFF":  # turned by Pillow, when it is read
            image.load()
        width, height = image.size
        turned = upright and _turn_of(image) in _SIDEWAYS
        return (height, width) if turned else (width, height)


def check_image(path: PictureFile) -> None:
    """Look a picture file over without decoding it, where its end tells that it is whole.

    JPEG and PNG files end with a mark; others, and those without, are read to tell.

    Raises:
        ImageError: as `read_image`; damage between a file's header and its end may go unnoticed.
    """
    with _opened(path) as image:
        if image.format in ("JPEG", "MPO", "PNG") and not _is_deep(image):
            with nullcontext(path) if isinstance(path, NamedBytes) else open(path, "rb") as file:
                file.seek(-min(64, file.seek(0, os.SEEK_END)), os.SEEK_END)
                end = file.read().rstrip(b"\0\r\n")
            if end.endswith((b"\xff\xd9", b"IEND\xaeB`\x82")):
                return
    read_image(path)


@lru_cache(maxsize=1)
def image_suffixes() -> frozenset[str]:
    """The suffixes of file names, lower-case and with their dot, that stand for pictures `read_image` reads."""
    formats = (*_formats(), "MPO")  # which Pillow opens as JPEG
    return frozenset(s for s, name in Image.registered_extensions().items() if name in formats)


def is_readable_name(name: str) -> bool:
    """Whether a file's name is that of a picture in a format that is read here."""
    return os.path.splitext(name)[1].lower() in image_suffixes()


def is_like_image(name: str) -> bool:
    """Whether a file's name is that of a picture, be it one that can be read here or not."""
    return is_readable_name(name) or os.path.splitext(name)[1].lower() in _OTHER_SUFFIXES


def formats_of_suffix(suffix: str) -> tuple[str, ...]:
    """The formats, as `format_by_content` has them, that a file's suffix may stand for; none of an unknown suffix.

    Example:
        >>> formats_of_suffix(".JPEG"), formats_of_suffix(".mpo"), formats_of_suffix(".txt")
        (('JPEG',), ('MPO', 'JPEG'), ())
    """
    _formats()
    form = Image.registered_extensions().get(suffix.lower())
    begins_as = {"MPO": "JPEG", "DIB": "BMP"}
    return tuple(f for f in (form, begins_as.get(str(form))) if f is not None)


def format_by_content(path: PictureFile) -> str | None:
    """The format of a picture, as Pillow calls it, by the first bytes of the file; None where it is none.

    None too where the file cannot be read, or is no file of its own but a folder, a pipe or a device. PPM files, whose
    first bytes may be those of a text, count as none.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     Image.new("L", (4, 3)).save(file, "PNG")
        ...     format_by_content(file.name)
        'PNG'
    """
    try:
        if isinstance(path, NamedBytes):
            start = path.getvalue()[:16]
        elif not os.path.isfile(path):
            return None
        else:
            with open(path, "rb", buffering=0) as file:
                start = file.read(16)
    except OSError:
        return None
    return next((name for name, pattern in _BEGINNINGS.items() if pattern.match(start)), None)


def is_readable_format(name: str) -> bool:
    """Whether pictures of a format, as `format_by_content` names it, are read here."""
    return name in _formats()


def heif_hint(path: str | Path) -> str:
    """What to add to the news that a file was passed over, if it is one of HEIF and what reads those is missing."""
    suffix = os.path.splitext(path)[1].lower()
    is_heif = suffix in _HEIF_SUFFIXES or (not suffix and format_by_content(path) == "HEIF")
    return "; pillow-heif reads HEIC" if is_heif and "HEIF" not in _formats() else ""


@lru_cache(maxsize=1)
def _formats() -> tuple[str, ...]:
    with suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


@contextmanager
def _opened(path: PictureFile) -> Iterator[Image.Image]:
    """Open a picture file; whatever is raised then becomes an `ImageError` that names it."""
    in_memory = isinstance(path, NamedBytes)
    name = path.name if isinstance(path, NamedBytes) else path
    try:
        # A pipe would be waited for, and a device never ends.
        if not in_memory and os.path.exists(name) and not os.path.isfile(name):
            raise ValueError("it is no file of its own but a folder, a pipe or a device")
        with Image.open(path, formats=_formats()) as image:
            yield image
    except FileNotFoundError as error:
        raise ImageError(f"{printable(name)}: {not_there(name, 'image file')}") from error
    # Formats differ in what a broken file raises: SyntaxError, ValueError, EOFError, IndexError, struct.error ...
    except Exception as error:
        raise ImageError(f"{printable(name)}: cannot be read as an image: {error}") from error


def to_rgb(image: Image.Image, upright: bool = False) -> Image.Image:
    """A Pillow image of any mode as RGB, by the rules of `read_image`.

    Args:
        image: the image; one that was opened and not read yet is read.
        upright: as of `read_image`. An image that was made from another one has its EXIF orientation still, unless
            `PIL.ImageOps.exif_transpose` made it.

    Returns:
        Another image, of mode RGB.

    Raises:
        ValueError: its pixels are integers or floats of which nothing tells which is white.
        Exception: whatever Pillow raises where it cannot read the rest of a broken file.

    Example:
        >>> to_rgb(Image.new("I;16", (4, 3), 65535)).getpixel((0, 0))
        (255, 255, 255)
    """
    rgb = _to_rgb(image, upright)
    return rgb.copy() if rgb is image else rgb


def _to_rgb(image: Image.Image, upright: bool) -> Image.Image:
    """What `to_rgb` gives, or the image itself where it is that: a copy takes a quarter of the time of a large JPEG."""
    turn = _turn_of(image) if upright else None
    if _is_deep(image):
        rgb = _scaled_to_8_bits(image).convert("RGB")
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if image.mode == "La":  # which Pillow makes nothing else of
            image = image.convert("LA")
        colours = image.convert("RGBA")
        ground = Image.new("RGBA", colours.size, "white")
        rgb = Image.alpha_composite(ground, colours).convert("RGB")
    elif image.mode == "RGB":
        image.load()
        rgb = image
    else:
        rgb = image.convert("RGB")
    return rgb if turn is None else rgb.transpose(turn)


def _to_grey(image: Image.Image) -> Image.Image:
    if _is_deep(image):
        return Image.fromarray(np.rint(np.asarray(image).clip(0, 255)).astype(np.uint8))
    return image.convert("L")


def _is_deep(image: Image.Image) -> bool:
    return image.mode[0] in "IF"


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)
    low, high = pixels.min(), pixels.max()
    if image.mode == "F":
        kind, white = "floats", 1.0
    else:
        kind, white = "integers", 65535.0
    if not 0 <= low <= high <= white:
        raise ValueError(
            f"its pixels are {kind} from {low:g} to {high:g}, and nothing tells which of them is white; "
            f"they should be from 0 to {white:g}"
        )
    tags = getattr(image, "tag_v2", {})  # of TIFF: 258 is the number of bits, 262 what 0 stands for
    if tags.get(258) == (12,):
        white = 4095.0
    grey = np.rint(pixels * (255 / white))
    if tags.get(262) == 0:
        grey = 255 - grey
    elif "transparency" in image.info:
        grey[pixels == image.info["transparency"]] = 255
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8))


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


_SIDEWAYS = frozenset(_TURNS[k] for k in (5, 6, 7, 8))


def _turn_of(image: Image.Image) -> Image.Transpose | None:
    """What makes a picture upright by its EXIF orientation."""
    if image.format == "TIFF":  # turned by Pillow
        return None
    with suppress(Exception):  # a picture is none the worse for broken EXIF data
        return _TURNS.get(image.getexif().get(0x0112, 1))
    return None
