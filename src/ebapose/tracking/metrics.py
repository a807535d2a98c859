"""How good tracks are, where the true ones are known: MOTA (CLEAR), IDF1 and HOTA, as their authors define them.

MOTA: Bernardin and Stiefelhagen 2008. IDF1: Ristani et al. 2016. HOTA: Luiten et al. 2021, mean over the thresholds
0.05 to 0.95. MOTA and IDF1 take a pair for right from a similarity of 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ebapose.tracking.assignment import assign

Float64Array = NDArray[np.float64]
Match = tuple[Sequence[int], Sequence[int], Float64Array]

_ALPHAS = np.arange(0.05, 0.99, 0.05)
_EPS = np.finfo(float).eps
_THRESHOLD = 0.5


@dataclass(frozen=True)
class TrackingScores:
    """All shares in 0..1 (MOTA may be negative); counts over all frames.

    Attributes:
        switches: a true person's track id changed.
        misses: true persons without a track. false: tracks without a true person.
        deta, assa: HOTA's two parts: finding persons, keeping identities.
    """

    mota: float
    idf1: float
    hota: float
    deta: float
    assa: float
    switches: int
    misses: int
    false: int


def score_tracks(frames: Iterable[Match]) -> TrackingScores:
    """Compare tracks with the truth.

    Args:
        frames: for every frame the true identities (T), the track ids (N), and the similarity (T, N) of their boxes or
            poses in 0..1 (IoU or OKS). Every identity occurs at most once in a frame.
    """
    frames = list(frames)
    truth_index = {identity: i for i, identity in enumerate(sorted({t for truth, _, _ in frames for t in truth}))}
    track_index = {identity: i for i, identity in enumerate(sorted({t for _, tracks, _ in frames for t in tracks}))}
    indexed = [
        (
            np.array([truth_index[t] for t in truth], dtype=np.intp),
            np.array([track_index[t] for t in tracks], dtype=np.intp),
            np.asarray(similarity, np.float64).reshape(len(truth), len(tracks)),
        )
        for truth, tracks, similarity in frames
    ]
    truths = np.zeros(len(truth_index))
    tracks = np.zeros(len(track_index))
    for t, n, _ in indexed:
        truths[t] += 1
        tracks[n] += 1
    mota, switches, misses, false = _clear(indexed, len(truth_index))
    hota, deta, assa = _hota(indexed, truths, tracks)
    return TrackingScores(mota, _idf1(indexed, truths, tracks), hota, deta, assa, switches, misses, false)


_Indexed = tuple[NDArray[np.intp], NDArray[np.intp], Float64Array]


def _clear(frames: list[_Indexed], num_truths: int) -> tuple[float, int, int, int]:
    last = np.full(num_truths, -1)  # track that a person had when last found
    before = np.full(num_truths, -1)  # track that a person had one frame ago
    hits = switches = misses = false = 0
    for truth, tracks, similarity in frames:
        weight = np.where(similarity >= _THRESHOLD - _EPS, similarity + 1000 * (before[truth][:, None] == tracks), 0)
        pairs = [(t, n) for t, n in assign(-weight, 0.0) if weight[t, n] > 0]
        before[:] = -1
        for t, n in pairs:
            switches += last[truth[t]] not in (-1, tracks[n])
            last[truth[t]] = before[truth[t]] = tracks[n]
        hits += len(pairs)
        misses += len(truth) - len(pairs)
        false += len(tracks) - len(pairs)
    return (hits - false - switches) / max(1, hits + misses), switches, misses, false


def _idf1(frames: list[_Indexed], truths: Float64Array, tracks: Float64Array) -> float:
    together = np.zeros((len(truths), len(tracks)))
    for truth, track, similarity in frames:
        together[np.ix_(truth, track)] += similarity >= _THRESHOLD - _EPS
    right = sum(together[t, n] for t, n in assign(-together, 0.0))
    return float(2 * right / max(1, truths.sum() + tracks.sum()))


def _hota(frames: list[_Indexed], truths: Float64Array, tracks: Float64Array) -> tuple[float, float, float]:
    potential = np.zeros((len(truths), len(tracks)))
    for truth, track, similarity in frames:
        either = similarity.sum(axis=0) + similarity.sum(axis=1, keepdims=True) - similarity
        potential[np.ix_(truth, track)] += np.where(either > _EPS, similarity / np.maximum(either, _EPS), 0)
    either = truths[:, None] + tracks - potential
    alignment = potential / np.maximum(either, 1)

    hits = np.zeros(len(_ALPHAS))
    together = np.zeros((len(_ALPHAS), len(truths), len(tracks)))
    for truth, track, similarity in frames:
        for t, n in assign(-alignment[np.ix_(truth, track)] * similarity, 0.0):
            right = similarity[t, n] >= _ALPHAS - _EPS
            hits += right
            together[:, truth[t], track[n]] += right
    association = together / np.maximum(1, truths[:, None] + tracks - together)
    assa = (together * association).sum(axis=(1, 2)) / np.maximum(1, hits)
    deta = hits / np.maximum(1, truths.sum() + tracks.sum() - hits)
    return float(np.sqrt(deta * assa).mean()), float(deta.mean()), float(assa.mean())
