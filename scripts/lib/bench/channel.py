"""scripts/bench channel: incompressible TCP from host a to host b through the lab, by link and by system.

Systems: `longhaul` (compression off), the hosts' own kernel TCP with `cubic` and `bbr`, and two programs on both hosts:
`quic` (the forwarder on quinn with BBR, windows of two BDP) and `kcptun` (window 1.5 BDP, no repair symbols, no compression).
"""

import argparse
import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import peers
import process
from common import ROOT, Failure, Lab, Progress, description, markdown_table, run_main, write_files

STREAM = os.path.join(ROOT, "scripts", "lib", "bench", "stream.py")
PORT = 8000
SYSTEMS = ("longhaul", "bbr", "cubic", "quic", "kcptun")
# Those that are programs on the hosts; the hosts' own TCP then only crosses the loopback.
FORWARDERS = ("quic", "kcptun")

# Stream bytes of a full datagram of the channel (1500 less IP, UDP, header, tag, frame header), and what it is on the
# wire with Ethernet's header, which is how the emulator counts.
PAYLOAD, WIRE = 1439, 1514

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
QUICK_CELLS = [(1000, 5, 0, 0), (1000, 12, 0.1, 0), (1000, 100, 1, 0), (100, 25, 0.01, 3)]


def ceiling_mbps(cell):
    mbps, _, loss, _ = cell
    return mbps * PAYLOAD / WIRE * (1 - loss / 100)


def cell_text(cell):
    mbps, rtt, loss, jitter = cell
    rate = f"{mbps // 1000} Gbps" if mbps % 1000 == 0 else f"{mbps} Mbps"
    return f"{rate}, {rtt:g} ms, {loss:g} %" + (f", jitter {jitter:g} ms" if jitter else "")


def link_options(cell, seed):
    mbps, rtt, loss, jitter = cell
    options = ["--rate", f"{mbps} Mbps", "--rtt", f"{rtt}ms", "--seed", str(seed)]
    # Loss on the way of the data only: what the table says is what a datagram meets.
    if loss:
        options += ["--ab-loss", f"{loss}%"]
    if jitter:
        options += ["--jitter", f"{jitter}ms"]
    return options


def lab_options(system, cell, arguments):
    options = link_options(cell, arguments.seed)
    if system == "longhaul":
        return [*options, "--wiring", "accelerate", "--ports", str(PORT), "--compression", "off", "--cc", "cubic"]
    return [*options, "--wiring", "wire", "--cc", "cubic" if system in FORWARDERS else system]


def start(lab, side, *command, **options):
    # Signals meant for us must not reach them before we have asked for their results.
    options = {"text": True, "stdout": subprocess.PIPE, "start_new_session": True, **options}
    return subprocess.Popen(lab.inside(side, *map(str, command)), **options)


SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def start_kcptun(lab, cell):
    mbps, rtt, _, _ = cell
    window = str(max(256, int(1.5 * mbps * 1e6 / 8 * rtt / 1e3 / 1400)))
    common = ["--mode", "fast2", "--nocomp", "--crypt", "aes", "--datashard", "0", "--parityshard", "0", "--mtu", "1472"]
    common += ["--sndwnd", window, "--rcvwnd", window, "--sockbuf", str(16 << 20), "--smuxbuf", str(32 << 20), "--quiet"]
    commands = (
        ("b", ["kcptun-server", "-t", f"127.0.0.1:{PORT}", "-l", f":{peers.KCPTUN_PORT}"]),
        ("a", ["kcptun-client", "-r", f"10.77.0.2:{peers.KCPTUN_PORT}", "-l", f"127.0.0.1:{peers.LOCAL_PORT}"]),
    )
    for side, command in commands:
        program, environment = peers.peer_program(f"usr/bin/{command[0]}")
        yield start(lab, side, program, *command[1:], *common, env=environment, **SILENT)


def start_forwarder(lab, system, cell, folder):
    """Starts the programs of a forwarder on both hosts; they carry what arrives at LOCAL_PORT of host a."""
    if system == "kcptun":
        return list(start_kcptun(lab, cell))
    commands = peers.quic_commands(folder, "10.77.0.2", *cell[:2], target=f"127.0.0.1:{PORT}")
    return [start(lab, side, *command, **SILENT) for side, command in commands]


