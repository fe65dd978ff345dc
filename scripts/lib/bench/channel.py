"""scripts/bench channel: incompressible TCP from host a to host b through the lab, by link and by system.

Systems: `longhaul` (compression off), the hosts' own kernel TCP with `cubic` and `bbr`, and two programs on both hosts:
`quic` (the forwarder on quinn with BBR, windows of two BDP) and `kcptun` (window 1.5 BDP, no repair symbols, no compression).

Parts:
  cells      goodput, start-up, queue and cost on each link, all systems
  change     the WAN's rate halves and doubles in mid-transfer, beside kernel TCP's
  outage     the WAN is dead for a while in mid-transfer
  fairness   longhaul and kernel TCP in one queue, and several pairs of appliances in one queue
  memory     peak of each appliance
  cpu        CPU seconds per GB of each appliance, user and system, and with perf where it goes
  alone      CPU seconds per GB of the channel by itself, beside sealed datagrams without a protocol
"""

import argparse
import shlex
import sys

import channel_alone
import channel_fairness
import channel_goals
import channel_profile
import channel_report
import channel_run
import peers
from channel_figures import PAYLOAD, WIRE, cell_text
from channel_report import text
from channel_run import AFTER_OUTAGE_S, SYSTEMS, Plan
from common import Progress, description, numbers, run_main, write_files

PARTS = tuple(channel_report.TITLES)
# Mbps, RTT ms, loss %, jitter ms.
DEFAULT_CELLS = [
    (1000, 1, 0, 0),
    (1000, 5, 0.01, 0),
    (1000, 12, 0, 0),
    (1000, 12, 0.1, 0),
    (1000, 12, 1, 0),
    (1000, 25, 0.1, 0),
    (1000, 50, 0.1, 0),
    (1000, 100, 1, 0),
    (100, 5, 0, 0),
    (100, 25, 0.01, 3),
    (100, 25, 1, 3),
    (100, 50, 3, 0),
    (100, 100, 5, 0),
]
QUICK_CELLS = [(1000, 12, 0.1, 0), (100, 25, 0.01, 3)]
CHANGE_CELLS = [(1000, 12, 0, 0), (100, 25, 0, 0)]
MEMORY_CELLS = [(1000, 100, 1, 0), (100, 25, 0, 0)]
CPU_CELL = (1000, 5, 0, 0)
# Kernel TCP's own answer to a change; the forwarders' are quinn's and kcptun's, of which the cells tell.
CHANGE_SYSTEMS = ("longhaul", "bbr", "cubic")
OUTAGE_AFTER_S = 6
# What it takes to bring a lab up, have the session, and take the lab down.
OVERHEAD_S = 4


def words(known):
    def parse(listed):
        found = [word for word in listed.split(",") if word]
        unknown = set(found) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
        return found

    return parse


