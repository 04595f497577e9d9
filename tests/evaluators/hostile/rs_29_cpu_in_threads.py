# kind: resource; want: not-pass -- burns every core at once, in C code that holds no lock
import hashlib, threading
def burn():
    while True:
        hashlib.pbkdf2_hmac("sha512", b"x", b"y", 10**7)
for _ in range(8):
    threading.Thread(target=burn).start()
def add(a, b):
    while True:
        pass