def processes_of(lab, system):
    """Role in the table to process id."""
    names = {"longhaul": ("appa", "appb", "longhaul"), "kcptun": ("a", "b", "kcptun-"), "quic": ("a", "b", "quic-forward")}.get(system)
    found = {}
    if names:
        for role, namespace in (("send", names[0]), ("receive", names[1])):
            for pid in lab.pids(namespace):
                if process.name(pid).startswith(names[2]):
                    found[role] = pid
    for pid in lab.pids("wan"):
        if process.name(pid) == "wanem":
            found["wanem"] = pid
    return found


def tcp_counters(lab, side):
    lines = [line.split() for line in lab.read(side, "cat", "/proc/net/snmp").splitlines() if line.startswith("Tcp:")]
    return dict(zip(lines[0][1:], map(int, lines[1][1:])))


class Pings:
    """Round trips beside the flow, with the moment of each."""

    def __init__(self, lab):
        self.child = start(lab, "a", "ping", "-n", "-D", "-i", "0.05", "10.77.0.2")

    def stop(self):
        self.child.send_signal(signal.SIGINT)
        text = self.child.communicate()[0]
        offset = time.monotonic() - time.time()
        found = re.findall(r"^\[([\d.]+)\].*time=([\d.]+) ms", text, re.MULTILINE)
        return [(float(moment) + offset, float(rtt)) for moment, rtt in found]


def lateness(status):
    lanes = [status["wanem"][lane] for lane in ("a_to_b", "b_to_a")]
    return {
        "mean_us": max(lane["lateness"]["mean_us"] for lane in lanes),
        "p99_us": max(lane["lateness"]["p99_us"] for lane in lanes),
        "max_us": max(lane["lateness"]["max_us"] for lane in lanes),
        "local_drops": sum(sum(lane["local_drops"].values()) for lane in lanes),
    }


def emulator_start(lab, status):
    """The moment (monotonic) from which the emulator counts, outages too: its counters are of when it wrote them."""
    path = os.path.join(os.environ.get("XDG_RUNTIME_DIR") or "/run", "longhaul-lab", lab.name, "wanem.json")
    return os.stat(path).st_mtime - status["wanem"]["elapsed_s"] + time.monotonic() - time.time()


def startup_seconds(bins, bin_s, begun, started, wanted_mbps):
    """From the sender's start until 50 ms together carried `wanted_mbps`."""
    width = max(1, round(0.05 / bin_s))
    for at in range(len(bins) - width):
        if sum(bins[at : at + width]) * 8 / (width * bin_s) >= wanted_mbps * 1e6:
            return begun - started + (at + width) * bin_s
    return None


def run_once(system, cell, arguments, outage=None):
    seconds = arguments.seconds if outage is None else outage[0] + outage[1] + 6
    options = lab_options(system, cell, arguments) + (["--outage", f"{outage[0]}s+{outage[1]}s"] if outage else [])
    children = []
    with tempfile.TemporaryDirectory(prefix="longhaul-channel-") as folder, Lab(arguments.lab, *options) as lab:
        try:
            if system == "longhaul":
                lab.wait_for_channel()
            target = ["--address", "10.77.0.2", "--port", PORT]
            stream = [sys.executable, STREAM]
            receiver = start(lab, "b", *stream, "receive", "--address", "0.0.0.0", "--port", PORT, "--seconds", seconds)
            children.append(receiver)
            receiver.stdout.readline()
            if system in FORWARDERS:
                target = ["--address", "127.0.0.1", "--port", peers.LOCAL_PORT]
                children += start_forwarder(lab, system, cell, folder)
                time.sleep(0.5)
            pings = Pings(lab)
            children.append(pings.child)
            time.sleep(0.3)
            began = time.monotonic()
            sender = start(lab, "a", *stream, "send", *target, "--seconds", seconds, "--streams", arguments.streams)
            children.append(sender)
            time.sleep(max(0.0, arguments.settle - (time.monotonic() - began)))
            pids = processes_of(lab, system)
            cpu_before = {role: process.cpu_seconds(pid) for role, pid in pids.items()}
            tcp_before, cpu_from = tcp_counters(lab, "a"), time.monotonic()
            time.sleep(max(0.0, seconds - 0.3 - (time.monotonic() - began)))
            cpu = {role: process.cpu_seconds(pid) - (cpu_before[role] or 0) for role, pid in pids.items()}
            memory = {role: process.memory_peak_bytes(pid) for role, pid in pids.items()}
            tcp_after, cpu_to = tcp_counters(lab, "a"), time.monotonic()
            sent = json.loads(sender.communicate(timeout=60)[0] or "{}")
            received = json.loads(receiver.communicate(timeout=60)[0] or "{}")
            round_trips = pings.stop()
            status = lab.status()
            emulator_began = emulator_start(lab, status)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                child.wait()
    if not received.get("begun") or not sent:
        raise Failure(f"{system}: nothing arrived: {sent.get('error') or received.get('error') or 'a program died'}")
    return figures(system, cell, arguments, sent, received, round_trips, status, {
        "cpu": cpu, "cpu_from": cpu_from, "cpu_to": cpu_to, "memory": memory, "tcp": (tcp_before, tcp_after),
        "outage": outage, "wanem_started": emulator_began,
    })


