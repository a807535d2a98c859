"""Picture files to RGB arrays: JPEG, PNG, WebP, BMP and TIFF, by OpenCV, with the checks that OpenCV does not make.

OpenCV returns half-grey pictures for damaged files, allocates whatever a header claims, rotates some formats and not
others, and prints warnings to the terminal. So each file's structure is read first: its size in px (a decompression
bomb is refused before it is decoded), whether it is complete, and its orientation. What a picture becomes:

- EXIF (or TIFF) orientation is applied, so that coordinates are those of the picture as a person sees it.
- Grey, palette and CMYK become RGB. 16 bit is scaled by 1/257, full range to full range.
- Transparency is composited on white: what lies under a transparent px is often garbage.
- Only the first page or animation frame of a file is read. Colour profiles are ignored, as in all training data.

Adding a new format: see `ebapose.io.picture_formats`.
"""

from __future__ import annotations

import contextlib
import stat
import struct
from os.path import isdir
from pathlib import Path

import cv2
import numpy as np

from ebapose.errors import InputError
from ebapose.io.complaints import listening, silent_opencv
from ebapose.io.picture_formats import (
    MAX_PIXELS,
    SCANNERS,
    DamagedError,
    TruncatedError,
    UnsupportedError,
    format_of,
)
from ebapose.structures import Frame, UInt8Array

MAX_FILE_BYTES = 2**31 - 1
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff"})

# UNCHANGED alone keeps alpha and 16 bit; the other flags premultiply, truncate, or rotate, by format
_REDUCED = {
    1: cv2.IMREAD_UNCHANGED,
    2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_IGNORE_ORIENTATION,
    8: cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION,
}
_SUPPORTED = "JPEG, PNG, WebP, BMP or TIFF expected"


def read_image(path: str | Path, *, stem: str = "") -> Frame:
    """Read one picture file.

    Returns:
        Frame with RGB uint8 (H, W, 3) as a person sees it, named by the path.

    Raises:
        InputError: one line with the path and the cause: missing, a folder, empty, no permission, not a picture,
            no regular file, truncated, damaged, or larger than `MAX_PIXELS`.
    """
    name = str(path)
    try:
        kind = Path(path).stat().st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise InputError(f"{name}: not a regular file")  # a pipe without a writer would be waited for without end
        with Path(path).open("rb") as file:
            data = file.read(16)
            if format_of(data) is not None:  # do not read gigabytes of something else
                data += file.read(MAX_FILE_BYTES)
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder, not a picture") from None
    except PermissionError:
        what = "no permission to read it"
        if isdir(path):  # noqa: PTH112 (pathlib's raises again); Windows says so of a folder
            what = "is a folder, not a picture"
        raise InputError(f"{name}: {what}") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:  # a path with a NUL
        raise InputError(f"{name!r}: not a path ({error})") from None
    return Frame(decode_image(data, name), name=name, stem=stem)


