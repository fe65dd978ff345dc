"""scripts/bench matrix: the channel on virtual time over rate x RTT x loss x jitter, single and bursty loss, every cell against its goals.

The whole matrix: 100 Mbps, 1 Gbps, 10 Gbps x 1, 5, 12, 25, 50, 100, 150, 300 ms x 0, .001, .01, .1, 1, 3, 5 % x jitter of 0, 3 ms and
30 % of the RTT x losses one by one and in bursts of 4 on average: 936 cells. A core simulates a second of 100 Mbps in .07 s, of 1 Gbps in
.65, of 10 Gbps in 6.5. Therefore a cell lasts 15 s at 100 Mbps, 9 at 1 Gbps (or 20 RTT beyond second 5) and 5.5 at 10 Gbps, and at
10 Gbps jitter and bursts are left out unless --all, --jitters or --bursts ask for them; 5.5 s at 10 Gbps over 150 and 300 ms show little
but start-up. One core takes 75 minutes, with --all four hours. --quick takes less than five minutes on two cores: 100 Mbps over all RTTs
with four of the losses, a few cells of 1 Gbps, two of 10 Gbps.
"""

import argparse
import itertools
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time

import common
import matrix_report
from channel_figures import bdp_bytes
from common import description, numbers, run_main, say, write_files
from matrix_report import Cell, cell_of

RATES = [100, 1000, 10_000]
RTTS = [1, 5, 12, 25, 50, 100, 150, 300]
LOSSES = [0, 0.001, 0.01, 0.1, 1, 3, 5]
JITTERS = ["0", "3", "30%"]
BURSTS = [1, 4]
# From this rate on, jitter and bursts are for those who ask.
COSTLY_MBPS = 10_000
SETTLE_S = 5
# How long a cell lasts behind SETTLE_S: by rate, and so many RTTs except where that is costly.
MEASURED_S = {100: 10, 1000: 4, 10_000: 0.5}
MEASURED_RTTS = 20
# What --quick runs: rates, RTTs, losses, jitters, bursts, seconds.
QUICK = [
    ([100], RTTS, [0, 0.1, 1, 5], JITTERS, BURSTS, 9),
    ([1000], [5, 12, 50, 100], [0, 0.1, 1], ["0"], [1], 7),
    ([10_000], [12], [0, 0.1], ["0"], [1], 5.5),
]
# Of one core: to simulate so much traffic, and to start.
SECONDS_PER_GBIT, SECONDS_TO_START = 0.7, 0.1
# A worker's memory, for what holds datagrams at both ends and under way; measured: 7 BDP over 300 ms.
WORKER_BDPS, WORKER_BYTES = 9, 64 << 20
MEMORY_SHARE = 0.8
# A cell that takes so much longer than expected hangs, however busy the machine is.
PATIENCE, PATIENCE_S = 50, 1800
POLL_S = 0.02
SAVED_EVERY_S = 10
BUILD = ["cargo", "test", "--release", "--locked", "--test", "sim", "--no-run", "--message-format=json"]
TABLE = ["--ignored", "--exact", "channel_table::channel_table", "--nocapture", "--test-threads=1"]


def jitters(listed):
    found = numbers(str)(listed)
    for word in found:
        float(word.removesuffix("%"))
    return found


