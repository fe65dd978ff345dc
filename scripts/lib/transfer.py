"""One TCP transfer of a file between two hosts, timed: `send` on one, `receive` on the other.

Ordinary sockets with the system's defaults: what the hosts' own TCP makes of the path is the point. Both print one
JSON object; moments are CLOCK_MONOTONIC, which all namespaces of a machine share.
"""

import argparse
import hashlib
import json
import mmap
import socket
import sys
import time


def receive(arguments):
    listener = socket.create_server((arguments.address, arguments.port))
    buffer = mmap.mmap(-1, arguments.bytes + 1)
    view = memoryview(buffer)
    print("listening", flush=True)
    connection, _ = listener.accept()
    connection.settimeout(arguments.timeout)
    received, error, reported = 0, None, 0.0
    try:
        while received <= arguments.bytes:
            count = connection.recv_into(view[received:], 1 << 20)
            if count == 0:
                break
            received += count
            now = time.monotonic()
            if now - reported >= 0.2:
                reported = now
                print(f"progress {received}", file=sys.stderr, flush=True)
    except OSError as problem:
        error = str(problem)
    ended = time.monotonic()
    digest = hashlib.sha256(view[:received]).hexdigest()
    print(json.dumps({"bytes": received, "sha256": digest, "ended": ended, "error": error}), flush=True)


def send(arguments):
    error = None
    started = time.monotonic()
    try:
        with open(arguments.file, "rb") as file:
            connection = socket.create_connection((arguments.address, arguments.port), timeout=arguments.timeout)
            connection.sendfile(file)
            connection.shutdown(socket.SHUT_WR)
            # The receiver closes after it has everything: only then is the transfer over for the sender too.
            connection.recv(1)
    except OSError as problem:
        error = str(problem)
    print(json.dumps({"started": started, "ended": time.monotonic(), "error": error}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("direction", choices=["send", "receive"])
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--file", help="what to send")
    parser.add_argument("--bytes", type=int, help="how much will arrive")
    parser.add_argument("--timeout", type=float, default=120, help="seconds without progress that end it")
    arguments = parser.parse_args()
    {"send": send, "receive": receive}[arguments.direction](arguments)


if __name__ == "__main__":
    main()