def decode_image(data: bytes, name: str = "image", *, reduce: int = 1) -> UInt8Array:
    """Decode the bytes of a picture file to RGB uint8 (H, W, 3).

    Args:
        data: the file's bytes.
        name: what errors call it.
        reduce: 2, 4 or 8 decodes an upright JPEG at that fraction of its size, ceil(H / reduce) x ceil(W / reduce),
            which is several times cheaper; pixel i is then centred on pixel reduce * i + (reduce - 1) / 2 of the full
            picture. Anything else comes at full size.

    Raises:
        InputError: names `name` and the cause, as `read_image`.
    """
    if not data:
        raise InputError(f"{name}: the file is empty")
    kind = format_of(data)
    if kind is None:
        raise InputError(f"{name}: not a picture that can be read ({_SUPPORTED})")
    if kind not in SCANNERS:
        raise InputError(f"{name}: {kind} pictures are not supported ({_SUPPORTED})")
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{name}: the file is larger than 2 GiB")
    try:
        scan = SCANNERS[kind](data)
    except (TruncatedError, struct.error, IndexError):
        raise InputError(f"{name}: truncated {kind} file ({len(data)} bytes)") from None
    except DamagedError as error:
        raise InputError(f"{name}: damaged {kind} file ({error})") from None
    except UnsupportedError as error:
        raise InputError(f"{name}: {error}") from None
    if scan.width <= 0 or scan.height <= 0:
        raise InputError(f"{name}: the picture has no pixels ({scan.width}x{scan.height})")
    if scan.width * scan.height > MAX_PIXELS:
        limit = f"at most {MAX_PIXELS // 10**6} million px"
        raise InputError(f"{name}: {scan.width}x{scan.height} px is too large ({limit})")
    upright_jpeg = kind == "JPEG" and scan.orientation == 1
    complaints: list[str] = []
    with listening(complaints) if kind == "JPEG" else contextlib.nullcontext():
        image = _decode_quietly(scan.data, _REDUCED[reduce if upright_jpeg else 1])
    if image is None:
        raise InputError(f"{name}: damaged or unsupported {kind} file (it cannot be decoded)")
    if complaints:
        raise InputError(f"{name}: damaged {kind} file ({complaints[0].removeprefix('Corrupt JPEG data: ')})")
    try:
        return _oriented(_to_rgb(image, scan.multiplied), scan.orientation)
    except UnsupportedError as error:
        raise InputError(f"{name}: {error}") from None


def encode_picture(image: UInt8Array, suffix: str = ".jpg", quality: int = 92) -> bytes:
    """The bytes of a picture file.

    `cv2.imwrite` takes no path that is not UTF-8, so files are written from these.

    Args:
        image: RGB uint8 (H, W, 3).
        suffix: of the format, ".jpg", ".jpeg" or ".png".
        quality: of JPEG, up to 100.

    Raises:
        ValueError: the format cannot hold the picture: JPEG ends at 65,500 px.
    """
    options = [] if suffix == ".png" else [cv2.IMWRITE_JPEG_QUALITY, quality]
    try:
        with silent_opencv():
            done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    except cv2.error:
        done, data = False, np.zeros(0, np.uint8)
    if not done:
        kind = "PNG" if suffix == ".png" else "JPEG"
        raise ValueError(f"{image.shape[1]}x{image.shape[0]} px cannot be written as {kind}")
    return data.tobytes()


def _decode_quietly(data: bytes, flags: int) -> np.ndarray | None:
    """cv2.imdecode without its log lines; None where it fails."""
    with silent_opencv():
        try:
            return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except (cv2.error, MemoryError):
            return None


def _to_rgb(image: np.ndarray, multiplied: bool) -> UInt8Array:
    """OpenCV's grey, BGR or BGRA of 8 or 16 bit to RGB uint8 (H, W, 3), alpha composited on white."""
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=1 / 257)
    elif image.dtype != np.uint8:
        raise UnsupportedError(f"{image.dtype} samples are not supported (8 or 16 bit expected)")
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels == 1:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    if channels == 3:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    if channels != 4:
        raise UnsupportedError(f"{channels} channels are not supported (grey, RGB, RGBA or CMYK expected)")
    rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGRA2RGB), dtype=np.uint8)
    alpha = image[:, :, 3:]
    if alpha.min() == 255:
        return rgb
    if multiplied:
        return np.asarray(cv2.add(rgb, cv2.cvtColor(255 - alpha, cv2.COLOR_GRAY2RGB)), dtype=np.uint8)
    wide = alpha.astype(np.uint16)
    return ((rgb * wide + 255 * (255 - wide) + 127) // 255).astype(np.uint8)


def _oriented(image: UInt8Array, orientation: int) -> UInt8Array:
    """Undo the EXIF orientation: 2 and 4 mirrored, 3 upside down, 5 to 8 lying on the side (EXIF 2.3, table 6)."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)
