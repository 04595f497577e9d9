# kind: resource; want: not-pass -- a set whose members all have the same hash: the checker, not the program, does the work
def add(a, b):
    import os, sys, json
    frame = sys._getframe(1)
    body = json.dumps({"id": frame.f_locals["request"]["id"], "value": ["set", [["int", hex(n * (2**61 - 1))] for n in range(1, 150_000)]]}).encode()
    data = memoryview(len(body).to_bytes(4, "big") + body)
    while data:
        data = data[os.write(frame.f_locals["channel"]._write_fd, data):]
    while True:
        pass
