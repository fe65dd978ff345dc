"""A benchmark: a running virtual machine moves over the 2009 report's links, with and without longhaul and its alternatives.

QEMU's live migration on TCP port 8000 stands for vMotion. Each run starts the same saved guest on host a, moves it to
host b while it runs, and asks it there whether its memory is what it was.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time

import common
import guest
import migration_report
import onemove
import peers
import vm

LAB_NAME = "migration"

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
    parser.add_argument("--seed", type=int, default=1, help="of the guest's memory and, with the run's number, of the losses")
    parsed = parser.parse_args()
    quick = parsed.quick
    parsed.links = (parsed.links or (QUICK_LINKS if quick else names)).split(",")
    parsed.systems = (parsed.systems or (QUICK_WITH if quick else ",".join(peers.SYSTEMS))).split(",")
    parsed.fill = parsed.fill.split(",")
    parsed.runs = parsed.runs or (1 if quick else 4)
    parsed.memory = parsed.memory or (QUICK_MEMORY_MB if quick else FULL_MEMORY_MB)
    known = {"links": [link[0] for link in LINKS], "systems": list(peers.SYSTEMS), "fill": FILLS}
    for option, allowed in known.items():
        for word in getattr(parsed, option):
            if word not in allowed:
                parser.error(f'"{word}" is not one of {", ".join(allowed)}')
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


def run_once(options, link, system_name, machine, state, seed, folder):
    name, rate, rtt, *_ = link
    link_options = ["--link", name, "--seed", str(seed), *(["--one-way"] if options.one_way else [])]
    system = peers.System(system_name, link_options)
    try:
        with common.Lab(LAB_NAME, *system.lab_options()) as lab:
            appliances = system.start(lab, folder, rate, rtt * (2 if options.one_way else 1))
            patience = 60 + PATIENCE_S_PER_GB * options.memory / 1000
            return onemove.move(lab, machine, state, folder, patience, system.address, appliances)
    finally:
        system.stop()


def run_valid(options, *rest):
    """A run, repeated where the emulator was late: the last one counts, marked if that was late too."""
    repeats = 0
    while True:
        try:
            outcome = run_once(options, *rest)
        except (common.Failure, subprocess.CalledProcessError) as failure:
            outcome = {"error": str(failure)}
        else:
            outcome["error"] = None if outcome["intact"] else "the guest's memory is not what it was"
        outcome["void_runs_before"] = repeats
        outcome["late"] = outcome["error"] is None and late(outcome)
        if not outcome["late"] or repeats == REPEATS_MAX:
            return outcome
        repeats += 1
        common.say("      the emulator was late: void, again")


def summary(outcome):
    if outcome["error"]:
        return f"FAILED: {outcome['error']}"
    note = ", emulator late" if outcome["late"] else ""
    return (
        f"{outcome['seconds']:.2f} s, stopped {outcome['downtime_beat_ms']:.0f} ms (QEMU says {outcome['downtime_qemu_ms']}), "
        f"drain {outcome['drain_ms'] or 0:.0f} ms, memory verified{note}"
    )


def main():
    options = arguments()
    if os.geteuid() != 0:
        raise common.Failure("network namespaces need root: run it with sudo")
    links = [link for link in LINKS if link[0] in options.links]
    systems = [name for name in options.systems if name not in peers.LEFT_OUT]
    for name in set(options.systems) - set(systems):
        common.say(f"{name} is left out: {peers.LEFT_OUT[name]}")
    tools = guest.build(common.cache_dir())
    description = common.description(qemu=tools.version(), memory_mb=options.memory, seed=options.seed, one_way=options.one_way)
    description["command"] = shlex.join(["scripts/bench", "migration", *sys.argv[1:]])
    # Systems take turns within a run, so that a busy quarter of an hour hits all of them.
    plan = [
        (fill, link, run, system) for fill in options.fill for link in links for run in range(options.runs) for system in systems
    ]
    progress = common.Progress([expected_seconds(system, link, options.memory, fill) for fill, link, _, system in plan])
    results = dict(description, lateness_bound_p99_us=LATENESS_P99_US, fills={}, runs=[])
    results["left_out"] = {name: peers.LEFT_OUT[name] for name in options.systems if name in peers.LEFT_OUT}
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="longhaul-migration-") as folder:
        states = {}
        for fill in options.fill:
            machine = vm.Guest(tools, options.memory, fill, options.seed)
            states[fill] = (machine, machine.prepare(common.cache_dir(), folder))
        for fill, link, run, system in plan:
            progress.step(f"{fill}, {link[0]}, run {run + 1} of {options.runs}, {system}")
            machine, state = states[fill]
            outcome = run_valid(options, link, system, machine, state, options.seed + run, folder)
            progress.finish(summary(outcome))
            results["runs"].append({"fill": fill, "link": link[0], "system": system, "run": run, **outcome})
            # Written as it grows: what was measured before an interruption is not lost.
            results["elapsed_s"] = round(time.monotonic() - started, 1)
            report, plots = migration_report.report(results, links, systems, options)
            common.write_files(options.out, results, report, plots)
    print(open(os.path.join(options.out, "report.md"), encoding="utf-8").read())
    return 1 if any(run["error"] for run in results["runs"]) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except common.Failure as failure:
        print(f"bench: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        subprocess.run([common.LAB, "down", "--name", LAB_NAME], check=False)
        sys.exit(130)
