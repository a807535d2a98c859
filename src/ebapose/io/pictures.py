"""Picture files to RGB arrays: JPEG, PNG, WebP, BMP and TIFF, by OpenCV, with the checks that OpenCV does not make.

OpenCV returns half-grey pictures for damaged files, allocates whatever a header claims, rotates some formats and not
others, and prints warnings to the terminal. So each file's structure is read first: its size in px (a decompression
bomb is refused before it is decoded), whether it is complete, and its orientation. What a picture becomes:

- EXIF (or TIFF) orientation is applied, so that coordinates are those of the picture as a person sees it.
- Grey, palette and CMYK become RGB. 16 bit is scaled by 1/257, full range to full range.
- Transparency is composited on white: what lies under a transparent px is often garbage.
- Only the first page or animation frame of a file is read. Colour profiles are ignored, as in all training data.

Adding a new format: write a `_scan_FORMAT` that returns a `_Scan`, and name its signature in `_scan`.
"""

from __future__ import annotations

import contextlib
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from os.path import isdir
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ebapose.errors import InputError
from ebapose.io.complaints import listening
from ebapose.structures import Frame, UInt8Array

MAX_PIXELS = 178_956_970  # as the commonest Python picture library: 512 MiB of RGB; a decoded picture beyond is refused
MAX_FILE_BYTES = 2**31 - 1
PICTURE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".dib", ".tif", ".tiff"})

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# UNCHANGED alone keeps alpha and 16 bit; the other flags premultiply, truncate, or rotate, by format
_REDUCED = {
    1: cv2.IMREAD_UNCHANGED,
    2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_IGNORE_ORIENTATION,
    8: cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION,
}
_opencv_log: Any = getattr(cv2.utils, "logging", cv2)  # OpenCV 5 moved its log level there
_SILENT = 0  # LOG_LEVEL_SILENT, which OpenCV 4 does not name
_SUPPORTED = "JPEG, PNG, WebP, BMP or TIFF expected"


@dataclass(frozen=True)
class _Scan:
    """What a file's structure says: size in px, EXIF orientation 1..8, and the bytes to hand to the decoder.

    `multiplied`: the decoder gives colours that are multiplied by their opacity.
    """

    width: int
    height: int
    data: bytes
    orientation: int = 1
    multiplied: bool = False


class _TruncatedError(Exception):
    """The file ends before its picture does."""


class _DamagedError(Exception):
    """The file's structure is wrong; the text says where."""


class _UnsupportedError(Exception):
    """A picture of a kind that OpenCV does not read as it is meant."""


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
            if _format(data) is not None:  # do not read gigabytes of something else
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
    kind = _format(data)
    if kind is None:
        raise InputError(f"{name}: not a picture that can be read ({_SUPPORTED})")
    if kind not in _SCANNERS:
        raise InputError(f"{name}: {kind} pictures are not supported ({_SUPPORTED})")
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{name}: the file is larger than 2 GiB")
    try:
        scan = _SCANNERS[kind](data)
    except (_TruncatedError, struct.error, IndexError):
        raise InputError(f"{name}: truncated {kind} file ({len(data)} bytes)") from None
    except _DamagedError as error:
        raise InputError(f"{name}: damaged {kind} file ({error})") from None
    except _UnsupportedError as error:
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
    except _UnsupportedError as error:
        raise InputError(f"{name}: {error}") from None


@contextlib.contextmanager
def silent_opencv() -> Iterator[None]:
    """Keep OpenCV's own log lines off the terminal: what matters of them is said in one line of ours."""
    level = _opencv_log.getLogLevel()
    _opencv_log.setLogLevel(_SILENT)
    try:
        yield
    finally:
        _opencv_log.setLogLevel(level)


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
        raise _UnsupportedError(f"{image.dtype} samples are not supported (8 or 16 bit expected)")
    channels = 1 if image.ndim == 2 else image.shape[2]
    if channels == 1:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), dtype=np.uint8)
    if channels == 3:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), dtype=np.uint8)
    if channels != 4:
        raise _UnsupportedError(f"{channels} channels are not supported (grey, RGB, RGBA or CMYK expected)")
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


