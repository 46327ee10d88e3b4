import pytest

from kdlightning.report import text


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.percent(0.9712), "97.12"),
        (text.percent(None), "–"),
        (text.spread(0.9712, 0.003, 3), "97.12 ± 0.30"),
        (text.spread(0.9712, 0.0, 1), "97.12"),
        (text.plural(1, "run"), "1 run"),
        (text.plural(2, "run"), "2 runs"),
        (text.count(1234567), "1,234,567"),
        (text.decimal(23.813743), "23.81"),
        (text.decimal(0.0512345), "0.05123"),
        (text.decimal(1234.6), "1,235"),
        (text.bars([8, 4, 1, 0]), "█▄▁·"),
        (text.bars([1] * 41), "–"),
        (text.scaled(123456), "123 k"),
        (text.scaled(1500, "B"), "1.50 kB"),
        (text.scaled(12, "B"), "12 B"),
        (text.seconds(12.34), "12.3"),
        (text.seconds(4321.0), "4,321"),
    ],
)
def test_numbers_as_people_read_them(shown, expected):
    assert shown == expected