def figures(system, cell, arguments, sent, received, round_trips, status, usage):
    bins, bin_s, begun, started = received["bins"], received["bin_s"], received["begun"], sent["started"]

    def bytes_between(since, until):
        return sum(bins[max(0, int((since - begun) / bin_s)) : max(0, int((until - begun) / bin_s))])

    since, until = started + arguments.settle, sent["ended"] - 0.05
    goodput = bytes_between(since, until) * 8 / (until - since) / 1e6
    ceiling = ceiling_mbps(cell)
    steady = [rtt for moment, rtt in round_trips if since <= moment <= until]
    idle = [rtt for moment, rtt in round_trips if moment < started]
    gigabytes = bytes_between(usage["cpu_from"], usage["cpu_to"]) / 1e9
    row = {
        "system": system,
        "cell": dict(zip(("rate_mbps", "rtt_ms", "loss_percent", "jitter_ms"), cell)),
        "streams": arguments.streams,
        "goodput_mbps": goodput,
        "of_line": goodput / cell[0],
        "of_ceiling": goodput / ceiling,
        "startup_s": startup_seconds(bins, bin_s, begun, started, 0.9 * ceiling),
        "rtt_idle_ms": statistics.median(idle) if idle else None,
        "rtt_loaded_ms": statistics.median(steady) if steady else None,
        "rtt_loaded_max_ms": max(steady, default=None),
        "queue_max_bytes": status["wanem"]["a_to_b"]["segments"]["queue_max_bytes"],
        "queue_full": status["wanem"]["a_to_b"]["segments"]["queue_full"],
        "cpu_s_per_gb": {role: seconds / gigabytes for role, seconds in usage["cpu"].items()} if gigabytes else {},
        "cpu_share": {role: seconds / (usage["cpu_to"] - usage["cpu_from"]) for role, seconds in usage["cpu"].items()},
        "memory_peak_bytes": usage["memory"],
        "throughput_mbps": [round(sum(bins[at : at + 10]) * 8 / (10 * bin_s) / 1e6, 1) for at in range(0, len(bins), 10)],
        "lateness": lateness(status),
        "load": os.getloadavg()[0],
        "error": sent["error"] or received["error"],
    }
    segments = status["wanem"]["a_to_b"]["segments"]
    row["dropped_by_queue"] = segments["queue_full"] / max(1, segments["offered"])
    row["wire_efficiency"] = sum(bins) / segments["offered_bytes"] if segments["offered_bytes"] else None
    if system == "longhaul":
        channel = status["appliance_a"]["channel"]
        row["channel"], row["counters"] = channel, status["appliance_a"]["counters"]
        row["counters_receiver"] = status["appliance_b"]["counters"]
        row["retransmitted"] = channel["bytes_retransmitted"] / max(1, channel["bytes_sent"])
        row["spurious"] = channel["datagrams_lost_spuriously"] / max(1, channel["datagrams_sent"])
    elif system not in FORWARDERS:
        before, after = usage["tcp"]
        row["retransmitted"] = (after["RetransSegs"] - before["RetransSegs"]) / max(1, after["OutSegs"] - before["OutSegs"])
    row["void"] = row["lateness"]["p99_us"] > arguments.late_ms * 1000 or row["lateness"]["local_drops"] > 0
    if usage["outage"]:
        start_s, length = usage["outage"]
        back = usage["wanem_started"] + start_s + length
        after = max(0, int((back - begun) / bin_s))
        row["outage"] = {
            "length_s": length,
            "before_mbps": bytes_between(started + 2, usage["wanem_started"] + start_s) * 8
            / max(0.1, usage["wanem_started"] + start_s - started - 2) / 1e6,
            "recovery_s": startup_seconds(bins[after:], bin_s, begun + after * bin_s, back, 0.9 * ceiling),
        }
    return row