def parse():
    parser = argparse.ArgumentParser(prog="scripts/bench channel", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for results.json and report.md")
    parser.add_argument("--quick", action="store_true", help="less of each part: five minutes at most")
    parser.add_argument("--parts", type=words(PARTS), help="of " + ",".join(PARTS) + " (all; quick: without alone)")
    parser.add_argument("--systems", type=words(SYSTEMS), default=list(SYSTEMS), help="of " + ",".join(SYSTEMS))
    parser.add_argument("--rates", type=numbers(int), help="Mbps, e.g. 100,1000; with --rtts, --losses, --jitters: the cells' full matrix")
    parser.add_argument("--rtts", type=numbers(float), help="ms, e.g. 1,5,12,25,50,100,150,300")
    parser.add_argument("--losses", type=numbers(float), help="percent, e.g. 0,0.01,0.1,1,3,5")
    parser.add_argument("--jitters", type=numbers(float), help="ms, e.g. 0,3")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="length of a run of cells, memory and cpu (10; quick: 7)")
    parser.add_argument("--settle", type=float, help="goodput counts from here on (5; quick: 3)")
    parser.add_argument("--outages", type=numbers(int), help="seconds of dead WAN (1,10,30,60,90; quick: 1,10, longhaul alone)")
    parser.add_argument("--outage-link", type=numbers(float), default=[1000, 12, 0, 0], help="Mbps,RTT ms,loss %%,jitter ms")
    parser.add_argument("--buffers", type=numbers(float), help="fairness: the queue in BDP (0.5,1,2; quick: 1)")
    parser.add_argument("--sessions", type=numbers(int), help="fairness: so many pairs of appliances (2,4; quick: 2)")
    parser.add_argument("--late-ms", type=float, default=5, help="the emulator may be this late in one frame of a hundred")
    parser.add_argument("--repeats", type=int, help="repetitions of a run in which it was later (1; quick: 0)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lab", default="bench", help="name of the lab")
    arguments = parser.parse_args()
    quick = arguments.quick

    def default(name, full, less):
        if getattr(arguments, name) is None:
            setattr(arguments, name, less if quick else full)

    default("seconds", 10, 7)
    default("settle", 5, 3)
    # Its build alone takes a minute.
    default("parts", list(PARTS), [part for part in PARTS if part != "alone"])
    default("repeats", 1, 0)
    default("buffers", [0.5, 1, 2], [1])
    default("sessions", [2, 4], [2])
    # Longhaul alone where there is little time.
    arguments.outage_systems = ["longhaul"] if quick and arguments.outages is None else [name for name in SYSTEMS if name != "kcptun"]
    default("outages", [1, 10, 30, 60, 90], [1, 10])
    if arguments.settle + 1 > arguments.seconds:
        parser.error("--seconds has to exceed --settle by one at least")
    axes = (arguments.rates, arguments.rtts, arguments.losses, arguments.jitters)
    if any(axes):
        rates, rtts, losses, jitters = (axis or default for axis, default in zip(axes, ([1000], [12], [0], [0])))
        arguments.cells = [(r, t, l, j) for r in rates for t in rtts for l in losses for j in jitters]
    else:
        arguments.cells = QUICK_CELLS if quick else DEFAULT_CELLS
    return arguments


# ---- what is run --------------------------------------------------------------------------------------------------------


