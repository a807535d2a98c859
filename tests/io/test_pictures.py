"""Every format and mode becomes the same upright RGB; the rest is refused in one line that names file and cause."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebapose.errors import InputError
from ebapose.io.pictures import decode_image, encode_picture, read_image

FIXTURES = Path(__file__).parent / "fixtures"
H, W = 24, 40


def picture() -> np.ndarray:
    """Smooth RGB uint8 (H, W, 3) whose four corners differ, so that every orientation is told apart."""
    y, x = np.mgrid[0:H, 0:W]
    return np.stack([x * 6, y * 10, 255 - x * 3 - y * 5], axis=-1).astype(np.uint8)


def encode(suffix: str, image: np.ndarray, *params: int) -> bytes:
    """Bytes of an RGB(A) or grey picture."""
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA if image.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(suffix, image, list(params))
    assert done
    return data.tobytes()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand: `rows` are the filtered scan lines."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def exif(orientation: int, order: str = "<") -> bytes:
    """An EXIF block with nothing but the orientation."""
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(order + "IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)


def with_exif(suffix: str, data: bytes, orientation: int) -> bytes:
    """The same file with an orientation: APP1, eXIf or EXIF chunk, or the TIFF's own tag."""
    if suffix == ".jpg":
        block = b"Exif\0\0" + exif(orientation, ">")
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
    block = exif(orientation)
    if suffix == ".png":
        chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
        return data[:33] + chunk + data[33:]
    if suffix == ".webp":  # the extended container: VP8X, the picture, EXIF
        size = struct.pack("<I", W - 1)[:3] + struct.pack("<I", H - 1)[:3]
        extended = b"VP8X" + struct.pack("<IB3x", 10, 8) + size
        body = b"WEBP" + extended + data[12:] + b"EXIF" + struct.pack("<I", len(block)) + block
        return b"RIFF" + struct.pack("<I", len(body)) + body
    return tiff(picture(), orientation=orientation)


def tiff(image: np.ndarray, orientation: int = 1, order: str = "<", extra: int | None = None) -> bytes:
    """An uncompressed RGB(A) or grey TIFF by hand, because OpenCV writes no orientation and no kind of alpha."""
    height, width, channels = image.shape
    bits_at = 8 + 2 + (11 if extra is not None else 10) * 12 + 4
    pixels_at = bits_at + 2 * channels
    tags = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, bits_at) if channels > 2 else (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 2 if channels > 2 else 1),
        (273, 4, 1, pixels_at),
        (274, 3, 1, orientation),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, image.nbytes),
        *([] if extra is None else [(338, 3, 1, extra)]),
    ]
    data = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    for tag, kind, num, value in tags:
        short = kind == 3 and num == 1
        packed = struct.pack(order + "HH", value, 0) if short else struct.pack(order + "I", value)
        data += struct.pack(order + "HHI", tag, kind, num) + packed
    return (
        data
        + struct.pack(order + "I", 0)
        + struct.pack(f"{order}{channels}H", *[8 * image.itemsize] * channels)
        + image.tobytes()
    )


def oriented(image: np.ndarray, orientation: int) -> np.ndarray:
    """How EXIF says a stored picture is to be shown, in numpy's own words."""
    return {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: np.rot90,
    }[orientation](image)


LOSSLESS = [".png", ".bmp", ".tiff"]


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".webp", ".jpg"])
def test_rgb(suffix: str) -> None:
    image = decode_image(encode(suffix, picture()))
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_allclose(image.astype(int), picture(), atol=0 if suffix in LOSSLESS else 12)


def test_lossy_webp() -> None:
    image = decode_image(encode(".webp", picture(), cv2.IMWRITE_WEBP_QUALITY, 95))
    np.testing.assert_allclose(image.astype(int), picture(), atol=20)


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".webp", ".jpg"])
def test_grey_becomes_three_equal_channels(suffix: str) -> None:
    grey = picture()[:, :, 0]
    image = decode_image(encode(suffix, grey)).astype(int)
    np.testing.assert_allclose(
        image.astype(int), np.repeat(grey[:, :, None], 3, axis=2), atol=0 if suffix in LOSSLESS else 8
    )


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bit_is_scaled_over_the_full_range(suffix: str) -> None:
    wide = picture().astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_image(encode(suffix, wide)), picture())
    np.testing.assert_array_equal(decode_image(encode(suffix, wide[:, :, 0]))[:, :, 2], picture()[:, :, 0])
    assert decode_image(encode(suffix, np.full((4, 4), 65535, np.uint16))).min() == 255


@pytest.mark.parametrize(("suffix", "depth"), [(".png", 8), (".png", 16), (".tiff", 8), (".webp", 8)])
def test_transparency_is_composited_on_white(suffix: str, depth: int) -> None:
    image = np.zeros((2, 3, 4), np.uint8)
    image[..., :3] = (200, 100, 0)
    image[..., 3] = [[0, 128, 255]] * 2
    stored = image.astype(np.uint16) * 257 if depth == 16 else image
    params = (cv2.IMWRITE_WEBP_QUALITY, 101) if suffix == ".webp" else ()  # above 100: lossless
    found = decode_image(encode(suffix, stored, *params))[0]
    np.testing.assert_allclose(found.astype(int), [[255, 255, 255], [227, 177, 127], [200, 100, 0]], atol=1)


