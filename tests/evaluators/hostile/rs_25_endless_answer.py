# kind: resource; want: not-pass -- an answer without an end
import itertools
def add(a, b):
    return itertools.count()
