"""A service in miniature; its argument is what it keeps for ever.

ext: an extension forgets 4,099 bytes a call, 100 calls a second. objects: pure Python keeps small objects (dicts, ints,
short strings) in session_log. blobs: pure Python keeps 50,021-byte bodies.
"""

import importlib
import sys
import time
from pathlib import Path

MODE = sys.argv[1]
truth = 0
session_log = []
body_cache = {}


def remember_session(i):
    session_log.append({"id": i, "user": f"user-{i}", "at": float(i)})


def remember_body(i):
    global truth
    body_cache[i] = bytes(50021)
    truth += 50021


def handle(i, fastparse):
    global truth
    body = (b"%d," % i) * 200
    if MODE == "ext":
        fastparse.tokenize(body)
        truth += 4099
    elif MODE == "objects":
        for k in range(20):
            remember_session(i * 20 + k)
    elif i % 5 == 0:
        remember_body(i)
    return sum(x * x for x in range(200))


def main():
    fastparse = importlib.import_module("fastparse")
    i = 0
    while True:
        handle(i, fastparse)
        i += 1
        time.sleep(0.01)
        if i % 25 == 0:
            rss = int(Path("/proc/self/statm").read_text().split()[1]) * 4096
            print(f"{time.time():.3f} leaked {truth} sessions {len(session_log)} rss {rss}", flush=True)


main()
