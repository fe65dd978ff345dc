"""One run of the channel benchmark: a lab, one stream (or more) from host a to host b, and everything measured of it."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import channel_profile
import peers
import process
from channel_figures import CELL, Arrivals, Queue, bdp_bytes, ceiling_mbps, change_figures
from common import ROOT, Failure, Lab, resent_share

STREAM = os.path.join(ROOT, "scripts", "lib", "bench", "stream.py")
PORT = 8000
SYSTEMS = ("longhaul", "bbr", "cubic", "quic", "kcptun")
# Those that are programs on the hosts; the hosts' own TCP then only crosses the loopback.
FORWARDERS = ("quic", "kcptun")
# Bins in which the emulator records its queues.
TRACE = "5ms"
# The path must be back that long before a run ends that waits for it.
AFTER_OUTAGE_S = 6
SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@dataclasses.dataclass
class Plan:
    """What happens in a run: times count from the sender's start, an outage's (start, length) from the emulator's."""

    seconds: float
    settle: float
    outage: tuple = None
    # (second, new Mbps)
    changes: tuple = ()
    profile: bool = False


# ---- the lab and what runs in it ----------------------------------------------------------------------------------------


def link_options(cell, seed):
    mbps, rtt, loss, jitter = cell
    options = ["--rate", f"{mbps} Mbps", "--rtt", f"{rtt}ms", "--seed", str(seed), "--trace", TRACE]
    # Loss on the way of the data only: what the table says is what a datagram meets.
    if loss:
        options += ["--ab-loss", f"{loss}%"]
    if jitter:
        options += ["--jitter", f"{jitter}ms"]
    return options


def lab_options(system, cell, seed):
    options = link_options(cell, seed)
    if system == "longhaul":
        return [*options, "--wiring", "accelerate", "--ports", str(PORT), "--compression", "off", "--cc", "cubic"]
    return [*options, "--wiring", "wire", "--cc", "cubic" if system in FORWARDERS else system]


def start(lab, side, *command, **options):
    # Signals meant for us must not reach them before we have asked for their results.
    options = {"text": True, "stdout": subprocess.PIPE, "start_new_session": True, **options}
    return subprocess.Popen(lab.inside(side, *map(str, command)), **options)


def start_receiver(lab, side, seconds):
    receiver = start(lab, side, sys.executable, STREAM, "receive", "--address", "0.0.0.0", "--port", PORT, "--seconds", seconds)
    receiver.stdout.readline()
    return receiver


def start_sender(lab, side, address, port, seconds, streams):
    target = ["--address", address, "--port", port]
    return start(lab, side, sys.executable, STREAM, "send", *target, "--seconds", seconds, "--streams", streams)


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


def change_rate(lab, mbps):
    """Changes the emulator's rate; when that was, in seconds since its start."""
    said = lab.run("change", "--rate", f"{mbps} Mbps", gently=True)
    return float(re.search(r"changed at ([\d.]+) s", said)[1])


@contextlib.contextmanager
def ended_children():
    """A list of children, none of which outlives the block."""
    children = []
    try:
        yield children
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
            child.wait()


class Usage:
    """What the processes, the hosts' TCP and the machine used between two moments."""

    def __init__(self, lab, pids):
        self.lab, self.pids = lab, pids
        self.before = self.now()

    def now(self):
        return {
            "at": time.monotonic(),
            "cpu": {role: process.cpu_seconds(pid) or 0.0 for role, pid in self.pids.items()},
            "split": {role: process.cpu_split_seconds(pid) or (0.0, 0.0) for role, pid in self.pids.items()},
            "tcp": self.lab.tcp_counters("a"),
            "machine": process.machine_ticks(),
        }

    def end(self):
        self.after = self.now()
        self.memory = {role: process.memory_bytes(pid, "VmHWM") for role, pid in self.pids.items()}

    def cpu(self):
        return {role: used - self.before["cpu"][role] for role, used in self.after["cpu"].items()}

    def split(self):
        """Role to the user's share of its CPU."""
        shares = {}
        for role, after in self.after["split"].items():
            user, system = (now - then for now, then in zip(after, self.before["split"][role]))
            shares[role] = user / (user + system) if user + system else None
        return shares

    def resent_share(self):
        return resent_share(self.before["tcp"], self.after["tcp"])

    def busy_share(self):
        return process.busy_share(self.before["machine"], self.after["machine"])


