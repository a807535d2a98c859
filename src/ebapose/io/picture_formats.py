"""The structure of picture files: what their bytes say of size, completeness and orientation before they are decoded.

Adding a new format: write a `_scan_FORMAT` that returns a `Scan`, name its signature in `format_of`, and add it to
`SCANNERS`.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

MAX_PIXELS = 178_956_970  # as the commonest Python picture library: 512 MiB of RGB; a decoded picture beyond is refused

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Scan:
    """What a file's structure says: size in px, EXIF orientation 1..8, and the bytes to hand to the decoder.

    `multiplied`: the decoder gives colours that are multiplied by their opacity.
    """

    width: int
    height: int
    data: bytes
    orientation: int = 1
    multiplied: bool = False


class TruncatedError(Exception):
    """The file ends before its picture does."""


class DamagedError(Exception):
    """The file's structure is wrong; the text says where."""


class UnsupportedError(Exception):
    """A picture of a kind that OpenCV does not read as it is meant."""


def format_of(data: bytes) -> str | None:
    """Name of a picture file's format by its signature; None for anything that is not a known picture."""
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


def _scan_jpeg(data: bytes) -> Scan:
    """Walk the segments to the end-of-image marker (ITU T.81, annex B); without it the file is truncated."""
    width = height = 0
    orientation = 1
    position = 2
    while True:
        position = data.find(b"\xff", position)
        if position < 0:
            raise TruncatedError
        while data[position] == 0xFF:
            position += 1
        marker = data[position]
        position += 1
        if marker == 0xD9:
            return Scan(width, height, data, orientation)
        if marker <= 0x01 or 0xD0 <= marker <= 0xD8:
            continue
        (length,) = struct.unpack_from(">H", data, position)
        if length < 2:
            raise DamagedError("a segment has no length")
        end = position + length
        if end > len(data):
            raise TruncatedError
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, position + 3)
            if width * height > MAX_PIXELS:
                return Scan(width, height, data)
        elif marker == 0xE1 and data[position + 2 : position + 8] == b"Exif\0\0":
            orientation = _exif_orientation(data[position + 8 : end])
        elif marker == 0xDA:
            found = _NEXT_MARKER.search(data, end)
            if found is None:
                raise TruncatedError
            end = found.start()
        position = end


def _scan_png(data: bytes) -> Scan:
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
            raise TruncatedError
        body = view[position + 8 : end - 4]
        if name in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            if zlib.crc32(body, zlib.crc32(name)) != int.from_bytes(view[end - 4 : end], "big"):
                raise DamagedError(f"checksum of {name.decode()} is wrong")
            kept.append(view[position:end])
        if position == 8:
            if name != b"IHDR" or length != 13:
                raise DamagedError("it does not begin with a header")
            width, height = struct.unpack_from(">II", body)
            if width * height > MAX_PIXELS:
                return Scan(width, height, data)
        elif name == b"eXIf":
            orientation = _exif_orientation(bytes(body))
        elif name == b"IEND":
            return Scan(width, height, b"".join(kept), orientation)
        position = end


def _scan_webp(data: bytes) -> Scan:
    """Walk the RIFF chunks (WebP container specification); size from the first of VP8X, VP8L and VP8."""
    end = struct.unpack_from("<I", data, 4)[0] + 8
    if end > len(data):
        raise TruncatedError
    width = height = 0
    orientation = 1
    position = 12
    while position + 8 <= end:
        name, length = struct.unpack_from("<4sI", data, position)
        start = position + 8
        if start + length > end:
            raise TruncatedError
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
    return Scan(width, height, data, orientation)


def _scan_bmp(data: bytes) -> Scan:
    """Size from the core (12 bytes) or info header; uncompressed pixels must all be there."""
    offset, header = struct.unpack_from("<II", data, 10)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif header >= 40:
        width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
        height = abs(height)  # negative: rows from the top
    else:
        raise DamagedError("unknown header")
    if compression in (0, 3) and 0 < width * height <= MAX_PIXELS:
        stride = (width * bits + 31) // 32 * 4
        if offset + stride * height > len(data):
            raise TruncatedError
    return Scan(width, height, data)


def _scan_tiff(data: bytes) -> Scan:
    """First page of a TIFF; every strip or tile must be there. The orientation is taken out of the decoder's hands."""
    tags = _tiff_tags(data)
    try:
        width, height = tags[256].values[0], tags[257].values[0]
    except KeyError:
        raise DamagedError("it has no size") from None
    for offsets, counts in ((273, 279), (324, 325)):  # strips, tiles
        if offsets in tags and counts in tags:
            for start, count in zip(tags[offsets].values, tags[counts].values, strict=False):
                if start + count > len(data):
                    raise TruncatedError
    first = {name: tags[name].values[0] for name in (258, 262, 274, 277, 338) if name in tags}
    if first.get(277) == 2 and first.get(262) in (0, 1):
        raise UnsupportedError("grey with transparency is not supported in TIFF files (RGBA or PNG expected)")
    # ExtraSamples (Adobe, 1995): 1 is stored multiplied; 2 is not, but of 8 bit libtiff multiplies it
    multiplied = first.get(338) == 1 or (first.get(338) == 2 and first.get(258) == 8)
    orientation = first.get(274, 1)
    if orientation != 1:
        at = tags[274].position
        data = data[:at] + struct.pack(_byte_order(data) + "H", 1) + data[at + 2 :]
    return Scan(width, height, data, orientation, multiplied)


@dataclass(frozen=True)
class _Tag:
    """Integer values of a TIFF tag and where they stand in the file."""

    values: tuple[int, ...]
    position: int


_TIFF_TYPES = {1: "B", 3: "H", 4: "I"}  # byte, short, long: the integers


def _byte_order(data: bytes) -> str:
    return "<" if data.startswith(b"II") else ">"


def _tiff_tags(data: bytes) -> dict[int, _Tag]:
    """Integer tags of the first directory of a TIFF or EXIF block (TIFF 6.0, section 2). Raises TruncatedError."""
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
            raise TruncatedError
        tags[tag] = _Tag(struct.unpack_from(f"{order}{num}{_TIFF_TYPES[kind]}", data, at), at)
    return tags


def _exif_orientation(exif: bytes) -> int:
    """Orientation 1..8 of an EXIF block; 1 where it has none or is broken: a picture is more than its metadata."""
    if not exif.startswith((b"II*\0", b"MM\0*")):
        return 1
    try:
        return _tiff_tags(exif)[274].values[0]
    except (KeyError, IndexError, struct.error, TruncatedError):
        return 1


# Names of `format_of` -> what reads the bytes of a whole file; raises the errors above, struct.error or IndexError
SCANNERS = {"JPEG": _scan_jpeg, "PNG": _scan_png, "WebP": _scan_webp, "BMP": _scan_bmp, "TIFF": _scan_tiff}
