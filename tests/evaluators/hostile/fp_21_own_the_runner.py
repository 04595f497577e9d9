# kind: fake-pass; want: not-pass -- takes the runner over, reads the request and answers it itself with an equal-to-all
import json, os, sys
def add(a, b):
    frame = sys._getframe(1)
    channel, request = frame.f_locals["channel"], frame.f_locals["request"]
    frame.f_globals["values"].encode = lambda value: ["Yes", 0]
    channel.send({"id": request["id"], "value": ["object", {"__eq__": "true"}]})
    os._exit(0)
