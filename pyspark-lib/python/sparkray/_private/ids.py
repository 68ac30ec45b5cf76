"""Ids as users see them."""

from __future__ import annotations


class HexId(str):
    """An id in hexadecimal: a string that has the methods of Ray's ids, too."""

    __slots__ = ()

    def hex(self) -> str:
        """The id in hexadecimal."""
        return str(self)

    def binary(self) -> bytes:
        """The id as bytes."""
        return bytes.fromhex(self)

    def is_nil(self) -> bool:
        """Whether it stands for nothing."""
        return not self.strip("0")


class PlacementGroupID(HexId):
    """The id of a placement group."""

    __slots__ = ()

    @staticmethod
    def nil() -> PlacementGroupID:
        """The id that stands for no group."""
        return PlacementGroupID("00" * 16)

    def __repr__(self) -> str:
        return f"PlacementGroupID({self})"