def run(system, cell, arguments, outage=None):
    """One run, repeated while the emulator was late."""
    row = None
    for attempt in range(arguments.repeats + 1):
        try:
            row = run_once(system, cell, arguments, outage)
        except (Failure, subprocess.TimeoutExpired, KeyError) as problem:
            return {"system": system, "cell": dict(zip(("rate_mbps", "rtt_ms", "loss_percent", "jitter_ms"), cell)), "failure": str(problem)}
        row["attempts"] = attempt + 1
        if not row["void"]:
            break
    return row


def text(value, form="{:.1f}"):
    return "-" if value is None else form.format(value)


def report(results):
    head = ["link", "system", "Mbps", "% line", "% ceiling", "start-up s", "again %", "queue dropped %", "RTT idle ms", "loaded ms",
            "queue max KB", "CPU s/GB send", "receive", "MiB send", "receive", "late p99 ms"]
    lines = []
    for row in results["cells"]:
        what = cell_text(tuple(row["cell"].values()))
        if "failure" in row:
            lines.append([what, row["system"], f"failed: {row['failure']}"] + [""] * (len(head) - 3))
            continue
        cpu, memory = row["cpu_s_per_gb"], row["memory_peak_bytes"]
        mib = lambda role: text(memory[role] / 2**20, "{:.0f}") if memory.get(role) else "-"
        lines.append([
            what, row["system"] + (" VOID" if row["void"] else ""), text(row["goodput_mbps"]), text(row["of_line"] * 100),
            text(row["of_ceiling"] * 100), text(row["startup_s"], "{:.2f}"),
            text(row["retransmitted"] * 100, "{:.2f}") if "retransmitted" in row else "-",
            text(row["dropped_by_queue"] * 100, "{:.2f}"), text(row["rtt_idle_ms"], "{:.2f}"), text(row["rtt_loaded_ms"], "{:.2f}"), text(row["queue_max_bytes"] / 1e3, "{:.0f}"),
            text(cpu.get("send"), "{:.2f}"), text(cpu.get("receive"), "{:.2f}"), mib("send"), mib("receive"),
            text(row["lateness"]["p99_us"] / 1e3, "{:.2f}"),
        ])
    about = results["about"]
    send_buffer = about["host_buffers"]["tcp_wmem"][2]
    parts = [
        "# The channel in the lab\n",
        f"{about['machine']['cpu']}, {about['machine']['cores']} cores, Linux {about['kernel']}, commit {about['commit']}, "
        f"{about['date']}, load {about['load_at_start'][0]:.1f} at the start. `{about['command']}`\n",
        f"{results['streams']} TCP stream(s) of random bytes from host a to host b for {results['seconds']:g} s; goodput from second "
        f"{results['settle']:g} on. Ceiling: line rate x {PAYLOAD}/{WIRE} x (1 - loss), the same for every system. Start-up: from "
        "connecting until 50 ms together reach 90 % of it. Again: sent again, of what was sent, as the sender counts it (the "
        "forwarders tell nothing of it). Queue dropped: of what was offered to the link, what its full queue refused. RTT: ping beside the flow, median. VOID: the emulator released one "
        f"frame in a hundred more than {results['late_ms']:g} ms late, or lost some itself; the figures are kept for what they are. "
        "Each process's CPU includes its system calls; a kernel TCP's own cost belongs to the hosts and is not listed. "
        f"The hosts' sockets have the system's buffers, {send_buffer / 2**20:g} MiB to send at most: what kernel TCP has under way.\n",
        markdown_table(head, lines),
    ]
    if results["outages"]:
        rows = []
        for row in results["outages"]:
            outage = row.get("outage", {})
            rows.append([cell_text(tuple(row["cell"].values())), row["system"], text(outage.get("length_s"), "{:g}"),
                         text(outage.get("before_mbps")), text(outage.get("recovery_s"), "{:.2f}")])
        parts += ["\n## After an outage\n", markdown_table(["link", "system", "outage s", "Mbps before", "back at 90 % after s"], rows)]
    return "\n".join(parts)


def numbers(kind):
    return lambda listed: [kind(word) for word in listed.split(",") if word]


