"""Sends a recorded stream from one host to the other as a migration would: `send` on one, `receive` on the other.

Both ends use as much CPU for the bytes as QEMU does for the same (`--cpu-per-gb`): without that, a plain program would be
faster than any migration. The receiver answers with one byte when it has all: the time ends there, as a migration's ends
when the guest runs.
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


class Work:
    """Keeps a process at a pace of CPU seconds per byte, from when it is made."""

    def __init__(self, cpu_s_per_gb):
        self.per_byte = cpu_s_per_gb / 1e9
        self.began = time.process_time()
        self.source, self.place = bytearray(PAGE), bytearray(PAGE)

    def used(self):
        return time.process_time() - self.began

    def done(self, count):
        while self.used() < count * self.per_byte:
            for _ in range(8):
                self.place[:] = self.source


def send(arguments):
    with open(arguments.file, "rb") as file:
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as stream:
            view = memoryview(stream)
            # Every page is touched once, so that no disk has a part in what follows.
            bytes(view[::PAGE])
            started = time.time()
            connection = socket.create_connection((arguments.address, arguments.port), timeout=60)
            connection.settimeout(None)
            work = Work(arguments.cpu_per_gb)
            for at in range(0, len(view), WRITE_LEN):
                connection.sendall(view[at : at + WRITE_LEN])
                work.done(at + WRITE_LEN)
            answer = connection.recv(1)
            answered, count = time.time(), len(view)
            view.release()
    if answer != b"r":
        raise SystemExit("replay: the receiver did not get all of it")
    print(json.dumps({"started": started, "answered": answered, "bytes": count, "cpu_s": work.used()}))


def guest_memory(count):
    """Memory as the destination's QEMU has it: private, in huge pages where there are any, every page touched."""
    pages = -(-count // PAGE)
    memory = mmap.mmap(-1, pages * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    memory[::PAGE] = bytes(pages)
    return memory


def receive(arguments):
    listener = socket.create_server(("0.0.0.0", arguments.port))
    memory = memoryview(guest_memory(arguments.bytes))
    print("listening", flush=True)
    connection, _ = listener.accept()
    buffer = bytearray(READ_LEN)
    chunk, at, work = memoryview(buffer), 0, Work(arguments.cpu_per_gb)
    while at < arguments.bytes:
        count = connection.recv_into(buffer)
        if not count:
            break
        # Page by page, as a migration's pages go to their places.
        for place in range(0, count, PAGE):
            end = min(place + PAGE, count)
            memory[at + place : at + end] = chunk[place:end]
        at += count
        work.done(at)
    connection.sendall(b"r" if at == arguments.bytes else b"s")
    cpu = work.used()
    print(json.dumps({"bytes": at, "sum": f"{zlib.crc32(memory[:at]):08x}", "cpu_s": cpu}), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("direction", choices=["send", "receive"])
    parser.add_argument("--address")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--file")
    parser.add_argument("--bytes", type=int)
    parser.add_argument("--cpu-per-gb", type=float, default=0.0, help="CPU seconds to use for a gigabyte at least")
    arguments = parser.parse_args()
    {"send": send, "receive": receive}[arguments.direction](arguments)


if __name__ == "__main__":
    main()
