"""What a process has used: CPU to the nanosecond, memory now and at its peak; and how busy the machine was."""

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


def cpu_split_seconds(pid):
    """User and system time so far; the kernel divides its exact sum by what the ticks saw."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return tuple(int(ticks) / os.sysconf("SC_CLK_TCK") for ticks in fields[11:13])


def memory_bytes(pid, what="VmRSS"):
    """Resident set; as VmHWM the largest so far."""
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            found = re.search(rf"{what}:\s+(\d+) kB", file.read())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def machine_ticks():
    """Ticks of all cores that the machine has spent on anything, and all that went by."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    # The fourth and the fifth are idle and waiting for a disk.
    return (sum(ticks) - ticks[3] - ticks[4]), sum(ticks)


def busy_share(before, after):
    """Of the cores' time between two `machine_ticks`, the part that was not idle."""
    busy, everything = (now - then for now, then in zip(after, before))
    return busy / max(1, everything)
