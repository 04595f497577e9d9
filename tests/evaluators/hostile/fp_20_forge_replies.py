# kind: fake-pass; want: not-pass -- floods every descriptor with frames that claim success
import json, os
def add(a, b):
    for value in (True, 3, None):
        body = json.dumps({"id": "0" * 32, "value": value, "failure": None, "started": True}).encode()
        for fd in range(3, 64):
            try:
                os.write(fd, len(body).to_bytes(4, "big") + body + b"\n")
            except OSError:
                pass
    return 0
