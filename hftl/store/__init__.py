"""Rows on disk that are computed once: written by several processes, found again by their key, read through a memory map.

What frozen layers or a decoder make of a data set is the same in every epoch and in every run with the same weights, data and
preprocessing. It is kept in the cache folder, where all runs of a user find it:

    KEY/                  a whole entry
      rows.bin            the rows, one after the other, each with as many items as it has (no padding)
      starts.npy          (N + 1,) int64: row i is items starts[i] to starts[i + 1]; absent where all rows have one shape
      extra-NAME.npy      further arrays that belong to the rows
      layout.json         shapes and type; written last of these
      digests.json        SHA-256 of every block of every file above; only a whole entry has it
    KEY.LAYOUT.partial/   the same, being built, with a progress-RANK file for each process that builds
    KEY.RANDOM.gone/      what is being removed

A kill at any moment leaves a whole entry, or a partial one that the next build by as many processes continues. `find` reads an
entry once from end to end: one in which a bit has changed is removed, and computed again. Files that another user owns or
could have written are not read, and nobody else may read or write the files made here. The folder may be removed at any time,
which costs time only.

Readers and builders hold layout.json (`hftl.system.hold`, a shared lock), so that nothing is removed under them; everything that
makes or renames a folder happens under the lock of the cache folder. Entries to delete are renamed while the
lock is held, and removed after it is released.

N rows of L items each; L is the row's own. NumPy has no bfloat16: such values are stored as uint16, by the caller.
"""

from hftl.store.builder import Builder, Removed
from hftl.store.entry import key_of
from hftl.store.folder import SPARE, NoRoom, cache_folder, exclusive_lock
from hftl.store.rows import Rows, find, is_being_built

__all__ = ["SPARE", "Builder", "NoRoom", "Removed", "Rows", "cache_folder", "exclusive_lock", "find", "is_being_built", "key_of"]