def change_plan(mbps, period, times):
    """The rate halves and doubles back `times` times, every `period` seconds, from second `period` on."""
    changes = [((number + 1) * period, mbps // 2 if number % 2 == 0 else mbps) for number in range(2 * times)]
    return Plan(seconds=(2 * times + 1) * period, settle=period / 2, changes=tuple(changes))


def steps(arguments):
    """(part, what is said, seconds expected, what runs it) for each run."""
    wanted = [name for name in SYSTEMS if name in arguments.systems]
    plain = Plan(arguments.seconds, arguments.settle)

    def one(part, cell, system, plan, more=""):
        return part, f"{cell_text(cell)}: {system}{more}", plan.seconds + OVERHEAD_S, lambda: channel_run.run(system, cell, arguments, plan)

    for part in arguments.parts:
        if part == "cells":
            for cell in arguments.cells:
                for system in wanted:
                    yield one(part, cell, system, plain)
        elif part == "change":
            for cell in CHANGE_CELLS[: 1 if arguments.quick else None]:
                plan = change_plan(cell[0], *((3, 1) if arguments.quick else (4, 2)))
                for system in [name for name in CHANGE_SYSTEMS[: 2 if arguments.quick else None] if name in wanted]:
                    yield one(part, cell, system, plan, ", the rate changes")
        elif part == "outage":
            cell = (int(arguments.outage_link[0]), *arguments.outage_link[1:])
            for length in arguments.outages:
                plan = Plan(OUTAGE_AFTER_S + length + AFTER_OUTAGE_S, arguments.settle, outage=(OUTAGE_AFTER_S, length))
                for system in [name for name in arguments.outage_systems if name in wanted]:
                    yield one(part, cell, system, plan, f", outage of {length} s")
        elif part == "fairness" and "longhaul" in wanted:
            # Flows need seconds to find their parts of a link.
            seconds, settle = (16, 8) if arguments.quick else (30, 10)
            for case in channel_fairness.cases(arguments.quick, arguments.buffers, arguments.sessions):
                name = f"{cell_text(case.cell)}: {case.text()}"
                yield part, name, seconds + OVERHEAD_S + case.sessions, lambda case=case: channel_fairness.run(case, arguments, seconds, settle)
        elif part == "memory" and "longhaul" in wanted:
            for cell in MEMORY_CELLS:
                yield one(part, cell, "longhaul", plain)
        elif part == "cpu" and "longhaul" in wanted:
            yield one(part, CPU_CELL, "longhaul", plain)
            if not channel_profile.missing():
                yield one(part, CPU_CELL, "longhaul", Plan(7, 2, profile=True), ", with perf")
        elif part == "alone" and "longhaul" in wanted:
            gigabytes = 0.3 if arguments.quick else 1
            # Three times both ways at 1 Gbps, behind a build.
            yield part, "the channel by itself", 60 + 6 * 9 * gigabytes, lambda: channel_alone.run(gigabytes)


def outcome(part, row):
    """A finished run in a line."""
    if "failure" in row:
        return f"failed: {row['failure']}"
    if part == "outage":
        said = f"back after {text(row['outage']['recovery_s'], '{:.2f}')} s"
    elif part == "change":
        said = "90 % after " + ", ".join(text(one["reached_s"], "{:.2f}") for one in row["changes"]) + " s"
    elif part == "fairness":
        said = ", ".join(f"{flow['who']} {flow['mbps']:.1f}" for flow in row["flows"]) + f" Mbps, Jain {row['jain']:.3f}"
    elif part == "alone":
        said = "send {send:.2f} s/GB, receive {receive:.2f}".format(**row["alone"]["channel"])
    else:
        said = f"{row['goodput_mbps']:.1f} Mbps, {row['of_ceiling']:.1%} of the ceiling"
    return said + (", void" if row["void"] else "")


def host_buffers():
    """Least, first and most bytes of a TCP socket's buffers: the most bounds what the kernel's own TCP can have under way."""
    found = {}
    for name in ("tcp_rmem", "tcp_wmem"):
        with open(f"/proc/sys/net/ipv4/{name}", encoding="ascii") as file:
            found[name] = [int(word) for word in file.read().split()]
    return found


def main():
    arguments = parse()
    planned = list(steps(arguments))
    if "quic" in arguments.systems and any(": quic" in name for _, name, _, _ in planned):
        peers.quic_program()
    left_out = []
    if "cpu" in arguments.parts and channel_profile.missing():
        left_out.append(f"the profile of the CPU's time: {channel_profile.missing()}")
    results = {
        "about": description(command=shlex.join(["scripts/bench", "channel", *sys.argv[1:]]), host_buffers=host_buffers()),
        "streams": arguments.streams, "seconds": arguments.seconds, "settle": arguments.settle, "late_ms": arguments.late_ms,
        "payload_bytes": PAYLOAD, "wire_bytes": WIRE, "left_out": left_out, "parts": {part: [] for part in arguments.parts}, "goals": [],
    }
    progress = Progress([seconds for _, _, seconds, _ in planned])
    for part, name, _, run in planned:
        progress.step(name)
        row = run()
        results["parts"][part].append(row)
        results["goals"] = [goal for part, rows in results["parts"].items() for goal in channel_goals.judged(part, rows)]
        write_files(arguments.out, results, *channel_report.report(results))
        progress.finish(outcome(part, row))
    print(channel_report.report(results)[0])
    return 1 if any("failure" in row for rows in results["parts"].values() for row in rows) else 0


if __name__ == "__main__":
    run_main(main)
