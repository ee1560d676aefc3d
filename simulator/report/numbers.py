"""How numbers are written: three significant digits, thousands comma, true minus, one prefix within a column.

Values stay unrounded until here, so the same value reads the same wherever it stands.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from simulator.result import Number

NBSP = "\u00a0"
MINUS = "\u2212"
DASH = "\u2013"

_PREFIXES = {-4: "p", -3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P", 6: "E", 7: "Z", 8: "Y"}
_COUNTS = {0: "", 1: "k", 2: "M", 3: "B", 4: "T"}
_WORDS = ((1e12, "trillion"), (1e9, "billion"), (1e6, "million"))


def significant(value: float, digits: int = 3) -> str:
    """`value` to so many significant digits: 1,760, 21.6, 0.830, 3.10e−5; zero is 0."""
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "unbounded" if value > 0 else "none"
    mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
    exponent = int(power)
    if not -4 <= exponent < 15:
        return f"{mantissa}e{exponent}".replace("-", MINUS)
    return f"{float(f'{mantissa}e{power}'):,.{max(0, digits - 1 - exponent)}f}".replace("-", MINUS)


def brief(value: float) -> str:
    """Three significant digits without trailing zeros, for sizes that have a name: 80, 79.6, 0.5."""
    return plain(float(f"{value:.3g}"))


def plain(value: float) -> str:
    """`value` with no digits that say nothing: 80, 0.5, 1,000; for axis ticks and exact settings."""
    return f"{value:,.10g}".replace("-", MINUS)


@dataclass(frozen=True)
class Scale:
    """How the values of one column are written: divided by `divisor`, between `before` and `after`."""

    divisor: float = 1.0
    after: str = ""
    before: str = ""
    whole: bool = False

    @property
    def unit(self) -> str:
        return self.after.strip(NBSP)

    def bare(self, value: float) -> str:
        """The figure without its unit, such as 2.96 or $296,000 (a currency stands before, so it stays)."""
        if self.whole:
            return f"{round(value / self.divisor):,}".replace("-", MINUS)
        return self.before + significant(value / self.divisor)

    def text(self, value: float) -> str:
        return self.bare(value) + self.after

    def tick(self, value: float) -> str:
        return self.before + plain(value / self.divisor) + self.after

    def range(self, low: float, high: float) -> str:
        """An interval: 2.73 – 3.24 s."""
        return f"{self.bare(low)} {DASH} {self.bare(high)}{self.after}"

    def interval(self, number: Number) -> str:
        """The interval of a number, empty where it is known exactly."""
        return "" if number.low == number.high else self.range(number.low, number.high)


def _thousands(values: Iterable[float]) -> int:
    """The power of 1,000 that puts the middle of `values`, as rounded for display, between 1 and 1,000."""
    sizes = [abs(v) for v in values if v and math.isfinite(v)]
    if not sizes:
        return 0
    return math.floor(int(f"{median(sizes):.2e}".partition("e")[2]) / 3)


def si(values: Iterable[float], unit: str, *, smallest: int = -4, largest: int = 8) -> Scale:
    """One SI prefix for all of `values`, from 1000**smallest to 1000**largest."""
    power = min(max(_thousands(values), smallest), largest)
    return Scale(1000.0**power, f"{NBSP}{_PREFIXES[power]}{unit}")


def seconds(values: Iterable[float]) -> Scale:
    return si(values, "s", largest=0)


def bytes_(values: Iterable[float]) -> Scale:
    return si(values, "B", smallest=0)


def joules(values: Iterable[float]) -> Scale:
    return si(values, "J", smallest=0)


def watt_hours(values: Iterable[float]) -> Scale:
    """Joules written as Wh, kWh, MWh."""
    scale = si([v / 3600 for v in values], "Wh", smallest=0)
    return Scale(scale.divisor * 3600, scale.after)


def tokens_per_second(values: Iterable[float]) -> Scale:
    scale = si(values, " tokens/s", smallest=0)
    return Scale(scale.divisor, NBSP + scale.after.strip(NBSP).strip())


def counts(values: Iterable[float]) -> Scale:
    """Things counted: 46.7 B."""
    power = min(max(_thousands(values), 0), 4)
    return Scale(1000.0**power, NBSP + _COUNTS[power] if power else "")


def kilograms(values: Iterable[float]) -> Scale:
    """Kilograms of CO2 equivalent, written in g, kg, t, kt."""
    power = min(max(_thousands(values), -1), 2)
    return Scale(1000.0**power, f"{NBSP}{('g', 'kg', 't', 'kt')[power + 1]}{NBSP}CO₂e")


def days(values: Iterable[float]) -> Scale:
    """Days, or hours or minutes where the middle value is below a day or an hour."""
    sizes = [v for v in values if v]
    middle = median(sizes) if sizes else 1.0
    if middle >= 1:
        return Scale(1.0, f"{NBSP}days")
    return Scale(1 / 24, f"{NBSP}hours") if middle >= 1 / 24 else Scale(1 / 1440, f"{NBSP}minutes")


def dollars(values: Iterable[float]) -> Scale:
    """Money: $2.95, $296,000, $12.3 million."""
    power = _thousands(values)
    if power >= 3:
        return Scale(1e9, f"{NBSP}billion", "$")
    return Scale(1e6, f"{NBSP}million", "$") if power == 2 else Scale(1.0, "", "$")


def gibibytes(values: Iterable[float]) -> Scale:
    return Scale(1.0, f"{NBSP}GiB")


def percent(values: Iterable[float]) -> Scale:
    return Scale(0.01, f"{NBSP}%")


def wholes(values: Iterable[float]) -> Scale:
    """Things that come whole and are few enough to read: 1,158 users."""
    return Scale(whole=True)


def ratios(values: Iterable[float]) -> Scale:
    return Scale()


def signed(scale: Scale, value: float) -> str:
    """A difference: +3.05 days, −$63,000; the sign stands before a currency."""
    text = scale.text(abs(value))
    if scale.bare(abs(value)) == scale.before + "0":
        return text
    return f"{MINUS if value < 0 else '+'}{text}"


def share(fraction: float) -> str:
    """A share for a row, one decimal: 59.4 %; zero is 0 %."""
    if fraction == 0:
        return f"0{NBSP}%"
    if abs(fraction) < 0.0005:
        return f"<0.1{NBSP}%"
    return f"{100 * fraction:,.1f}{NBSP}%".replace("-", MINUS)


def round_share(fraction: float) -> str:
    """A share for a sentence, no decimals: 59 %."""
    if 0 < fraction < 0.005:
        return f"less than 1{NBSP}%"
    return f"{100 * fraction:,.0f}{NBSP}%".replace("-", MINUS)


def short_share(fraction: float) -> str:
    """A share for a sentence where a point matters: one decimal below 10 %, none above."""
    return share(fraction) if abs(fraction) < 0.0995 else round_share(fraction)


def signed_share(fraction: float) -> str:
    """A change for a row: −21.2 %; one that rounds to nothing is 0 %."""
    text = f"{100 * fraction:+,.1f}"
    return f"{'0' if text in ('+0.0', '-0.0') else text}{NBSP}%".replace("-", MINUS)


def plus_minus(number: Number) -> str:
    """Half the interval against the value: ±9 %."""
    half = (number.high - number.low) / 2 / abs(number.value)
    return f"±{round_share(half).removeprefix('less than ')}"


def whole(value: float) -> str:
    """A figure for a sentence, no decimals: 65."""
    return f"{value:,.0f}".replace("-", MINUS)


def in_words(count: float) -> str:
    """A large count for a sentence: 2 trillion, 300 billion, 4,096."""
    for size, word in _WORDS:
        if count >= size:
            return f"{float(f'{count / size:.3g}'):,g}{NBSP}{word}"
    return f"{count:,.0f}"


def short_count(count: float) -> str:
    """The same for a label: 2 T, 300 B."""
    scale = counts([count])
    return f"{float(f'{count / scale.divisor:.3g}'):,g}{scale.after}"


def about_days(value: float) -> str:
    """A length of time for a sentence: 65 days, 31 hours, 12 minutes."""
    units = ((1.0, "day"), (1 / 24, "hour"), (1 / 1440, "minute"))
    size, word = next((unit for unit in units if value >= 2 * unit[0]), units[-1])
    number = whole(max(value / size, 1))
    return f"{number}{NBSP}{word}{'' if number == '1' else 's'}"


def sentence(words: str) -> str:
    """`words` with a capital at the front."""
    return words[:1].upper() + words[1:]


def inside(label: str) -> str:
    """A label as it stands inside a sentence; abbreviations stay as they are."""
    return label if label[:2].isupper() else label[:1].lower() + label[1:]


def listing(parts: Iterable[str]) -> str:
    """Parts of a sentence: a, b and c."""
    *head, last = list(parts)
    return f"{', '.join(head)} and {last}" if head else last
