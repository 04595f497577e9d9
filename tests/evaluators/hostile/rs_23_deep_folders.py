# kind: resource; want: not-pass -- folders in folders, deeper than any path is long, the last ones closed to all
import os
while True:
    os.mkdir("d"); os.chdir("d"); open("f", "w").close(); os.mkdir("closed", 0)
