"""What a net may cost: memory is bounded by the size of the file that it is read from."""

from __future__ import annotations

import functools

from google.protobuf.descriptor import Descriptor

FREE_BYTES = 32 << 20
"""Messages may take so much however short the file is: fifty thousand layers..."""
BYTES_A_BYTE = 20
"""...and beyond, so much for each byte of the file. An empty layer takes hundreds."""


class Budget:
    """Counts what the messages of one file take, before they are made."""

    def __init__(self, size: int) -> None:
        self._left = FREE_BYTES + BYTES_A_BYTE * size

    def charge(self, descriptor: Descriptor) -> bool:
        """Count a message and say whether there is room for it."""
        self._left -= _cost(descriptor)
        return self._left >= 0


@functools.cache
def _cost(descriptor: Descriptor) -> int:
    """Return about what an empty message takes: it has room for each of its fields."""
    cost = 64 + 9 * len(descriptor.fields)
    return 4 * cost if descriptor.name == "V1LayerParameter" else cost  # it is copied, and upgraded