def parse():
    parser = argparse.ArgumentParser(prog="scripts/bench channel", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, help="folder for results.json and report.md")
    parser.add_argument("--quick", action="store_true", help="four links, seven seconds each: five minutes at most")
    parser.add_argument("--systems", type=lambda listed: listed.split(","), default=list(SYSTEMS), help="of " + ",".join(SYSTEMS))
    parser.add_argument("--rates", type=numbers(int), help="Mbps, e.g. 100,1000; with --rtts, --losses, --jitters: their full matrix")
    parser.add_argument("--rtts", type=numbers(float), help="ms, e.g. 1,5,12,25,50,100,150,300")
    parser.add_argument("--losses", type=numbers(float), help="percent, e.g. 0,0.01,0.1,1,3,5")
    parser.add_argument("--jitters", type=numbers(float), help="ms, e.g. 0,3")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="length of a run (10; quick: 7)")
    parser.add_argument("--settle", type=float, help="goodput counts from here on (5; quick: 3)")
    parser.add_argument("--outages", type=numbers(int), help="seconds of dead WAN, one run each on the outage link (1,10; quick: none)")
    parser.add_argument("--outage-link", type=numbers(float), default=[1000, 12, 0, 0], help="Mbps,RTT ms,loss %%,jitter ms")
    parser.add_argument("--late-ms", type=float, default=5, help="the emulator may be this late in one frame of a hundred")
    parser.add_argument("--repeats", type=int, default=1, help="repetitions of a run in which it was later")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--lab", default="bench", help="name of the lab")
    arguments = parser.parse_args()
    unknown = set(arguments.systems) - set(SYSTEMS)
    if unknown:
        parser.error(f"no system {', '.join(sorted(unknown))}")
    arguments.seconds = arguments.seconds or (7 if arguments.quick else 10)
    arguments.settle = arguments.settle or (3 if arguments.quick else 5)
    if arguments.settle + 1 > arguments.seconds:
        parser.error("--seconds has to exceed --settle by one at least")
    if arguments.outages is None:
        arguments.outages = [] if arguments.quick else [1, 10]
    axes = (arguments.rates, arguments.rtts, arguments.losses, arguments.jitters)
    if any(axes):
        rates, rtts, losses, jitters = (axis or default for axis, default in zip(axes, ([1000], [12], [0], [0])))
        arguments.cells = [(r, t, l, j) for r in rates for t in rtts for l in losses for j in jitters]
    else:
        arguments.cells = QUICK_CELLS if arguments.quick else DEFAULT_CELLS
    return arguments


def host_buffers():
    """Least, first and most bytes of a TCP socket's buffers: the most bounds what the kernel's own TCP can have under way."""
    found = {}
    for name in ("tcp_rmem", "tcp_wmem"):
        with open(f"/proc/sys/net/ipv4/{name}", encoding="ascii") as file:
            found[name] = [int(word) for word in file.read().split()]
    return found


def main():
    arguments = parse()
    if "quic" in arguments.systems:
        peers.quic_program()
    outage_cell = (int(arguments.outage_link[0]), *arguments.outage_link[1:])
    runs = [(cell, system, None) for cell in arguments.cells for system in arguments.systems]
    runs += [(outage_cell, system, (6, length)) for length in arguments.outages for system in arguments.systems if system != "kcptun"]
    expected = [(arguments.seconds if outage is None else sum(outage) + 6) + 3 for _, _, outage in runs]
    results = {
        "about": description(command=shlex.join(["scripts/bench", "channel", *sys.argv[1:]]), host_buffers=host_buffers()),
        "streams": arguments.streams, "seconds": arguments.seconds, "settle": arguments.settle, "late_ms": arguments.late_ms,
        "payload_bytes": PAYLOAD, "wire_bytes": WIRE, "cells": [], "outages": [],
    }
    progress = Progress(expected)
    for cell, system, outage in runs:
        progress.step(f"{cell_text(cell)}: {system}" + (f", outage of {outage[1]} s" if outage else ""))
        row = run(system, cell, arguments, outage)
        results["outages" if outage else "cells"].append(row)
        write_files(arguments.out, results, report(results))
        if "failure" in row:
            progress.finish(f"failed: {row['failure']}")
        elif outage:
            progress.finish(f"back after {text(row['outage']['recovery_s'], '{:.2f}')} s")
        else:
            progress.finish(f"{row['goodput_mbps']:.1f} Mbps, {row['of_ceiling']:.1%} of the ceiling" + (", void" if row["void"] else ""))
    print(report(results))
    return 1 if any("failure" in row for row in results["cells"] + results["outages"]) else 0


if __name__ == "__main__":
    run_main(main)