def _format(data: bytes) -> str | None:
    """Name of the format by its signature; None for anything that is not a known picture."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(_PNG_SIGNATURE):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith(b"BM"):
        return "BMP"
    if data.startswith((b"II*\0", b"MM\0*")):
        return "TIFF"
    if data.startswith((b"II+\0", b"MM\0+")):
        return "BigTIFF"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data[4:8] == b"ftyp":  # the family of HEIC, AVIF and MP4
        brand = data[8:12]
        if brand in (b"avif", b"avis"):
            return "AVIF"
        return "HEIC" if brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1") else None
    return None


_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # ends entropy-coded data: neither stuffing, fill nor restart


def _scan_jpeg(data: bytes) -> _Scan:
    """Walk the segments to the end-of-image marker (ITU T.81, annex B); without it the file is truncated."""
    width = height = 0
    orientation = 1
    position = 2
    while True:
        position = data.find(b"\xff", position)
        if position < 0:
            raise _TruncatedError
        while data[position] == 0xFF:
            position += 1
        marker = data[position]
        position += 1
        if marker == 0xD9:
            return _Scan(width, height, data, orientation)
        if marker <= 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        (length,) = struct.unpack_from(">H", data, position)
        if length < 2:
            raise _DamagedError("a segment has no length")
        end = position + length
        if end > len(data):
            raise _TruncatedError
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 3)
            if width * height > MAX_PIXELS:
                return _Scan(width, height, data)
        elif marker == 0xE1 and data[position + 2 : position + 8] == b"Exif\0\0":
            orientation = _exif_orientation(data[position + 8 : end])
        elif marker == 0xDA:
            found = _NEXT_MARKER.search(data, end)
            if found is None:
                raise _TruncatedError
            end = found.start()
        position = end


def _scan_png(data: bytes) -> _Scan:
    """Walk the chunks to IEND and check their CRCs; only what the pixels need is kept, the rest makes libpng talk."""
    width = height = 0
    orientation = 1
    view = memoryview(data)
    kept: list[memoryview] = [view[:8]]
    position = 8
    while True:
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise _TruncatedError
        body = view[position + 8 : end - 4]
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            if zlib.crc32(body, zlib.crc32(name)) != int.from_bytes(view[end - 4 : end], "big"):
                raise _DamagedError(f"checksum of {name.decode()} is wrong")
            kept.append(view[position:end])
        if position == 8:
            if name != b"IHDR" or length != 13:
                raise _DamagedError("it does not begin with a header")
            width, height = struct.unpack_from(">II", body)
            if width * height > MAX_PIXELS:
                return _Scan(width, height, data)
        elif name == b"eXIf":
            orientation = _exif_orientation(bytes(body))
        elif name == b"IEND":
            return _Scan(width, height, b"".join(kept), orientation)
        position = end


def _scan_webp(data: bytes) -> _Scan:
    """Walk the RIFF chunks (WebP container specification); size from the first of VP8X, VP8L and VP8."""
    end = struct.unpack_from("<I", data, 4)[0] + 8
    if end > len(data):
        raise _TruncatedError
    width = height = 0
    orientation = 1
    position = 12
    while position + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, position)
        start = position + 8
        if start + length > end:
            raise _TruncatedError
        if not width:
            if name == b"VP8X":
                width = 1 + int.from_bytes(data[start + 4 : start + 7], "little")
                height = 1 + int.from_bytes(data[start + 7 : start + 10], "little")
            elif name == b"VP8L":
                bits = struct.unpack_from("<I", data, start + 1)[0]
                width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
            elif name == b"VP8 ":
                width, height = (n & 0x3FFF for n in struct.unpack_from("<HH", data, start + 6))
        if name == b"EXIF":
            orientation = _exif_orientation(data[start : start + length].removeprefix(b"Exif\0\0"))
        position = start + length + (length & 1)
    return _Scan(width, height, data, orientation)


def _scan_bmp(data: bytes) -> _Scan:
    """Size from the core (12 bytes) or info header; uncompressed pixels must all be there."""
    offset, header = struct.unpack_from("<II", data, 10)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif header >= 40:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        height = abs(height)  # negative: rows from the top
    else:
        raise _DamagedError("unknown header")
    if compression in (0, 3) and 0 < width * height <= MAX_PIXELS:
        stride = (width * bits + 31) // 32 * 4
        if offset + stride * height > len(data):
            raise _TruncatedError
    return _Scan(width, height, data)


def _scan_tiff(data: bytes) -> _Scan:
    """First page of a TIFF; every strip or tile must be there. The orientation is taken out of the decoder's hands."""
    tags = _tiff_tags(data)
    try:
        width, height = tags[256].values[0], tags[257].values[0]
    except KeyError:
        raise _DamagedError("it has no size") from None
    for offsets, counts in ((273, 279), (324, 325)):  # strips, tiles
        if offsets in tags and counts in tags:
            for start, count in zip(tags[offsets].values, tags[counts].values, strict=False):
                if start + count > len(data):
                    raise _TruncatedError
    first = {name: tags[name].values[0] for name in (258, 262, 274, 277, 338) if name in tags}
    if first.get(277) == 2 and first.get(262) in (0, 1):
        raise _UnsupportedError("grey with transparency is not supported in TIFF files (RGBA or PNG expected)")
    # ExtraSamples (Adobe, 1995): 1 is stored multiplied; 2 is not, but of 8 bit libtiff multiplies it
    multiplied = first.get(338) == 1 or (first.get(338) == 2 and first.get(258) == 8)
    orientation = first.get(274, 1)
    if orientation != 1:
        at = tags[274].position
        data = data[:at] + struct.pack(_byte_order(data) + "H", 1) + data[at + 2 :]
    return _Scan(width, height, data, orientation, multiplied)


