"""Crops of a data set, one person each, ready for a training or evaluation loop.

Plain numpy and OpenCV: a class with `__len__` and `__getitem__` is all that a loader needs. Every sample depends only
on (seed, epoch, index), so a run resumed in the middle of an epoch sees the very same crops.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NotRequired, TypedDict

import cv2
import numpy as np
from numpy.typing import NDArray

from ebapose.data.clothes import other_clothes
from ebapose.data.coco import CocoKeypoints
from ebapose.data.occlusion import coarse_dropout, hide, paste, person_mask, put_behind
from ebapose.data.photometric import apply_photometric
from ebapose.data.transforms import AugmentConfig, Geometry, blacken, sample_geometry, transform_keypoints
from ebapose.errors import InputError
from ebapose.geometry.crop import CropCenter, compose, crop_scale, warp_crop
from ebapose.io.pictures import decode_image
from ebapose.structures import UInt8Array

SampleKey = int | tuple[int, int]

# keeps the paste pool's generator apart from those of samples, which are (seed, epoch, index)
_POOL_STREAM = 2**32 - 1
_GENERATION = 16  # epochs that a cut-out stays in the pool


class Sample(TypedDict):
    """One person, cut out. H, W: crop size; K: keypoints.

    Keys:
        image: RGB uint8 (H, W, 3).
        keypoints: (K, 2) float32, crop px; (0, 0) where not labelled. They may lie outside the crop.
        visibility: (K,) uint8, 0 not labelled, 1 hidden (also by augmentation), 2 visible.
        weights: (K,) float32, how much each label counts; 0 where not labelled.
        absent: (K,) bool, which of those that are not labelled are known not to be seen: cut off by augmentation, or
            left out by whoever labels everything that can be seen. (A labelled one outside the crop keeps its place.)
        matrix: (2, 3) float64, image px to crop px.
        index: row of the person in the data set's records.
        source: which data set, where samples come from several.
    """

    image: UInt8Array
    keypoints: NDArray[np.float32]
    visibility: NDArray[np.uint8]
    weights: NDArray[np.float32]
    absent: NDArray[np.bool_]
    matrix: NDArray[np.float64]
    index: int
    source: NotRequired[int]


class CropDataset:
    """Persons of annotated pictures as network inputs.

    Args:
        records: persons to show, usually `load_coco(...).persons()`.
        size_hw: height and width of the crops in px.
        padding, crop_center: see `ebapose.card.InputSpec`.
        augment: random changes; None shows every box as it is.
        seed: with epoch and index it decides every random choice.
        cache_bytes: memory for decoded pictures, per process. Pictures of at most `cache_pixels` pixels are kept until
            it is full. With several workers call `preload()` before they start, so that they share one copy.
        cache_pixels: see `cache_bytes`. Larger JPEGs are decoded at reduced size where the crop allows.
        repeat: so many successive epochs are asked for in turn (`repeat` of a recipe). It changes no sample, only what
            is held in memory.
        complete: whoever labelled the persons has labelled every keypoint that can be seen, or guessed: the others are
            absent.

    Attributes:
        epoch: the epoch of plain integer keys. Workers that live on do not see a change: give them
            (epoch, index) keys instead.
    """

    def __init__(
        self,
        records: CocoKeypoints,
        size_hw: tuple[int, int],
        *,
        padding: float = 1.25,
        crop_center: CropCenter = "symmetric",
        augment: AugmentConfig | None = None,
        seed: int = 0,
        cache_bytes: int = 0,
        cache_pixels: int = 640 * 640,
        repeat: int = 1,
        complete: bool = False,
    ) -> None:
        self.records = records
        self.size_hw = size_hw
        self.padding = padding
        self.crop_center: CropCenter = crop_center
        self.augment = augment
        self.seed = seed
        self.epoch = 0
        self.complete = complete
        self.cache_bytes = cache_bytes
        self.cache_pixels = cache_pixels
        self._cache: dict[int, UInt8Array] = {}
        self._cached_bytes = 0
        self._cache_full = cache_bytes <= 0
        self._pool: dict[int, dict[int, tuple[UInt8Array, UInt8Array]]] = {}  # by slot and generation
        self._generations_between = -(-(repeat - 1) // _GENERATION)
        self._process = -1

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: SampleKey) -> Sample:
        """The sample of an index (in `self.epoch`) or of an (epoch, index) pair.

        Raises:
            InputError: the picture is missing, damaged, or not of the annotated size; the message names the file.
            IndexError: past the end.
        """
        epoch, index = (self.epoch, key) if isinstance(key, int | np.integer) else key
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        # OpenCV's own threads fight with the loader's processes; a forked child would even inherit a dead pool
        if self._process != os.getpid():
            cv2.setNumThreads(0)
            self._process = os.getpid()
        return self._sample(int(epoch), index)

    def try_sample(self, key: SampleKey) -> Sample | InputError:
        """As `self[key]`, but a picture that cannot be used is returned as its error, so that a loop can count and
        skip it."""
        try:
            return self[key]
        except InputError as error:
            return error

    def preload(self, threads: int = 2) -> int:
        """Decode pictures into the cache until it is full; returns how many are kept.

        Pictures that cannot be read are left for `__getitem__` to report.
        """
        rows = np.unique(self.records.image_indices)
        rows = rows[np.prod(self.records.image_hw[rows].astype(np.int64), axis=1) <= self.cache_pixels]
        with ThreadPoolExecutor(threads) as pool:
            for begin in range(0, len(rows), 64):
                if self._cache_full:
                    break
                chunk = [int(row) for row in rows[begin : begin + 64] if int(row) not in self._cache]
                for row, image in zip(chunk, pool.map(self._try_decode, chunk), strict=True):
                    if image is not None:
                        self._remember(row, image)
        return len(self._cache)

    def _try_decode(self, row: int) -> UInt8Array | None:
        height, width = (int(n) for n in self.records.image_hw[row])
        try:
            return decode_reduced(self.records.image_path(row), (height, width), 1)[0]
        except InputError:
            return None

    def _remember(self, row: int, image: UInt8Array) -> None:
        if self._cached_bytes + image.nbytes <= self.cache_bytes:
            self._cache[row] = image
            self._cached_bytes += image.nbytes
        else:
            self._cache_full = True

    def _sample(self, epoch: int, index: int) -> Sample:
        records, config = self.records, self.augment
        keypoints, visibility = records.keypoints[index], records.visibility[index]
        rng = np.random.default_rng((self.seed, epoch, index))
        if config is None:
            geometry = Geometry(records.boxes_xyxy[index].astype(np.float64), 0.0, 1.0, False, (0.0, 0.0))
        else:
            geometry = sample_geometry(records.boxes_xyxy[index], keypoints, visibility, records.skeleton, config, rng)
        crop, matrix = self._crop(index, geometry)
        points, seen, weights = transform_keypoints(
            keypoints, visibility, records.keypoint_weights[index], matrix, records.skeleton, flip=geometry.flip
        )
        absent = (seen == 0) & self.complete
        if geometry.seen_xyxy is not None:
            labelled = seen > 0
            blacken(crop, points, seen, matrix, geometry.seen_xyxy)
            absent |= labelled & (seen == 0)
            weights[seen == 0] = 0
        if config is not None:
            crop = self._cover(crop, points, seen, config, epoch, rng)
            crop = apply_photometric(crop, config.photometric, rng)
        return Sample(
            image=crop, keypoints=points, visibility=seen, weights=weights, absent=absent, matrix=matrix, index=index
        )

    def _crop(self, index: int, geometry: Geometry) -> tuple[UInt8Array, NDArray[np.float64]]:
        """RGB crop and its image to crop matrix."""
        matrix = geometry.matrix(self.size_hw, self.padding, self.crop_center)
        image, factor = self._read(int(self.records.image_indices[index]), float(crop_scale(matrix)))
        whole = matrix if factor == 1 else compose(matrix, _reduced_to_image(factor))
        return warp_crop(image, whole, self.size_hw), matrix

    def _cover(
        self,
        crop: UInt8Array,
        keypoints: NDArray[np.float32],
        visibility: NDArray[np.uint8],
        config: AugmentConfig,
        epoch: int,
        rng: np.random.Generator,
    ) -> UInt8Array:
        pasting, dropping = rng.random(2)
        if config.clothes_probability and rng.random() < config.clothes_probability:
            cloth = self._cutout(int(rng.integers(config.paste_pool)), epoch)[0]
            other_clothes(crop, keypoints, visibility, self.records.skeleton, cloth, rng)
        if config.background_probability and rng.random() < config.background_probability:
            own = person_mask(keypoints, visibility, self.records.skeleton, self.size_hw)
            put_behind(crop, own, *self._cutout(int(rng.integers(config.paste_pool)), epoch), rng)
        if pasting < config.paste_probability:
            hide(keypoints, visibility, paste(crop, *self._cutout(int(rng.integers(config.paste_pool)), epoch), rng))
        if dropping < config.dropout_probability:
            hide(keypoints, visibility, coarse_dropout(crop, config, rng))
        return crop

    def _cutout(self, slot: int, epoch: int) -> tuple[UInt8Array, UInt8Array]:
        """Cut-out number `slot` of the epoch's pool: crop (H, W, 3) and silhouette (H, W).

        Who stands in the pool follows from (seed, epoch) alone, so what a worker happens to hold in memory changes
        nothing. From one epoch to the next a sixteenth of the pool is exchanged; where several epochs are shown in
        turn, what was exchanged within them is kept.
        """
        generation = (epoch + slot) // _GENERATION
        held = self._pool.get(slot, {})
        if generation not in held:
            records = self.records
            index = int(np.random.default_rng((self.seed, _POOL_STREAM, generation, slot)).integers(len(records)))
            plain = Geometry(records.boxes_xyxy[index].astype(np.float64), 0.0, 1.0, False, (0.0, 0.0))
            try:
                crop, matrix = self._crop(index, plain)
            except InputError:  # the person's own turn reports it; an occluder more or less does not matter
                crop, matrix = np.zeros((*self.size_hw, 3), np.uint8), np.eye(2, 3)
            points, seen, _ = transform_keypoints(
                records.keypoints[index],
                records.visibility[index],
                records.keypoint_weights[index],
                matrix,
                records.skeleton,
                flip=False,
            )
            reach = self._generations_between
            held = {other: cutout for other, cutout in held.items() if abs(other - generation) <= reach}
            held[generation] = crop, person_mask(points, seen, records.skeleton, self.size_hw)
            self._pool[slot] = held
        return held[generation]

    def _read(self, row: int, scale: float) -> tuple[UInt8Array, int]:
        """RGB picture of image number `row`, and how many times smaller than annotated it is (1, 2, 4 or 8).

        `scale`: crop px per image px; a picture is never shrunk so far that the crop would enlarge it.
        """
        if row in self._cache:
            return self._cache[row], 1
        path = self.records.image_path(row)
        height, width = (int(n) for n in self.records.image_hw[row])
        keep = self.cache_bytes > 0 and height * width <= self.cache_pixels
        image, factor = decode_reduced(path, (height, width), 1 if keep else int(1 / max(scale, 1e-9)))
        if keep:
            self._remember(row, image)
        return image, factor


def decode_reduced(path: Path, image_hw: tuple[int, int], at_most: int) -> tuple[UInt8Array, int]:
    """Decode a picture, a JPEG possibly at 1/2, 1/4 or 1/8 of its size (which is cheaper and free of aliasing).

    Args:
        path: the file.
        image_hw: its annotated height and width in px, after EXIF rotation.
        at_most: largest allowed reduction.

    Returns:
        RGB uint8 picture and its reduction (see `io.pictures.decode_image`).

    Raises:
        InputError: missing, damaged, or not of the annotated size.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    wanted = max(d for d in (1, 2, 4, 8) if d <= max(at_most, 1))
    image = decode_image(data, str(path), reduce=wanted)
    for factor in (wanted, 1):
        if image.shape[:2] == (-(-image_hw[0] // factor), -(-image_hw[1] // factor)):
            return image, factor
    height, width = decode_image(data, str(path)).shape[:2]
    raise InputError(f"{path}: the picture is {width}x{height}, annotated as {image_hw[1]}x{image_hw[0]}")


def _reduced_to_image(factor: int) -> NDArray[np.float64]:
    offset = (factor - 1) / 2
    return np.array([[factor, 0, offset], [0, factor, offset]], np.float64)
