"""A benchmark: a running virtual machine moves over the 2009 report's links, with and without longhaul and its alternatives.

QEMU's live migration on TCP port 8000 stands for vMotion. Each run starts the same saved guest on host a, moves it to
host b while it runs, and asks it there whether its memory is what it was.
"""

import argparse
import os
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile

import common
import guest
import migration_report
import migration_results
import onemove
import peers
import vm

# Of its own, so that two calls do not meet: process ids have at most 7 digits, a lab's name 16 letters.
LAB_NAME = f"migration{os.getpid()}"

# Name, Mbps, round trip in ms, what it is, seconds without and with HyperIP (DeepStorage 2009, VM of unknown size).
LINKS = [
    ("baseline", 1000, 0, "1 Gbps, no delay", 19, 23),
    ("sonet", 1000, 5, "1 Gbps, 5 ms, 0.001 %", 31, 25),
    ("metro-low", 1000, 5, "1 Gbps, 5 ms, 0.005 %", 42, 24),
    ("metro", 1000, 12, "1 Gbps, 12 ms, 0.1 %", 138, 22),
    ("mpls", 100, 25, "100 Mbps, 25 ms, 0.05 %, 3 ms jitter", 256, 24),
]
FILLS = ("report", "dense", "encrypted")
# Mbps of the host's bytes to judge the time left by; what is not listed goes at about the line's rate.
EXPECTED_MBPS = {
    ("none", "sonet"): 500,
    ("none", "metro-low"): 300,
    ("none", "metro"): 37,
    ("none", "mpls"): 20,
    ("cubic-64k", "sonet"): 85,
    ("cubic-64k", "metro-low"): 85,
    ("cubic-64k", "metro"): 35,
    ("cubic-64k", "mpls"): 14,
}
QUICK_MEMORY_MB = 640
QUICK_LINKS = "baseline,metro"
QUICK_WITH = "none,longhaul"
FULL_MEMORY_MB = 2048
# A run in which the emulator released more than one frame in a hundred later than this is void and repeated.
LATENESS_P99_US = 2000
REPEATS_MAX = 2
# QEMU's at the source and at the destination, where no real migration tells.
HOST_CPU_S_PER_GB = [2.0, 1.3]
# Bytes per second.
MBPS = 125_000
# What --slow-runs is about.
SLOW_S = 120
# A guest that has not arrived by then never will: the slowest row of the report, twice over, for each GB.
PATIENCE_S_PER_GB = 900


