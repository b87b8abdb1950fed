"""How people are shown numbers of any size. Knows no unit."""

import math
from decimal import Decimal


def plain(value: float, digits: int = 3) -> str:
    """A number to so many digits, never as a power of ten: `0.0125`, `0.0000031`, `0`, `1230000`.

    What is not finite is `inf`, `-inf` or `nan`.
    """
    short = f"{value:.{digits}g}"
    return f"{Decimal(short):f}" if math.isfinite(value) else short
