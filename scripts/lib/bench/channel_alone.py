"""What the channel costs by itself, the kernel included: two threads on loopback, beside sealed datagrams without a protocol."""

import os
import re
import subprocess

import common
from channel_figures import CELL

# The rate that both send at; loopback has no RTT and no loss.
ALONE_CELL = (1000, 0, 0, 0)
COMMAND = ["cargo", "test", "--quiet", "--release", "--locked", "--test", "channel_cost", "--"]
COMMAND += ["--ignored", "--nocapture", "seconds_per_gigabyte_with_sockets"]


def parsed(output):
    """Row name to (send, receive): seconds per GB of "no protocol" and "channel", and their "ratio"."""
    found = re.findall(r"^  (no protocol|channel|ratio) +send ([\d.]+)x?  receive ([\d.]+)x?$", output, re.MULTILINE)
    rows = {name: {"send": float(send), "receive": float(receive)} for name, send, receive in found}
    if len(rows) != 3:
        raise common.Failure(f"channel_cost printed no figures: {output[-300:]}")
    return rows


def run(gigabytes):
    """One row of the report; each of three repetitions moves `gigabytes` both ways of sending."""
    row = {"system": "longhaul", "cell": dict(zip(CELL, ALONE_CELL)), "void": False, "gigabytes": gigabytes}
    environment = {**os.environ, "LONGHAUL_COST_GB": f"{gigabytes:g}"}
    done = subprocess.run(COMMAND, cwd=common.ROOT, env=environment, text=True, capture_output=True, check=False, timeout=900)
    if done.returncode:
        return {**row, "failure": done.stderr.strip()[-300:] or done.stdout.strip()[-300:]}
    return {**row, "alone": parsed(done.stdout)}
