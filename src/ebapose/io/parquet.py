"""Rows of a table as a Parquet file that can be read in the end, also where the disk was full."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ebapose.errors import MissingDependencyError

_ROWS_PER_GROUP = 20_000  # what is held in memory
_FOOTER_BYTES = 4096  # more than what the end of a Parquet file says of one row group, or of the schema


class ParquetRows:
    """Row groups, and at the end what makes them readable; the room for both is reserved before a group is written.

    Args:
        path: made, or emptied if it is there. It cannot be read before `finish`.
        columns: name -> Arrow type ("int64", "string"); float64 where there is none.

    Raises:
        MissingDependencyError: pyarrow is not installed.
        OSError: the file cannot be made.
    """

    def __init__(self, path: Path, columns: Mapping[str, str | None]) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ImportError:
            raise MissingDependencyError("pyarrow", "tables", "Parquet output") from None
        self._names = tuple(columns)
        self._schema = pa.schema([(name, pa.type_for_alias(kind or "float64")) for name, kind in columns.items()])
        self._table_of = pa.table
        self._rows: list[tuple[Any, ...]] = []
        self._groups = 0
        self._file = path.open("wb", buffering=0)
        self._writer = parquet.ParquetWriter(self._file, self._schema)

    def append(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """Add rows, values in the order of the columns. Raises OSError; the rows may be tried again by `finish`."""
        self._rows += rows
        if len(self._rows) >= _ROWS_PER_GROUP:
            self._flush(len(self._rows))

    def _flush(self, count: int) -> None:
        # taken out first: an interruption may lose a row group but never doubles one
        rows, self._rows = self._rows[:count], self._rows[count:]
        try:
            columns = dict(zip(self._names, zip(*rows, strict=True), strict=True))
            table = self._table_of(columns, schema=self._schema)
            self._reserve(2 * table.nbytes + _FOOTER_BYTES * (self._groups + 2))
            self._writer.write_table(table)
            self._groups += 1
        except OSError:
            self._rows = rows + self._rows
            raise

    def _reserve(self, room: int) -> None:
        """Half a row group would make the file unreadable for good. Raises OSError where there is no room."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._file.fileno(), self._file.tell(), room)

    def finish(self) -> OSError | None:
        """Complete the file and close it.

        Returns:
            None, or what kept the newest rows out of a file that can be read nevertheless.

        Raises:
            OSError: it cannot be completed, and so not be read, or there was no room for a single row.
        """
        with self._file:
            count, failure = len(self._rows), None
            while self._rows and count:
                try:
                    self._flush(count)
                    count = min(count, len(self._rows))
                except OSError as error:
                    count, failure = count // 2, error
            self._writer.close()
            self._file.truncate()
        if failure is not None and not self._groups:
            raise failure
        return failure

    def abandon(self) -> None:
        """Close the file as it is."""
        with contextlib.suppress(OSError):
            self._writer.close()
        self._file.close()
