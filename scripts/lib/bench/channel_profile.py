"""Where the appliances' CPU time goes: perf, where the machine has it."""

import os
import re
import shutil
import subprocess

import common

TOP = 15
# Per second and core; odd, so that it keeps step with nothing.
FREQUENCY = 999


def missing():
    """Why there is no profile; nothing if there can be one."""
    return None if shutil.which("perf") else "perf is not installed (Debian's package linux-perf)"


class Recording:
    """Samples of both appliances for a time, from now on."""

    def __init__(self, pids, folder, seconds):
        self.children = {}
        for role in ("send", "receive"):
            if role not in pids:
                continue
            file = os.path.join(folder, f"{role}.perf")
            # The clock of the CPU serves in virtual machines too, which rarely have counters.
            command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(FREQUENCY), "-p", str(pids[role]), "-o", file]
            command += ["--", "sleep", f"{seconds:g}"]
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
            self.children[role] = (file, child)

    def top(self):
        """Role to its (percent, function) lines, the largest first."""
        found = {}
        for role, (file, child) in self.children.items():
            complaint = child.communicate(timeout=60)[1]
            if child.returncode:
                raise common.Failure(f"perf record: {complaint.strip()[-300:]}")
            command = ["perf", "report", "--stdio", "-q", "-g", "none", "--sort", "symbol", "--percent-limit", "0.2", "-i", file]
            done = subprocess.run(command, text=True, capture_output=True, check=False, timeout=120)
            if done.returncode:
                raise common.Failure(f"perf report: {done.stderr.strip()[-300:]}")
            found[role] = functions(done.stdout)
        return found


def functions(report):
    """The first TOP lines of a report by symbol: percent, and the function with [k] for the kernel's."""
    # Newer ones end with empty columns for instructions per cycle, which nobody has asked for; Rust's names with a hash.
    lines = re.findall(r"^\s*([\d.]+)%\s+\[(.)\]\s+(\S.*?)(?:::h[0-9a-f]{16})?(?:\s+-)*\s*$", report, re.MULTILINE)
    return [[float(percent), name + (" [k]" if where == "k" else "")] for percent, where, name in lines[:TOP]]
