# kind: resource; want: not-pass -- takes memory and holds on to it
held = []
while True:
    try:
        held.append(bytearray(1 << 20))
    except MemoryError:
        pass