def arguments():
    names = ",".join(link[0] for link in LINKS)
    parser = argparse.ArgumentParser(prog="scripts/bench migration", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", required=True, help="folder for results.json, report.md and the plots")
    parser.add_argument("--links", help=f"of {names} (default: all; with --quick {QUICK_LINKS})")
    parser.add_argument("--with", dest="systems", help=f"of {','.join(peers.SYSTEMS)} (default: all; with --quick {QUICK_WITH})")
    parser.add_argument("--fill", default="report", help="of report, dense, encrypted: what the guest's memory holds (default: report)")
    parser.add_argument("--runs", type=int, help="runs of each (default: 4; with --quick 1)")
    parser.add_argument("--memory", type=int, help=f"the guest's memory in MB (default: {FULL_MEMORY_MB}; with --quick {QUICK_MEMORY_MB})")
    parser.add_argument("--quick", action="store_true", help="a small guest, two links, one run each: at most 5 minutes")
    parser.add_argument("--one-way", action="store_true", help="read the links' latency as one way instead of round trip")
    parser.add_argument("--replay", action="store_true", help="send a recorded migration with a plain program instead: cheaper")
    parser.add_argument(
        "--switchover", choices=["line"],
        help="the rate by which QEMU decides to stop the guest is the link's, told by an administrator, not that of its last 100 ms",
    )
    parser.add_argument("--slow-runs", type=int, help=f"runs where the first took longer than {SLOW_S} s (default: as --runs)")
    parser.add_argument("--resume", action="store_true", help="keep the valid runs that OUT has and make the missing ones")
    parser.add_argument("--redo", default="", help="with --resume: systems whose runs are made again")
    parser.add_argument("--seed", type=int, default=1, help="of the guest's memory and, with the run's number, of the losses")
    parsed = parser.parse_args()
    quick = parsed.quick
    parsed.links = (parsed.links or (QUICK_LINKS if quick else names)).split(",")
    parsed.systems = (parsed.systems or (QUICK_WITH if quick else ",".join(peers.SYSTEMS))).split(",")
    parsed.fill = parsed.fill.split(",")
    parsed.redo = parsed.redo.split(",") if parsed.redo else []
    parsed.runs = parsed.runs or (1 if quick else 4)
    parsed.memory = parsed.memory or (QUICK_MEMORY_MB if quick else FULL_MEMORY_MB)
    known = {"links": [link[0] for link in LINKS], "systems": list(peers.SYSTEMS), "redo": list(peers.SYSTEMS), "fill": FILLS}
    for option, allowed in known.items():
        for word in getattr(parsed, option):
            if word not in allowed:
                parser.error(f'"{word}" is not one of {", ".join(allowed)}')
    if parsed.redo and not parsed.resume:
        parser.error("--redo is for --resume; without, every run is made")
    parsed.slow_runs = parsed.slow_runs or parsed.runs
    if parsed.memory < 256:
        parser.error("a guest of less than 256 MB has no room to fill")
    return parsed


def expected_seconds(system, link, memory_mb, fill):
    """Roughly, for the progress lines: moving, plus starting and verifying."""
    name, rate, *_ = link
    ratio = {"report": 6, "dense": 2, "encrypted": 1}[fill] if system == "longhaul" else 1
    rate = EXPECTED_MBPS.get((system, name), min(rate * 0.9 * ratio, 600))
    return 8 + memory_mb / 200 + memory_mb * 8 / rate


def late(outcome):
    return max(way["p99_us"] for way in outcome["wanem_lateness"].values()) > LATENESS_P99_US


def host_cost(runs, cell):
    """CPU seconds per GB that QEMU took at both ends: in real migrations of this cell, or in any; or what is usual."""
    real = [run for run in runs if run["how"] == "migration" and not run["error"] and run.get("target_memory") == onemove.TARGET_MEMORY]
    same = [run for run in real if migration_results.cell_of(run)[1:] == cell[1:]]
    costs = [[used / (run["moved_bytes"] / 1e9) for used in run["host_cpu_s"]] for run in same or real]
    return [statistics.median(column) for column in zip(*costs)] if costs else HOST_CPU_S_PER_GB


def run_once(options, how, cost, link, system_name, machine, state, seed, folder):
    name, rate, rtt, *_ = link
    link_options = ["--link", name, "--seed", str(seed), *(["--one-way"] if options.one_way else [])]
    system = peers.System(system_name, link_options)
    try:
        with common.Lab(LAB_NAME, *system.lab_options()) as lab:
            between = system.start(lab, folder, rate, rtt * (2 if options.one_way else 1))
            patience = 60 + PATIENCE_S_PER_GB * options.memory / 1000
            if how == "replay":
                return onemove.replay(lab, state, patience, system.address, between, cost)
            told = rate * MBPS if options.switchover == "line" else None
            return onemove.move(lab, machine, state, folder, patience, system.address, between, told)
    finally:
        system.stop()


def run_valid(options, *rest):
    """A run, repeated where the emulator was late: the last one counts, marked if that was late too."""
    repeats = 0
    while True:
        try:
            outcome = run_once(options, *rest)
        except vm.Endless as endless:
            # That is a result: a migration that a system cannot bring to its end.
            outcome = {"error": str(endless), "endless_s": endless.seconds}
        except (common.Failure, subprocess.CalledProcessError) as failure:
            outcome = {"error": str(failure)}
        else:
            outcome["error"] = None if outcome["intact"] else "what arrived is not what was sent"
        outcome["void_runs_before"] = repeats
        outcome["late"] = outcome["error"] is None and late(outcome)
        if not outcome["late"] or repeats == REPEATS_MAX:
            return outcome
        repeats += 1
        common.say("      the emulator was late: void, again")


def summary(outcome):
    if outcome["error"]:
        return outcome["error"] if "endless_s" in outcome else f"FAILED: {outcome['error']}"
    note = ", emulator late" if outcome["late"] else ""
    stopped = ""
    if outcome["downtime_beat_ms"] is not None:
        stopped = f", stopped {outcome['downtime_beat_ms']:.0f} ms (QEMU says {outcome['downtime_qemu_ms']})"
    return f"{outcome['seconds']:.2f} s{stopped}, drain {outcome['drain_ms'] or 0:.0f} ms, verified{note}"


def make_run(options, cell, cost, number, link, machine, state, folder):
    """One run with what it needs to be judged by itself: runs of one file may come from several calls."""
    made = common.description()
    outcome = run_valid(options, cell[0], cost, link, cell[-1], machine, state, options.seed + number, folder)
    return {
        **dict(zip(migration_results.CELL, cell)),
        "run": number,
        "date": made["date"],
        "commit": made["commit"],
        "load_at_start": made["load_at_start"][0],
        **outcome,
    }


def main():
    options = arguments()
    if os.geteuid() != 0:
        raise common.Failure("network namespaces need root: run it with sudo")
    # Ends as by ^C: the lab is taken down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    links = [link for link in LINKS if link[0] in options.links]
    systems = [name for name in options.systems if name not in peers.LEFT_OUT]
    for name in options.systems:
        if name in peers.LEFT_OUT:
            common.say(f"{name} is left out: {peers.LEFT_OUT[name]}")
    tools = guest.build(common.cache_dir())
    description = common.description(qemu=tools.version(), memory_mb=options.memory, seed=options.seed)
    description["command"] = shlex.join(["scripts/bench", "migration", *sys.argv[1:]])
    description.update(lateness_bound_p99_us=LATENESS_P99_US, left_out=peers.LEFT_OUT, switchover=options.switchover)
    results = migration_results.Results(options.out, description, options.resume, options.redo)

    def wanted(cell, number):
        return results.wanted(cell, number, options.slow_runs, SLOW_S)

    # Systems take turns within a run, so that a busy quarter of an hour hits all of them.
    plan = [
        (("replay" if options.replay else "migration", fill, options.one_way, link[0], system), run, link)
        for fill in options.fill
        for link in links
        for run in range(options.runs)
        for system in systems
    ]
    plan = [step for step in plan if wanted(*step[:2])]
    progress = common.Progress([expected_seconds(cell[-1], link, options.memory, cell[1]) for cell, _, link in plan])
    failed = 0
    with tempfile.TemporaryDirectory(prefix="longhaul-migration-") as folder:
        states = {}
        for fill in {cell[1] for cell, *_ in plan}:
            machine = vm.Guest(tools, options.memory, fill, options.seed)
            prepare = machine.record if options.replay else machine.prepare
            states[fill] = (machine, prepare(common.cache_dir(), folder))
        for cell, number, link in plan:
            if not wanted(cell, number):
                progress.drop()
                continue
            progress.step(f"{cell[0]}, {cell[1]}, {link[0]}, run {number + 1} of {options.runs}, {cell[-1]}")
            run = make_run(options, cell, host_cost(results.runs, cell), number, link, *states[cell[1]], folder)
            progress.finish(summary(run))
            failed += bool(run["error"]) and "endless_s" not in run
            # Written as it grows: what was measured before an interruption is not lost.
            results.add(run)
            migration_report.write(options.out, results.all(), LINKS)
    migration_report.write(options.out, results.all(), LINKS)
    print(open(os.path.join(options.out, "report.md"), encoding="utf-8").read())
    return 1 if failed else 0


if __name__ == "__main__":
    common.run_main(main, lab=LAB_NAME)
