"""Generations of row numbers, and the borders between them. Pure arithmetic.

A file that takes the place of another begins a generation: its new rows get numbers above all that
the other can have used, and what is carried over keeps its own number. A generation has B = 2**32
numbers, which no file uses up::

      generation of the first file           generation of the second file
    |---------------------------------------|---------------------------------------|---
    0       1 … 1500   1501 …   B-1         B       B+1 … B+700   …   2B-1         2B
    border  [ rows ]   unused   spare       border  [  rows   ]       spare        border

The *border*, the last number of a generation, never has a row. The next file begins with a mark of
all numbers from the end of the known rows (1501) to the border: AWAY first, then UNUSED. 0 is the
border before the first generation.

The *spare* number is the one below the border, and never has a row either. A loss that nothing
counts gets its mark (UNCOUNTED) there. If the spare number has no mark at all, the one that shows
where the rows ended is lost.
"""

_SIZE = 1 << 32


def border_up_to(number: int) -> int:
    """The last border up to this number, which can be one itself."""
    return number // _SIZE * _SIZE


def border_before(number: int) -> int:
    """The border that the generation of this number follows."""
    return border_up_to(max(number, 1) - 1)


def next_border(last: int) -> int:
    """Where the generation of the next file begins, after one whose last used number is ``last``.

    A file without rows of its own leaves its border to the next one, but 0 is left to none.
    """
    return border_before(last) + _SIZE


def is_border(number: int) -> bool:
    """Whether it is a border: as the last used number of a file, that the file has no rows."""
    return number == border_up_to(number)


def spare_below(border: int) -> int:
    """The spare number of the generation that ends with this border."""
    return border - 1
