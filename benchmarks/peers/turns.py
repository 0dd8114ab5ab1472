"""A peer that is measured in turns with ours, a process that lives through the whole benchmark.

It is started with the path of a job (JSON). When it has loaded, compiled and warmed up it says what
it is: one line of JSON on standard output. Then each line of standard input is a request, words
apart by spaces, and each is answered with one line of JSON; `{"error": ...}` for one that failed.
It ends when its input does.
"""

import json
import os
import platform
import sys
import time
from importlib.metadata import version


def versions(*packages):
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def job():
    with open(sys.argv[1], encoding="utf-8") as file:
        return json.load(file)


def serve(begin):
    """`begin(job)` returns what to say first, and the functions that answer, by first word."""
    # Only answers go to standard output: whatever a library prints joins the errors.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(answer):
        print(json.dumps(answer), file=out, flush=True)

    first, requests = begin(job())
    say(first)
    for line in sys.stdin:
        name, *words = line.split()
        try:
            say(requests[name](*words))
        except Exception as why:
            say({"error": f"{line.strip()}: {why!r}"})


def timed(work, seconds):
    """Calls `work` until the time is over, at least once. Seconds of each call."""
    samples, end = [], time.perf_counter() + seconds
    while not samples or time.perf_counter() < end:
        began = time.perf_counter()
        work()
        samples.append(time.perf_counter() - began)
    return samples