# ---- one run ------------------------------------------------------------------------------------------------------------


def run_once(system, cell, arguments, plan):
    options = lab_options(system, cell, arguments.seed) + (["--outage", f"{plan.outage[0]}s+{plan.outage[1]}s"] if plan.outage else [])
    profile = None
    with tempfile.TemporaryDirectory(prefix="longhaul-channel-") as folder, Lab(arguments.lab, *options) as lab, ended_children() as children:
        idle = {}
        if system == "longhaul":
            lab.wait_for_channel()
            idle = {role: process.memory_bytes(pid) for role, pid in processes_of(lab, system).items()}
        receiver = start_receiver(lab, "b", plan.seconds)
        children.append(receiver)
        address, port = "10.77.0.2", PORT
        if system in FORWARDERS:
            address, port = "127.0.0.1", peers.LOCAL_PORT
            children += start_forwarder(lab, system, cell, folder)
            time.sleep(0.5)
        pings = Pings(lab)
        children.append(pings.child)
        time.sleep(0.3)
        began = time.monotonic()
        sender = start_sender(lab, "a", address, port, plan.seconds, arguments.streams)
        children.append(sender)

        def sleep_until(second):
            time.sleep(max(0.0, began + second - time.monotonic()))

        sleep_until(plan.settle)
        usage = Usage(lab, processes_of(lab, system))
        if plan.profile:
            profile = channel_profile.Recording(usage.pids, folder, plan.seconds - plan.settle - 1)
        changed = []
        for second, mbps in plan.changes:
            sleep_until(second)
            changed.append((change_rate(lab, mbps), mbps))
        sleep_until(plan.seconds - 0.3)
        usage.end()
        sent = json.loads(sender.communicate(timeout=60)[0] or "{}")
        received = json.loads(receiver.communicate(timeout=60)[0] or "{}")
        round_trips = pings.stop()
        status = lab.status()
        profile = profile.top() if profile else None
    if not received.get("begun") or not sent:
        raise Failure(f"{system}: nothing arrived: {sent.get('error') or received.get('error') or 'a program died'}")
    row = figures(system, cell, arguments, plan, sent, received, round_trips, status, usage, changed)
    row["memory_idle_bytes"] = idle
    if profile:
        row["profile"] = profile
    return row


def lateness(wanem):
    lanes = [wanem[lane] for lane in ("a_to_b", "b_to_a")]
    return {
        "mean_us": max(lane["lateness"]["mean_us"] for lane in lanes),
        "p99_us": max(lane["lateness"]["p99_us"] for lane in lanes),
        "max_us": max(lane["lateness"]["max_us"] for lane in lanes),
        "local_drops": sum(sum(lane["local_drops"].values()) for lane in lanes),
    }


def is_void(late, arguments):
    return late["p99_us"] > arguments.late_ms * 1000 or late["local_drops"] > 0


def as_ms(queue_bytes, mbps):
    return None if queue_bytes is None else queue_bytes * 8 / (mbps * 1e3)


