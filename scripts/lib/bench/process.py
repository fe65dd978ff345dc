"""What a process has used: CPU to the nanosecond, memory at its peak."""

import os
import re


def name(pid):
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def cpu_seconds(pid):
    """CPU time of all threads so far (the scheduler's own count: ticks would be coarse over a few seconds)."""
    total = 0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as file:
                total += int(file.read().split()[0])
    except OSError:
        return None
    return total / 1e9


def memory_peak_bytes(pid):
    """Largest resident set so far."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            found = re.search(r"VmHWM:\s+(\d+) kB", file.read())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
