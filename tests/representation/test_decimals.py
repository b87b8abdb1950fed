import math

from representation.decimals import plain


def test_numbers_of_any_size_are_plain_decimals() -> None:
    numbers = (0.0125, 0.0000031, 0.0, 1.5, 1234567.0, -0.00001234)
    assert [plain(number) for number in numbers] == [
        "0.0125",
        "0.0000031",
        "0",
        "1.5",
        "1230000",
        "-0.0000123",
    ]


def test_digits_may_be_fewer_or_more() -> None:
    assert plain(0.00000174, digits=2) == "0.0000017"
    assert plain(0.123456789, digits=6) == "0.123457"


def test_what_is_not_finite_is_named() -> None:
    assert [plain(number) for number in (math.inf, -math.inf, math.nan)] == ["inf", "-inf", "nan"]
