# kind: resource; want: not-pass -- many files that have no name and no descriptor, held by a mapped page each
import mmap, os
held = []
while True:
    with open("f", "w+b") as file:
        file.write(b"x" * (1 << 20)); file.flush(); held.append(mmap.mmap(file.fileno(), 4096)); os.remove("f")
