# kind: control; want: pass -- right values in other clothes: a subclass, a numpy-like index, a bool-free enum
import enum
class Count(int):
    pass
class Known(enum.IntEnum):
    THREE = 3
def add(a, b):
    return Known(3) if a + b == 3 else Count(a + b)
