# kind: control; want: pass -- imports that open libraries and read the machine
import ssl, sqlite3, ctypes, zlib, bz2, lzma, statistics, json, csv, operator, queue, concurrent.futures, logging, os, unicodedata, zoneinfo, time, uuid, platform
def add(a, b):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        return sum(pool.map(operator.pos, (a, b)))
