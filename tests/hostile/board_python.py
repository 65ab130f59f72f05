"""What a hostile board has in the place of its Python: answers each request as a case says.

`case.json` beside it holds the steps of one case by verb, `good.json` what an honest board said.
"""

import base64
import hashlib
import json
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
MARK = b"@edgevit "
OUT = sys.stdout.buffer


def load(name):
    with open(os.path.join(HERE, name)) as stream:
        return json.load(stream)


def put(data):
    OUT.write(data)
    OUT.flush()


def say(reply, **content):
    put(MARK + json.dumps({"reply": reply, **content}).encode() + b"\n")


def forever(data, every):
    while True:
        put(data)
        time.sleep(every)


def perform(step):
    """Do one step: {"say": reply}, {"raw": base64, "times": n}, {"beat": base64, "every": s}..."""
    if "say" in step:
        put(MARK + json.dumps(step["say"]).encode() + b"\n")
    if "raw" in step:
        data = base64.b64decode(step["raw"])
        for _ in range(step.get("times", 1)):
            OUT.write(data)
        OUT.flush()
    if "beat" in step:
        forever(base64.b64decode(step["beat"]), step["every"])
    if "stderr" in step:
        sys.stderr.buffer.write(base64.b64decode(step["stderr"]) * step.get("times", 1))
        sys.stderr.flush()
    if "close" in step:
        OUT.close()
        os.close(1)
    time.sleep(step.get("sleep", 0))
    if "exit" in step:
        os._exit(step["exit"])


def good(verb, case, request):
    known = load("good.json")
    if verb == "facts":
        put(case.get("facts", known["facts"]).encode("latin-1") + b"\n")
    elif verb == "probe":
        say("board", **known["board"])
    elif verb == "receive":
        files = [
            {"bytes": f["size"], "sha256": f["sha256"], "whole": True} for f in request["files"]
        ]
        say("present", files=files)
        sys.stdin.buffer.readline()
        say("complete")
    elif verb == "start":
        offset = 0
        for line in case.get("lines", known["lines"]):
            offset += len(line) + 1
            say("line", text=line, offset=offset)
        say("exit", status=case.get("status", 0), errors=case.get("errors", ""))
    elif verb == "send":
        data = case.get("measurements", known["measurements"]).encode("latin-1")
        say("file", size=len(data), sha256=hashlib.sha256(data).hexdigest())
        put(data)
    else:
        say("done")


def main():
    request = {}
    if sys.argv[1] == "-":
        verb = "facts"
        sys.stdin.buffer.read()
    else:
        sys.stdin.buffer.read(int(sys.stdin.buffer.readline()))
        request = json.loads(sys.stdin.buffer.readline())
        verb = request["verb"]
    case = load("case.json")
    if verb not in case["steps"]:
        good(verb, case, request)
    for step in case["steps"].get(verb, ()):
        perform(step)


main()
