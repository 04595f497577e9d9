# kind: fake-pass; want: not-pass -- answers the first call and ends with status 0 before the second
import os
def add(a, b):
    if a != 1:
        os._exit(0)
    return a + b
