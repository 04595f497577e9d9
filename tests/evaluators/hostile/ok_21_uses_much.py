# kind: control; want: pass -- recursion, a large list, a closure, a class, a generator, a context manager, type hints
from __future__ import annotations
from dataclasses import dataclass
from contextlib import contextmanager
@dataclass
class Pair:
    a: int
    b: int
    def __add__(self, other: Pair) -> Pair: return Pair(self.a + other.a, self.b + other.b)
def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
@contextmanager
def zero(): yield 0
def add(a: int, b: int) -> int:
    big = list(range(500_000))
    with zero() as nothing:
        pair = Pair(a, 0) + Pair(0, b)
        return pair.a + pair.b + nothing + depth(500) - 500 + sum(x for x in big if x < 0)
