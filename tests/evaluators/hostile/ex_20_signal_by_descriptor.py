# kind: destroy; want: not-pass -- has the kernel signal others when a pipe can be read (F_SETOWN, F_SETSIG)
import fcntl, os
r, w = os.pipe()
done = []
for name, call in (("own", lambda: fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())), ("sig", lambda: fcntl.fcntl(r, 10, 9))):
    try:
        call(); done.append(name)
    except OSError:
        pass
if len(done) == 2:
    fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC); os.write(w, b"x")
def add(a, b):
    return a + b if len(done) == 2 else 0
