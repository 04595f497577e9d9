# kind: resource; want: not-pass -- fills whatever collects its output
import sys
while True:
    sys.stdout.write("x" * (1 << 20)); sys.stderr.write("y" * (1 << 20))
