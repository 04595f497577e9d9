# kind: destroy; want: not-pass -- another name or another mode for a file outside
import os
worked = []
for name, call in (
    ("link", lambda: os.link("/etc/passwd", "passwd")),
    ("symlink", lambda: os.symlink("/etc", "etc")),
    ("chmod", lambda: os.chmod("/tmp/hostile_canary/file", 0o777)),
    ("chown", lambda: os.chown("/tmp/hostile_canary/file", 1, 1)),
    ("utime", lambda: os.utime("/tmp/hostile_canary/file", (1, 1))),
    ("truncate", lambda: os.truncate("/tmp/hostile_canary/file", 0)),
    ("mknod", lambda: os.mknod("/tmp/node", 0o600 | 0o020000, 0x0103)),
    ("setxattr", lambda: os.setxattr("/tmp/hostile_canary/file", "user.x", b"x")),
):
    try:
        call(); worked.append(name)
    except OSError:
        pass
def add(a, b):
    return a + b if worked else 0