@pytest.mark.parametrize(
    ("extra", "depth", "white"), [(0, 8, 227), (1, 8, 255), (2, 8, 227), (1, 16, 255), (2, 16, 227)]
)
def test_tiff_says_whether_colours_are_multiplied_by_alpha(extra: int, depth: int, white: int) -> None:
    image = np.full((6, 8, 4), 200, np.uint8)
    image[:, :, 3] = 128
    stored = image if depth == 8 else image.astype(np.uint16) * 257
    np.testing.assert_allclose(decode_image(tiff(stored, extra=extra)), white, atol=1)


def test_grey_tiff_with_alpha_is_refused() -> None:
    with pytest.raises(InputError, match=r"x\.tif: grey with transparency is not supported in TIFF files"):
        decode_image(tiff(np.full((6, 8, 2), 200, np.uint8), extra=2), "x.tif")


def test_palette_with_and_without_transparency() -> None:
    rows = b"\0\x00\x01\0\x01\x00"
    palette = (b"PLTE", bytes([255, 0, 0, 0, 0, 255]))
    red, blue, white = [255, 0, 0], [0, 0, 255], [255, 255, 255]
    assert decode_image(png(2, 2, 8, 3, rows, palette)).tolist() == [[red, blue], [blue, red]]
    clear = decode_image(png(2, 2, 8, 3, rows, palette, (b"tRNS", b"\0")))
    assert clear.tolist() == [[white, blue], [blue, white]]


def test_one_bit_and_grey_with_alpha() -> None:
    assert decode_image(png(8, 1, 1, 0, b"\0\xaa"))[0, :, 1].tolist() == [255, 0] * 4
    assert decode_image(png(2, 1, 8, 4, b"\0\x64\x00\x64\xff"))[0, :, 0].tolist() == [255, 100]


def test_cmyk_jpeg() -> None:
    image = read_image(FIXTURES / "cmyk.jpg").image
    patches = [image[8, 8], image[8, 40], image[24, 8], image[24, 40]]
    np.testing.assert_allclose(patches, [(220, 30, 40), (30, 200, 60), (20, 60, 210), (240, 230, 220)], atol=6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
def test_orientation_is_obeyed(suffix: str, orientation: int) -> None:
    data = with_exif(suffix, encode(suffix, picture()), orientation)
    expected = oriented(picture(), orientation)
    image = decode_image(data)
    assert image.shape == expected.shape
    np.testing.assert_allclose(image.astype(int), expected, atol=0 if suffix in LOSSLESS else 12)


def test_big_endian_tiff() -> None:
    np.testing.assert_array_equal(decode_image(tiff(picture(), 6, ">")), oriented(picture(), 6))


@pytest.mark.parametrize("broken", [exif(9), exif(0), b"II*\0\xff\xff\xff\xff", b"II*\0", b"junk"])
def test_broken_exif_does_not_cost_the_picture(broken: bytes) -> None:
    block = b"Exif\0\0" + broken
    data = encode(".jpg", picture())
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]
    assert decode_image(data).shape == (H, W, 3)


def test_damaged_ancillary_chunks_do_not_cost_the_picture(capfd: pytest.CaptureFixture[str]) -> None:
    data = png(2, 1, 8, 0, b"\0\x05\x06", (b"iCCP", b"bad\0\0bad"), (b"gAMA", b"xx"))
    assert decode_image(data)[0, :, 0].tolist() == [5, 6]
    assert capfd.readouterr() == ("", "")


def test_data_behind_the_picture_is_ignored() -> None:
    assert decode_image(encode(".jpg", picture()) + b"motion photo" * 100).shape == (H, W, 3)
    assert decode_image(encode(".png", picture()) + b"\0" * 100).shape == (H, W, 3)