def parse(given=None):
    parser = argparse.ArgumentParser(prog="scripts/bench matrix", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for results.json and report.md")
    parser.add_argument("--quick", action="store_true", help="a few cells of each rate")
    parser.add_argument("--all", action="store_true", help="jitter and bursts at 10 Gbps as well")
    parser.add_argument("--rates", type=numbers(int), help="Mbps (100,1000,10000)")
    parser.add_argument("--rtts", type=numbers(float), help="ms (1,5,12,25,50,100,150,300)")
    parser.add_argument("--losses", type=numbers(float), help="percent (0,0.001,0.01,0.1,1,3,5)")
    parser.add_argument("--jitters", type=jitters, help="ms, or of the RTT (0,3,30%%)")
    parser.add_argument("--bursts", type=numbers(float), help="mean length of a loss, 1: one by one (1,4)")
    parser.add_argument("--seconds", type=float, help="how long each cell lasts, instead of by rate and RTT")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at once (a core each)")
    parser.add_argument("--resume", action="store_true", help="keep the cells that OUT has of the same commit and run the missing ones")
    arguments = parser.parse_args(given)
    if arguments.quick and (arguments.all or any(getattr(arguments, axis) for axis in ("rates", "rtts", "losses", "jitters", "bursts", "seconds"))):
        parser.error("--quick has its own cells")
    if arguments.seconds is not None and arguments.seconds <= SETTLE_S:
        parser.error(f"--seconds has to exceed {SETTLE_S}: goodput counts from then on")
    if arguments.jobs < 1:
        parser.error("--jobs has to be 1 at least")
    return arguments


# ---- what is run --------------------------------------------------------------------------------------------------------


def cells(rates, rtts, losses, jitters, bursts):
    """All combinations; bursts only where something is lost."""
    for mbps, rtt, loss, jitter, burst in itertools.product(rates, rtts, losses, jitters, bursts):
        if loss or burst == bursts[0]:
            yield Cell(mbps, rtt, loss, burst if loss else 1, jitter)


def whole():
    return list(cells(RATES, RTTS, LOSSES, JITTERS, BURSTS))


def seconds_of(cell):
    """How long a cell lasts: enough to measure from SETTLE_S on."""
    # A rate of the caller's own lasts as long as the next faster one.
    measured = next((length for mbps, length in MEASURED_S.items() if cell.mbps <= mbps), MEASURED_S[COSTLY_MBPS])
    if cell.mbps < COSTLY_MBPS:
        measured = max(measured, MEASURED_RTTS * cell.rtt_ms / 1e3)
    return SETTLE_S + measured


def plan(arguments):
    """(cell, seconds) of this call, in the order of the axes."""
    if arguments.quick:
        return [(cell, seconds) for *axes, seconds in QUICK for cell in cells(*axes)]
    found = []
    for mbps in arguments.rates or RATES:
        calm = mbps >= COSTLY_MBPS and not arguments.all
        wandering = arguments.jitters or (["0"] if calm else JITTERS)
        bursts = arguments.bursts or ([1] if calm else BURSTS)
        found += cells([mbps], arguments.rtts or RTTS, arguments.losses or LOSSES, wandering, bursts)
    return [(cell, arguments.seconds or seconds_of(cell)) for cell in found]


def expected_s(cell, seconds):
    return SECONDS_TO_START + SECONDS_PER_GBIT * cell.mbps / 1000 * seconds


def expected_bytes(cell):
    return WORKER_BDPS * bdp_bytes(cell.mbps, cell.rtt_ms) + WORKER_BYTES


def memory_available():
    return int(common.first_line("/proc/meminfo", "MemAvailable").split()[0]) * 1024


# ---- one cell -----------------------------------------------------------------------------------------------------------


def executable_in(messages):
    """The simulator's test binary, of the lines that cargo writes."""
    for line in messages:
        message = json.loads(line) if line.startswith("{") else {}
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == "sim" and message.get("executable"):
            return message["executable"]
    raise common.Failure("cargo built no simulator")


def build():
    say("building the simulator (release)")
    done = subprocess.run(BUILD, cwd=common.ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise common.Failure("the build failed")
    return executable_in(done.stdout.splitlines())


def environment(cell, seconds, seed):
    """What tells tests/sim/channel_table.rs the cell, and nothing of the caller's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIM_")}
    asked = {
        "TABLE": "matrix", "JSON": 1, "RATE": cell.mbps, "RTT": f"{cell.rtt_ms:g}", "LOSS": f"{cell.loss_percent:g}", "BURST": f"{cell.burst:g}",
        "JITTER": cell.jitter, "SECONDS": f"{seconds:g}", "SETTLE": SETTLE_S, "SEED": seed,
    }
    return {**kept, **{f"SIM_{name}": str(value) for name, value in asked.items()}}


def figures_in(code, out, err):
    """What a finished worker found: its figures, or why there are none."""
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if code == 0 and len(lines) == 1:
        return {"figures": json.loads(lines[0])}
    panic = err.find("panicked at")
    said = (err[panic:] if panic >= 0 else err[-600:]).split("note: run with")[0].strip()
    ended = f"ended by signal {-code}" if code < 0 else f"ended with {code}"
    return {"failure": (said or ended)[:600]}


class Worker:
    """One process that simulates one cell."""

    def __init__(self, program, cell, seconds, seed):
        self.cell, self.seconds = cell, seconds
        self.out, self.err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        self.deadline = time.monotonic() + max(PATIENCE_S, PATIENCE * expected_s(cell, seconds))
        self.process = subprocess.Popen([program, *TABLE], cwd=common.ROOT, env=environment(cell, seconds, seed), stdout=self.out, stderr=self.err)

    def finished(self):
        """What it found, once it has ended; None before."""
        code = self.process.poll()
        if code is None:
            if time.monotonic() < self.deadline:
                return None
            self.end()
            return {"failure": "took far longer than expected and was ended"}
        texts = []
        for file in (self.out, self.err):
            file.seek(0)
            texts.append(file.read())
            file.close()
        return figures_in(code, *texts)

    def end(self):
        self.process.kill()
        self.process.wait()


def outcomes(program, planned, seed, jobs):
    """(cell, seconds, what it found) as the cells end, `jobs` of them at a time and no more than the memory holds."""
    waiting, running = list(reversed(planned)), []
    memory = MEMORY_SHARE * memory_available()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                taken = sum(expected_bytes(worker.cell) for worker in running)
                if running and taken + expected_bytes(waiting[-1][0]) > memory:
                    break
                running.append(Worker(program, *waiting.pop(), seed))
            time.sleep(POLL_S)
            for worker in list(running):
                found = worker.finished()
                if found is not None:
                    running.remove(worker)
                    yield worker.cell, worker.seconds, found
    finally:
        for worker in running:
            worker.end()


# ---- all of them --------------------------------------------------------------------------------------------------------


def left_s(expected, done, spent, jobs):
    """How long the rest takes: as the cells so far tell, by the time they were expected to take."""
    rest = expected - done
    return rest * spent / done if done else rest / jobs


def kept_rows(folder, commit, seed, planned):
    """The rows of an earlier call that are not run again: those of the plan that did not fail, and those it does not name."""
    try:
        with open(os.path.join(folder, "results.json"), encoding="utf-8") as file:
            old = json.load(file)
    except FileNotFoundError:
        return []
    for what, now, then in (("commit", commit, old["about"]["commit"]), ("seed", seed, old["seed"])):
        if now != then:
            raise common.Failure(f"--resume: {folder} has {what} {then}, this call {now}; take another --out")
    lengths = dict(planned)
    return [row for row in old["cells"] if "failure" not in row and lengths.get(cell_of(row), row["seconds"]) == row["seconds"]]


def outcome(found):
    """A finished cell in a line."""
    if "failure" in found:
        return "failed: " + found["failure"].replace("\n", " ")[:120]
    figures = found["figures"]
    return f"{matrix_report.share(figures):.1%} of the ceiling, 90 % after {matrix_report.startup_text(figures)} s"


def main():
    arguments = parse()
    planned = plan(arguments)
    about = description(command=shlex.join(["scripts/bench", "matrix", *sys.argv[1:]]))
    rows = kept_rows(arguments.out, about["commit"], arguments.seed, planned) if arguments.resume else []
    there = {cell_of(row) for row in rows}
    missing = [(cell, seconds) for cell, seconds in planned if cell not in there]
    results = {"about": about, "seed": arguments.seed, "settle": SETTLE_S, "goals": [], "cells": rows}

    def save():
        rows.sort(key=cell_of)
        results["goals"] = matrix_report.summary(rows)
        results["not_run"] = [cell._asdict() for cell in whole() if cell not in there]
        write_files(arguments.out, results, matrix_report.report(results, whole()))

    program = build() if missing else None
    expected, done, begun, saved = sum(expected_s(*one) for one in missing), 0.0, time.monotonic(), 0.0
    say(f"{len(missing)} cells, {arguments.jobs} at a time, about {common.duration(left_s(expected, 0, 0, arguments.jobs))}")
    try:
        for number, (cell, seconds, found) in enumerate(outcomes(program, missing, arguments.seed, arguments.jobs), 1):
            rows.append({"cell": cell._asdict(), "seconds": seconds, **found})
            there.add(cell)
            done += expected_s(cell, seconds)
            left = left_s(expected, done, time.monotonic() - begun, arguments.jobs)
            say(f"[{number}/{len(missing)}] {cell.text()}: {outcome(found)} (about {common.duration(left)} left)")
            if time.monotonic() - saved > SAVED_EVERY_S:
                save()
                saved = time.monotonic()
    finally:
        save()
    print(matrix_report.report(results, whole()))
    return 1 if any("failure" in row for row in rows) else 0


if __name__ == "__main__":
    run_main(main)
