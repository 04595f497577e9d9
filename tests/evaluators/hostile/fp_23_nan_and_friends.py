# kind: fake-pass; want: not-pass -- values that compare strangely, without a class of their own
from decimal import Decimal
from fractions import Fraction
odd = [float("nan"), Decimal("NaN"), Fraction(1, 3), complex("nan"), range(3), [3], iter([3]), b"3"]
def add(a, b):
    return odd[(a + b) % len(odd)] if a + b != 3 else Decimal("sNaN")
