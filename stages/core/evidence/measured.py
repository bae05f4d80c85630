"""A measured value, and where it is recorded."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """A value and where it is recorded.

    Attributes:
        value: the measured value.
        metric: file and place of the value.
        figure: the figure that shows it.
        interval: its adjusted confidence interval, where it has one.
        another_sample: where the value of another sample of the paper's size falls, where that is known.
        missing: what the claim covers but was not measured: then the value can contradict it, but not confirm it.
        caution: what to know of the value or its interval, as words that follow the reason.
        withheld: why the value decides nothing at another scale: the reason of a verdict that stays open.
    """

    value: float
    metric: str
    figure: str | None = None
    interval: tuple[float, float] | None = None
    another_sample: tuple[float, float] | None = None
    missing: str = ""
    caution: str = ""
    withheld: str = ""
