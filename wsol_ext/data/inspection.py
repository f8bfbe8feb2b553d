"""Looking a data set's picture files over, before hours are spent on them."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from wsol_ext import _progress
from wsol_ext.data.base import LocalizationDataset
from wsol_ext.data.images import ImageError, check_image

__all__ = ["broken_images"]

_AT_ONCE = 256


def broken_images(
    dataset: LocalizationDataset, workers: int = 0, progress: bool = True
) -> dict[int, str]:
    """The pictures of a data set that cannot be read: missing, cut off, or of a kind that `read_image` refuses.

    Files are opened, and JPEG and PNG decoded only where the end of the file does not tell that it is whole: damage
    between header and end goes unnoticed. Pictures that are no files are passed over.

    Args:
        dataset: any data set with an `image_file`.
        workers: threads that read beside this one's waiting; 0: this one reads.
        progress: whether to show a bar, where standard error is a terminal.

    Returns:
        By the picture's number in the data set, in that order, the message of the `ImageError`.

    Example:
        >>> from wsol_ext.data import ImageListDataset
        >>> broken_images(ImageListDataset(["missing.jpg"]))
        {0: 'missing.jpg: no such image file'}
    """

    def trouble(index: int) -> str | None:
        file = dataset.image_file(index)
        try:
            if file is not None:
                check_image(file)
        except ImageError as error:
            return str(error)
        return None

    broken = {}
    pool = ThreadPoolExecutor(workers) if workers else None
    with (
        pool or nullcontext(),
        _progress.bar("looking the images over", len(dataset), progress) as advance,
    ):
        for start in range(0, len(dataset), _AT_ONCE):
            # An interruption waits for no more than these.
            indices = range(start, min(start + _AT_ONCE, len(dataset)))
            messages = (pool.map if pool else map)(trouble, indices)
            for index, message in zip(indices, messages, strict=True):
                if message is not None:
                    broken[index] = message
                advance()
    return broken
