"""Databases of records by key: LMDB and LevelDB."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakValueDictionary

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.visible import visible


class Database(ABC):
    """A database that is read.

    Attributes:
        path: its folder.
        count: how many records there are; None where nobody knows without reading them.
    """

    path: str
    count: int | None = None

    @abstractmethod
    def keys(self) -> Iterator[bytes]:
        """Return the keys in the order of their bytes."""

    @abstractmethod
    def get(self, key: bytes) -> bytes:
        """Return a record."""

    @abstractmethod
    def after(self, key: bytes) -> bytes:
        """Return the key behind one, the first behind the last."""


class Lmdb(Database):
    """An LMDB. Source: db_lmdb.cpp."""

    def __init__(self, path: str) -> None:
        try:
            import lmdb
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                "LMDB needs the package lmdb: pip install 'caffe_margin[torch]'", name="lmdb"
            ) from None
        self.path = path
        try:
            # Nobody writes while a net is trained, and the folder may not be writable.
            self._env = lmdb.open(path, readonly=True, lock=False, create=False)
        except lmdb.Error as error:
            raise ValueError(f"{visible(path)} is no LMDB that can be read: {error}") from None
        self.count = self._env.stat()["entries"]

    def keys(self) -> Iterator[bytes]:
        """Return the keys in the order of their bytes."""
        with self._env.begin() as transaction:
            yield from transaction.cursor().iternext(values=False)

    def get(self, key: bytes) -> bytes:
        """Return a record."""
        with self._env.begin() as transaction:
            return transaction.get(key, b"")

    def after(self, key: bytes) -> bytes:
        """Return the key behind one, the first behind the last."""
        with self._env.begin() as transaction:
            cursor = transaction.cursor()
            if not (cursor.set_key(key) and cursor.next()):
                cursor.first()
            return cursor.key()


class LevelDb(Database):
    """A LevelDB, by plyvel or its successor. Source: db_leveldb.cpp.

    It is opened for writing, as there is no other way: the folder must be writable.
    """

    def __init__(self, path: str) -> None:
        plyvel = _plyvel()
        self.path = path
        try:
            self._db = plyvel.DB(path, create_if_missing=False)
        except plyvel.Error as error:
            raise ValueError(f"{visible(path)} is no LevelDB that can be read: {error}") from None

    def keys(self) -> Iterator[bytes]:
        """Return the keys in the order of their bytes."""
        return self._db.iterator(include_value=False)

    def get(self, key: bytes) -> bytes:
        """Return a record."""
        return self._db.get(key, b"")

    def after(self, key: bytes) -> bytes:
        """Return the key behind one, the first behind the last."""
        behind = self._db.iterator(start=key, include_start=False, include_value=False)
        return next(behind, None) or next(self.keys())


def _plyvel() -> Any:
    for name in ("plyvel", "plyvel_next"):
        try:
            return __import__(name)
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(
        "LevelDB needs plyvel: pip install 'caffe_margin[leveldb]', or write the set anew with "
        "convert_imageset --backend lmdb",
        name="plyvel",
    )


_KINDS: dict[int, Callable[[str], Database]] = {
    pb.DataParameter.LMDB: Lmdb,
    pb.DataParameter.LEVELDB: LevelDb,
}
_FILES = {pb.DataParameter.LMDB: "data.mdb", pb.DataParameter.LEVELDB: "CURRENT"}
_opened: WeakValueDictionary[tuple[int, str], Database] = WeakValueDictionary()


def open_database(path: str, backend: int) -> Database:
    """Open a database; a process opens it once, however many layers read it.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is no database of this kind.
    """
    key = backend, os.path.realpath(path)
    found = _opened.get(key)
    if found is None:
        _check_kind(path, backend)
        found = _opened[key] = _KINDS[backend](path)
    return found


def _check_kind(path: str, backend: int) -> None:
    """Say what a folder holds where it is not what was asked for."""
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no database {visible(path)!r}")
    kinds = [kind for kind, file in _FILES.items() if os.path.exists(os.path.join(path, file))]
    if backend not in kinds:
        names = pb.DataParameter.DB.Name
        found = f"holds a database for backend: {names(kinds[0])}" if kinds else "holds no database"
        raise ValueError(f"{visible(path)} {found}, but backend is {names(backend)}")


class Keys:
    """A database's keys in order, round and round.

    Any stretch can be asked for; one that starts where the last ended costs the least. No key but
    those passed over is read, and no record.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._restart()

    def _restart(self) -> None:
        self._keys = self._database.keys()
        self._position = 0

    def take(self, start: int, count: int) -> list[bytes]:
        """Return the keys from a position on."""
        if start < self._position:
            self._restart()
        if size := self._database.count:
            self._position += (start - self._position) // size * size
        while self._position < start:
            self._step()
        return [self._step() for _ in range(count)]

    def _step(self) -> bytes:
        key = next(self._keys, None)
        if key is None:
            self._database.count = self._position
            self._keys = self._database.keys()
            key = next(self._keys)
        self._position += 1
        return key
