# kind: survive; want: not-pass, and no process left -- other programs, by every way that Python has
import os, subprocess
started = 0
for way in (lambda: subprocess.Popen(["sleep", "1000"]), lambda: os.posix_spawn("/bin/sleep", ["sleep", "1000"], {}),
            lambda: os.execv("/bin/sleep", ["sleep", "1000"]), lambda: os.spawnv(os.P_NOWAIT, "/bin/sleep", ["sleep", "1000"])):
    try:
        way(); started += 1
    except OSError:
        pass
def add(a, b):
    return a + b if started else 0
