# kind: resource; want: not-pass -- an answer that does not fit the checker
def add(a, b):
    return "x" * (64 << 20)
