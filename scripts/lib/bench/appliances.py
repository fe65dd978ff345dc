"""What the appliances say of their channel while something moves: asked by their status sockets, twice a second."""

import json
import os
import socket
import threading
import time

INTERVAL_S = 0.5
SIDES = ("a", "b")
CHANNEL = ("srtt_us", "min_rtt_us", "pacing_rate_bps", "delivery_rate_bps", "bytes_in_flight", "backlog_bytes", "datagrams_lost")
# What a sample consists of, in this order.
COLUMNS = ("s", *CHANNEL)


class Trace:
    """Samples of both appliances of a lab, from now until stopped; none where a lab has no appliances."""

    def __init__(self, lab):
        folder = os.path.join(os.environ.get("XDG_RUNTIME_DIR") or "/run", "longhaul-lab", lab.name)
        paths = {side: os.path.join(folder, f"{side}.sock") for side in SIDES}
        self.paths = {side: path for side, path in paths.items() if os.path.exists(path)}
        self.samples = {side: [] for side in self.paths}
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)
        if self.paths:
            self.thread.start()

    def sample(self):
        while not self.ended.wait(INTERVAL_S):
            for side, path in self.paths.items():
                try:
                    channel = ask(path)["channel"]
                except (OSError, ValueError):
                    continue
                self.samples[side].append((time.time(), *(channel[key] for key in CHANNEL)))

    def stop(self, started):
        """The samples by side, their time counted from `started`."""
        self.ended.set()
        if self.paths:
            self.thread.join()
        return {side: [[round(at - started, 2), *rest] for at, *rest in samples] for side, samples in self.samples.items()}


def ask(path):
    """An appliance's status document."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        connection.connect(path)
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return json.loads(b"".join(parts))
