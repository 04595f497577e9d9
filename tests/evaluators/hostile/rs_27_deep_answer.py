# kind: resource; want: not-pass -- frames written by hand: lists nested deeper than any parser's stack, and a header without a body
import os, sys
def add(a, b):
    fd = sys._getframe(1).f_locals["channel"]._write_fd
    body = b"[" * 1_000_000
    os.write(fd, len(body).to_bytes(4, "big") + body); os.write(fd, b"\xff" * 4)
    while True:
        pass
