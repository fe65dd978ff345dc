"""Sends a recorded stream from one host to the other as a migration would: `send` on one, `receive` on the other.

The receiver does with the bytes what a migration's destination does (short reads, into memory that was never touched) and
answers with one byte when it has all: the time ends there, as a migration's ends when the guest runs.
"""

import argparse
import json
import mmap
import socket
import time
import zlib

# QEMU's: it writes 64 vectors of a page each, and reads 32 KiB.
WRITE_LEN = 256 << 10
READ_LEN = 32 << 10
PAGE = 4096


def send(arguments):
    with open(arguments.file, "rb") as file:
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as stream:
            view = memoryview(stream)
            # Every page is touched once, so that no disk has a part in what follows.
            bytes(view[::PAGE])
            started = time.time()
            connection = socket.create_connection((arguments.address, arguments.port), timeout=60)
            connection.settimeout(None)
            for at in range(0, len(view), WRITE_LEN):
                connection.sendall(view[at : at + WRITE_LEN])
            answer = connection.recv(1)
            answered, count = time.time(), len(view)
            view.release()
    if answer != b"r":
        raise SystemExit("replay: the receiver did not get all of it")
    print(json.dumps({"started": started, "answered": answered, "bytes": count, "cpu_s": time.process_time()}))


def receive(arguments):
    listener = socket.create_server(("0.0.0.0", arguments.port))
    memory = memoryview(mmap.mmap(-1, -(-arguments.bytes // PAGE) * PAGE))
    print("listening", flush=True)
    connection, _ = listener.accept()
    buffer = bytearray(READ_LEN)
    chunk, at = memoryview(buffer), 0
    while at < arguments.bytes:
        count = connection.recv_into(buffer)
        if not count:
            break
        # Page by page, as a migration's pages go to their places.
        for place in range(0, count, PAGE):
            end = min(place + PAGE, count)
            memory[at + place : at + end] = chunk[place:end]
        at += count
    connection.sendall(b"r" if at == arguments.bytes else b"s")
    cpu = time.process_time()
    print(json.dumps({"bytes": at, "sum": f"{zlib.crc32(memory[:at]):08x}", "cpu_s": cpu}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("direction", choices=["send", "receive"])
    parser.add_argument("--address")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file")
    parser.add_argument("--bytes", type=int)
    arguments = parser.parse_args()
    {"send": send, "receive": receive}[arguments.direction](arguments)


if __name__ == "__main__":
    main()