def figures(system, cell, arguments, plan, sent, received, round_trips, status, usage, changed):
    wanem, started = status["wanem"], sent["started"]
    arrivals = Arrivals(received["bins"], received["bin_s"], received["begun"])
    queue = Queue(wanem["a_to_b"].pop("trace"), wanem["started_monotonic_s"])
    since, until = started + plan.settle, sent["ended"] - 0.05
    goodput, ceiling = arrivals.mbps(since, until), ceiling_mbps(cell)
    steady = [rtt for moment, rtt in round_trips if since <= moment <= until]
    idle = [rtt for moment, rtt in round_trips if moment < started]
    cpu_from, cpu_to, cpu = usage.before["at"], usage.after["at"], usage.cpu()
    gigabytes = arrivals.between(cpu_from, cpu_to) / 1e9
    segments, bins, width = wanem["a_to_b"]["segments"], arrivals.bins, round(0.1 / arrivals.bin_s)
    row = {
        "system": system,
        "cell": dict(zip(CELL, cell)),
        "streams": arguments.streams,
        "goodput_mbps": goodput,
        "of_line": goodput / cell[0],
        "of_ceiling": goodput / ceiling,
        "startup_s": arrivals.reached_s(started, 0.9 * ceiling),
        "rtt_idle_ms": statistics.median(idle) if idle else None,
        "rtt_loaded_ms": statistics.median(steady) if steady else None,
        "rtt_loaded_max_ms": max(steady, default=None),
        "standing_queue_ms": as_ms(queue.standing_bytes(since, until), cell[0]),
        "queue_max_bytes": segments["queue_max_bytes"],
        "queue_full": segments["queue_full"],
        "cpu_s_per_gb": {role: seconds / gigabytes for role, seconds in cpu.items()} if gigabytes else {},
        "cpu_user_share": usage.split(),
        "cpu_share": {role: seconds / (cpu_to - cpu_from) for role, seconds in cpu.items()},
        "machine_busy_share": usage.busy_share(),
        "memory_peak_bytes": usage.memory,
        "bdp_bytes": bdp_bytes(*cell[:2]),
        "throughput_mbps": [
            round(sum(bins[at : at + width]) * 8 / (width * arrivals.bin_s) / 1e6, 1) for at in range(0, len(bins), width)
        ],
        "lateness": lateness(wanem),
        "load": os.getloadavg()[0],
        "error": sent["error"] or received["error"],
        "dropped_by_queue": segments["queue_full"] / max(1, segments["offered"]),
        "wire_efficiency": sum(bins) / segments["offered_bytes"] if segments["offered_bytes"] else None,
    }
    if system == "longhaul":
        channel = status["appliance_a"]["channel"]
        row["channel"], row["counters"] = channel, status["appliance_a"]["counters"]
        row["counters_receiver"] = status["appliance_b"]["counters"]
        row["retransmitted"] = (channel["bytes_retransmitted"] + channel["bytes_repair"]) / max(1, channel["bytes_sent"])
        row["spurious"] = channel["datagrams_lost_spuriously"] / max(1, channel["datagrams_sent"])
    elif system not in FORWARDERS:
        row["retransmitted"] = usage.resent_share()
    row["void"] = is_void(row["lateness"], arguments)
    if plan.outage:
        dead = wanem["started_monotonic_s"] + plan.outage[0]
        back = dead + plan.outage[1]
        row["outage"] = {
            "length_s": plan.outage[1],
            "before_mbps": arrivals.mbps(started + 2, dead),
            "recovery_s": arrivals.reached_s(back, 0.9 * ceiling),
            "watched_s": until - back,
        }
    if changed:
        moments = [(wanem["started_monotonic_s"] + second, mbps) for second, mbps in changed]
        row["changes"] = change_figures(arrivals, queue, moments, cell[1], until)
    return row


def repeated(arguments, described, once):
    """What `once` gives, repeated while the emulator was late; where it fails, what is `described`, and why."""
    row = None
    for attempt in range(arguments.repeats + 1):
        try:
            row = once()
        except (Failure, subprocess.TimeoutExpired, KeyError) as problem:
            return {**described, "failure": f"{type(problem).__name__}: {problem}"}
        row["attempts"] = attempt + 1
        if not row["void"]:
            break
    return row


def run(system, cell, arguments, plan):
    """One run, repeated while the emulator was late."""
    described = {"system": system, "cell": dict(zip(CELL, cell))}
    return repeated(arguments, described, lambda: run_once(system, cell, arguments, plan))
