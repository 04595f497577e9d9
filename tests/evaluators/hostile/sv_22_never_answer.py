# kind: survive; want: not-pass -- sleeps in the call, with every signal blocked
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
def add(a, b):
    while True:
        time.sleep(3600)
