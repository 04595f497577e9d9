# kind: resource; want: not-pass -- opens pipes until none is left, and fills them
import os
while True:
    try:
        r, w = os.pipe(); os.set_blocking(w, False); os.write(w, b"x" * (1 << 20))
    except OSError:
        pass
