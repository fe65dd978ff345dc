"""Incompressible TCP streams for a fixed time: `send` on one host, `receive` on the other.

The receiver prints one JSON object: bytes per bin of time, on CLOCK_MONOTONIC, which all namespaces of a machine share.
"""

import argparse
import json
import os
import selectors
import socket
import sys
import time

BIN_S = 0.01
CHUNK = 256 * 1024


def send(arguments):
    noise = os.urandom(16 << 20)
    views = [memoryview(noise)[at : at + CHUNK] for at in range(0, len(noise), CHUNK)]
    selector = selectors.DefaultSelector()
    started = time.monotonic()
    for number in range(arguments.streams):
        connection = socket.create_connection((arguments.address, arguments.port), timeout=30)
        connection.setblocking(False)
        # Streams begin at different places of the noise.
        selector.register(connection, selectors.EVENT_WRITE, [number * 7 % len(views), 0, connection])
    deadline, sent, error = time.monotonic() + arguments.seconds, 0, None
    try:
        while (left := deadline - time.monotonic()) > 0:
            for key, _ in selector.select(min(left, 0.5)):
                state = key.data
                try:
                    taken = state[2].send(views[state[0]][state[1] :])
                except BlockingIOError:
                    continue
                sent += taken
                state[1] += taken
                if state[1] == CHUNK:
                    state[0], state[1] = (state[0] + 1) % len(views), 0
    except OSError as problem:
        error = str(problem)
    # What is still under way is not waited for: the measurement is over.
    print(json.dumps({"started": started, "ended": time.monotonic(), "bytes": sent, "error": error}), flush=True)
    os._exit(0)


def receive(arguments):
    listener = socket.create_server((arguments.address, arguments.port))
    listener.setblocking(False)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    buffer, bins, begun, streams, received, error = bytearray(1 << 20), [], None, 0, {}, None
    print("listening", flush=True)
    end = time.monotonic() + arguments.seconds + 30
    while time.monotonic() < end:
        for key, _ in selector.select(0.25):
            if key.fileobj is listener:
                connection, _ = listener.accept()
                connection.setblocking(False)
                selector.register(connection, selectors.EVENT_READ, streams)
                received[streams] = 0
                streams += 1
                begun = begun or time.monotonic()
                end = begun + arguments.seconds
                continue
            try:
                count = key.fileobj.recv_into(buffer)
            except BlockingIOError:
                continue
            except OSError as problem:
                error, count = str(problem), 0
            if count == 0:
                selector.unregister(key.fileobj)
                continue
            place = int((time.monotonic() - begun) / BIN_S)
            if place >= len(bins):
                bins.extend([0] * (place + 1 - len(bins)))
            bins[place] += count
            received[key.data] += count
    print(json.dumps({"begun": begun, "bin_s": BIN_S, "bins": bins, "streams": list(received.values()), "error": error}), flush=True)
    os._exit(0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("direction", choices=["send", "receive"])
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--streams", type=int, default=1)
    arguments = parser.parse_args()
    {"send": send, "receive": receive}[arguments.direction](arguments)


if __name__ == "__main__":
    sys.exit(main())
