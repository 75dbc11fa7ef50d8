"""The body network without what it computes for outlines: three fifths of its work, and the same joints to the last bit.

A model file is a flatbuffer of TensorFlow Lite's schema: tables whose fields are found by numbers, and vectors that begin
with their length. Operations that are not needed are taken out of the vector that lists them; everything else stays where it is.
"""

from functools import cache
from pathlib import Path

# Of the network's five outputs: landmarks and presence. What is left out are the outline, a heat map and places in space.
_KEPT = 2
# Numbers of fields in the schema's tables.
_SUBGRAPHS, _SIGNATURES = 2, 7  # of a model
_GRAPH_OUTPUTS, _OPERATORS = 2, 3  # of a subgraph
_INPUTS, _OUTPUTS = 1, 2  # of an operator


@cache
def joints_alone(path: Path) -> bytes:
    """A model file like the body network's with its first two outputs and the operations that these need."""
    file = _Flatbuffer(path.read_bytes())
    graph = file.tables(file.root, _SUBGRAPHS)[0]
    needed, kept = set(file.numbers(graph, _GRAPH_OUTPUTS)[:_KEPT]), []
    for operation in reversed(file.tables(graph, _OPERATORS)):  # in the order in which they are carried out
        if needed.intersection(file.numbers(operation, _OUTPUTS)):
            kept.append(operation)
            needed.update(file.numbers(operation, _INPUTS))
    file.shorten(graph, _GRAPH_OUTPUTS, _KEPT)
    file.list_tables(graph, _OPERATORS, kept[::-1])
    file.shorten(file.root, _SIGNATURES, 0)  # they name the outputs that are gone
    return bytes(file.content)


class _Flatbuffer:
    """Reads and shortens vectors of a flatbuffer; tables are known by where they lie."""

    def __init__(self, content: bytes):
        self.content = bytearray(content)

    @property
    def root(self) -> int:
        """The model's table."""
        return self._at(0)

    def numbers(self, table: int, field: int) -> list[int]:
        """A vector of 32-bit numbers; empty where the table has none. -1, an input left out, is a large number here."""
        place = self._vector(table, field)
        return [] if place is None else [self._at(place + 4 + 4 * each) for each in range(self._at(place))]

    def tables(self, table: int, field: int) -> list[int]:
        """The tables that a vector lists: each by its distance from the place where it is listed."""
        place = self._vector(table, field)
        places = [] if place is None else [place + 4 + 4 * each for each in range(self._at(place))]
        return [each + self._at(each) for each in places]

    def shorten(self, table: int, field: int, length: int) -> None:
        """Keeps only the first entries of a vector, if there is one."""
        place = self._vector(table, field)
        if place is not None:
            self._put(place, length)

    def list_tables(self, table: int, field: int, listed: list[int]) -> None:
        """Lists some of the tables that a vector listed before."""
        place = self._vector(table, field)
        if place is None:
            return
        self._put(place, len(listed))
        for number, target in enumerate(listed):
            slot = place + 4 + 4 * number
            self._put(slot, target - slot)

    def _vector(self, table: int, field: int) -> int | None:
        layout = table - int.from_bytes(self.content[table : table + 4], "little", signed=True)
        size, entry = self._short(layout), 4 + 2 * field
        offset = self._short(layout + entry) if entry < size else 0
        return table + offset + self._at(table + offset) if offset else None

    def _at(self, place: int) -> int:
        return int.from_bytes(self.content[place : place + 4], "little")

    def _short(self, place: int) -> int:
        return int.from_bytes(self.content[place : place + 2], "little")

    def _put(self, place: int, number: int) -> None:
        self.content[place : place + 4] = number.to_bytes(4, "little")