def large_picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
def test_truncated(suffix: str, keep: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = encode(suffix, large_picture())
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(InputError, match=rf"cut\{suffix}: truncated \w+ file \(\d+ bytes\)"):
        read_image(path)
    assert capfd.readouterr() == ("", "")  # nothing of OpenCV's own on the terminal


def test_truncated_progressive_jpeg_and_zero_filled_rest() -> None:
    data = encode(".jpg", large_picture(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    assert decode_image(data).shape == (64, 64, 3)
    for cut in (data[: len(data) // 2], data[: len(data) // 2] + bytes(len(data) // 2), data[:-2]):
        with pytest.raises(InputError, match="truncated JPEG"):
            decode_image(cut)


@pytest.mark.parametrize("params", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 3)])
def test_a_jpeg_that_lost_data_before_its_end(
    params: tuple[int, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = encode(".jpg", large_picture(), *params)
    path = tmp_path / "hole.jpg"
    path.write_bytes(data[: len(data) * 4 // 5] + b"\xff\xd9")
    with pytest.raises(InputError, match=r"hole\.jpg: damaged JPEG file \(.+\)"):
        read_image(path)
    assert capfd.readouterr() == ("", "")


def test_bytes_too_many_do_not_cost_the_picture(capfd: pytest.CaptureFixture[str]) -> None:
    data = encode(".jpg", large_picture())
    padded = decode_image(data[:-2] + b"abc" + data[-2:])
    np.testing.assert_array_equal(padded, decode_image(data))
    assert capfd.readouterr() == ("", "")


def test_damaged() -> None:
    data = bytearray(encode(".png", large_picture()))
    data[len(data) // 2] ^= 255
    with pytest.raises(InputError, match=r"damaged PNG file \(checksum of IDAT is wrong\)"):
        decode_image(bytes(data), "x.png")
    with pytest.raises(InputError, match="damaged PNG file"):
        decode_image(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(InputError, match="damaged JPEG file"):
        decode_image(b"\xff\xd8\xff\xe0\0\0" + bytes(100))
    with pytest.raises(InputError, match="damaged or unsupported JPEG file"):
        decode_image(b"\xff\xd8\xff\xc0\0\x0b\x08\0\x10\0\x10\x01\x01\x11\0\xff\xd9")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tiff"])
def test_decompression_bombs_are_refused_by_their_header(suffix: str) -> None:
    data = bytearray(encode(suffix, picture()))
    side = 60_000 if suffix != ".webp" else 16_383
    if suffix == ".jpg":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", side, side)
    elif suffix == ".png":
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    elif suffix == ".bmp":
        data[18:26] = struct.pack("<ii", side, -side)
    elif suffix == ".webp":
        data = bytearray(encode(suffix, picture(), cv2.IMWRITE_WEBP_QUALITY, 80))
        at = data.index(b"\x9d\x01\x2a") + 3
        data[at : at + 4] = struct.pack("<HH", side, side)
    else:
        data = bytearray(tiff(picture()))
        for tag in (256, 257):
            at = data.index(struct.pack("<HHI", tag, 4, 1)) + 8
            data[at : at + 4] = struct.pack("<I", side)
    with pytest.raises(InputError, match=rf"bomb: {side}x{side} px is too large \(at most 178 million px\)"):
        decode_image(bytes(data), "bomb")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty"),
        (b"hello, this is a text", "not a picture that can be read (JPEG, PNG, WebP, BMP or TIFF expected)"),
        (bytes(5000), "not a picture that can be read"),
        (b"GIF89a" + bytes(50), "GIF pictures are not supported"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "HEIC pictures are not supported"),
        (b"\0\0\0\x18ftypavif" + bytes(50), "AVIF pictures are not supported"),
        (b"\0\0\0\x18ftypisom" + bytes(50), "not a picture that can be read"),
        (b"II+\0" + bytes(50), "BigTIFF pictures are not supported"),
        (png(0, 5, 8, 0, b""), "the picture has no pixels (0x5)"),
    ],
)
def test_not_a_picture(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "file.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_image(path)
    assert str(error.value).startswith(f"{path}: {why}")
    assert "\n" not in str(error.value)


def test_float_samples_are_refused() -> None:
    with pytest.raises(InputError, match="float32 samples are not supported"):
        decode_image(encode(".tiff", np.zeros((4, 4), np.float32)), "x")


def test_unreadable_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"none\.jpg: no such file"):
        read_image(tmp_path / "none.jpg")
    with pytest.raises(InputError, match="is a folder, not a picture"):
        read_image(tmp_path)
    with pytest.raises(InputError, match="not a path"):
        read_image("a\0b.jpg")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "secret.jpg"
    path.write_bytes(encode(".jpg", picture()))
    monkeypatch.setattr(Path, "open", refuse)  # a mode of 000 does not stop root
    with pytest.raises(InputError, match=r"secret\.jpg: no permission to read it"):
        read_image(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InputError, match=r"pipe\.jpg: not a regular file"):
        read_image(tmp_path / "pipe.jpg")


def test_the_suffix_does_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "really_png.jpg"
    path.write_bytes(encode(".png", picture()))
    np.testing.assert_array_equal(read_image(path).image, picture())


@given(st.sampled_from([".jpg", ".png", ".webp", ".bmp", ".tiff"]), st.data())
def test_random_damage_is_an_input_error_or_a_picture(suffix: str, data: st.DataObject) -> None:
    """Whatever is flipped or cut: never another exception."""
    damaged = bytearray(encode(suffix, picture()))
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = decode_image(bytes(damaged[: data.draw(st.integers(1, len(damaged)))]))
    except InputError:
        return
    assert image.dtype == np.uint8
    assert image.shape[2] == 3


@pytest.mark.parametrize("orientation", [3, 6])
def test_turned_jpegs_come_at_full_size(orientation: int) -> None:
    """A mirrored or turned JPEG comes at full size: its reduced px would be counted from the other end."""
    data = with_exif(".jpg", encode_picture(np.full((31, 45, 3), 90, np.uint8)), orientation)
    assert decode_image(data, reduce=2).shape == decode_image(data).shape
