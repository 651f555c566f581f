"""The numbers that a run logs: a Parquet file, and TensorBoard's record of the same."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa
from pyarrow import parquet
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from metarl_lib.files import cannot_write, damaged, write_atomically

SCHEMA = pa.schema([("step", pa.int64()), ("name", pa.string()), ("value", pa.float64())])

Number = tuple[int, str, float]


class Metrics:
    """All rows `(step, name, value)` of one run, and what of them is on the disk.

    Rows that a stage logs wait for its next checkpoint. If they counted before, with another
    stage's, a run that is killed then would log them a second time.

    Attributes:
        rows: what counts with the next `save` of the run.
        waiting: what waits for the checkpoint of the stage of this name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[Number] = []
        self.waiting: dict[str, list[Number]] = {}
        self._sha256 = hashlib.sha256()
        self._hashed = self._in_parquet = self._in_events = 0
        self._events: EventFile | None = None

    def release(self, *stages: str) -> None:
        """Let what waits for these stages count."""
        for name in stages:
            self.rows += self.waiting.pop(name, [])

    def frame(self) -> pd.DataFrame:
        """Everything logged so far, as columns `step`, `name`, `value`."""
        rows = [*self.rows, *(row for rows in self.waiting.values() for row in rows)]
        return pd.DataFrame(rows, columns=SCHEMA.names)

    def sha256(self) -> str:
        """A fingerprint of all rows that count."""
        for row in self.rows[self._hashed :]:
            self._sha256.update(repr(row).encode())
        self._hashed = len(self.rows)
        return self._sha256.hexdigest()

    def write(self, *, sync: bool) -> None:
        """Write `metrics.parquet`, when it lacks something.

        Raises:
            StorageError: when the disk refuses; the file is as it was.
        """
        if len(self.rows) == self._in_parquet:
            return
        columns = zip(*self.rows, strict=True)
        table = pa.table(
            [pa.array(c, t) for c, t in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA
        )
        sink = pa.BufferOutputStream()
        parquet.write_table(table, sink)
        contents = sink.getvalue()
        write_atomically(
            self.folder / "metrics.parquet", lambda path: path.write_bytes(contents), sync=sync
        )
        self._in_parquet = len(self.rows)

    def write_events(self) -> None:
        """Append to TensorBoard's record; after a kill it is written anew, so that it has each
        number once.

        Raises:
            StorageError: when the disk refuses.
        """
        if self._events is None:
            if not self.rows:
                return
            self._events = EventFile(self.folder)
        self._events.add(self.rows[self._in_events :])
        self._in_events = len(self.rows)

    def read(self, count: int, sha256: str | None, *, beyond: bool) -> None:
        """Take up what `metrics.parquet` holds.

        Args:
            count: how many rows the state counts; a kill can leave more.
            sha256: their fingerprint; None where there is none to compare with.
            beyond: take up all rows.

        Raises:
            ValueError: when the file is missing, damaged, or not what the run wrote.
        """
        path = self.folder / "metrics.parquet"
        rows: list[Number] = []
        if path.exists():
            try:
                table = parquet.read_table(pa.BufferReader(path.read_bytes()))
                columns = [table.column(name).to_pylist() for name in SCHEMA.names]
                rows = list(zip(*columns, strict=True))
            except Exception as error:  # pyarrow has many
                reason = str(error).strip().partition("\n")[0]
                raise damaged(path, f"is no table of metrics ({reason})") from None
        elif count:
            raise damaged(path, "is missing")
        self.rows = rows[:count]
        if len(self.rows) < count or self.sha256() != (sha256 or self.sha256()):
            raise damaged(path, "is not what this run wrote")
        if beyond:
            self.rows = rows

    def close(self) -> None:
        """Close TensorBoard's record."""
        if self._events is not None:
            self._events.close()


class EventFile:
    """One file of scalars that TensorBoard shows, in the place of older ones.

    Written without a thread of its own, so that errors reach the run.

    Args:
        folder: where it is made. The files that a killed process left there are removed: they
            may lack the last numbers, or end in the middle of one.

    Raises:
        StorageError: when the disk refuses.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / f"events.out.tfevents.{time.time_ns()}"
        try:
            for old in folder.glob("events.out.tfevents.*"):
                old.unlink()
            self._file = self.path.open("wb")
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self._write([Event(wall_time=time.time(), file_version="brain.Event:2")])

    def add(self, rows: Iterable[Number]) -> None:
        """Append `(step, name, value)`.

        Raises:
            StorageError: when the disk refuses.
        """
        now = time.time()
        self._write(
            Event(
                wall_time=now,
                step=step,
                summary=Summary(value=[Summary.Value(tag=name, simple_value=value)]),
            )
            for step, name, value in rows
        )

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, events: Iterable[Event]) -> None:
        records = RecordWriter(self._file)
        try:
            for event in events:
                records.write(event.SerializeToString())
            self._file.flush()
        except OSError as error:
            raise cannot_write(self.path, error) from error