@dataclass(frozen=True)
class _Tag:
    """Integer values of a TIFF tag and where they stand in the file."""

    values: tuple[int, ...]
    position: int


_TIFF_TYPES = {1: "B", 3: "H", 4: "I"}  # byte, short, long: the integers


def _byte_order(data: bytes) -> str:
    return "<" if data.startswith(b"II") else ">"


def _tiff_tags(data: bytes) -> dict[int, _Tag]:
    """Integer tags of the first directory of a TIFF or EXIF block (TIFF 6.0, section 2). Raises _TruncatedError."""
    order = _byte_order(data)
    (position,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, position)
    tags: dict[int, _Tag] = {}
    for entry in range(position + 2, position + 2 + 12 * count, 12):
        tag, kind, num = struct.unpack_from(order + "HHI", data, entry)
        if kind not in _TIFF_TYPES or num == 0:
            continue
        size = num * struct.calcsize(_TIFF_TYPES[kind])
        at = entry + 8 if size <= 4 else struct.unpack_from(order + "I", data, entry + 8)[0]
        if at + size > len(data):
            raise _TruncatedError
        tags[tag] = _Tag(struct.unpack_from(f"{order}{num}{_TIFF_TYPES[kind]}", data, at), at)
    return tags


def _exif_orientation(exif: bytes) -> int:
    """Orientation 1..8 of an EXIF block; 1 where it has none or is broken: a picture is more than its metadata."""
    if not exif.startswith((b"II*\0", b"MM\0*")):
        return 1
    try:
        return _tiff_tags(exif)[274].values[0]
    except (KeyError, IndexError, struct.error, _TruncatedError):
        return 1


_SCANNERS = {"JPEG": _scan_jpeg, "PNG": _scan_png, "WebP": _scan_webp, "BMP": _scan_bmp, "TIFF": _scan_tiff}
