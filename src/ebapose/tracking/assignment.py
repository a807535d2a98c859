"""The assignment problem: which detection belongs to which track, best for all of them together."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def assign(costs: ArrayLike, max_cost: float) -> list[tuple[int, int]]:
    """Pairs (row, column) of the least total cost; pairs that cost more than `max_cost` stay apart.

    Exact: shortest augmenting paths with potentials (Jonker and Volgenant 1987), O(n^3), for the few persons of a
    picture. Being left alone costs `max_cost`, so a cheap pair is never given up for two dear ones.

    Args:
        costs: (R, C), finite.
        max_cost: of a pair that is still allowed.
    """
    given = np.asarray(costs, dtype=np.float64)
    rows, columns = given.shape
    # Each row also gets a column of its own, for staying alone.
    padded = np.full((rows, columns + rows), max_cost)
    padded[:, :columns] = np.minimum(given, max_cost + 1)
    row_of = _least_cost_rows(padded)
    return sorted((int(row_of[c]), c) for c in range(columns) if row_of[c] >= 0 and given[row_of[c], c] <= max_cost)


def _least_cost_rows(costs: NDArray[np.float64]) -> NDArray[np.intp]:
    """(C,) row of every column, -1 for none, for (R, C) costs with R <= C."""
    rows, columns = costs.shape
    row_potential, column_potential = np.zeros(rows), np.zeros(columns)
    row_of = np.full(columns, -1, dtype=np.intp)
    for start in range(rows):
        distance = np.full(columns, np.inf)
        before = np.full(columns, -1, dtype=np.intp)  # the column before, on the shortest path to a column
        done = np.zeros(columns, dtype=bool)
        row, column = start, -1
        reached = 0.0
        while True:
            through = reached + costs[row] - row_potential[row] - column_potential
            shorter = ~done & (through < distance)
            distance[shorter], before[shorter] = through[shorter], column
            column = int(np.argmin(np.where(done, np.inf, distance)))
            reached = distance[column]
            done[column] = True
            if row_of[column] < 0:
                break
            row = int(row_of[column])
        settled = np.flatnonzero(done)
        for c in settled:
            if row_of[c] >= 0:
                row_potential[row_of[c]] += reached - distance[c]
        row_potential[start] += reached
        column_potential[settled] -= reached - distance[settled]
        while column >= 0:  # shift the rows along the path
            previous = int(before[column])
            row_of[column] = start if previous < 0 else row_of[previous]
            column = previous
    return row_of
