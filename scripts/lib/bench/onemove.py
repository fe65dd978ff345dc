"""One live migration through a lab, or the replay of a recorded one, and everything that is measured of it."""

import json
import os
import statistics
import subprocess
import sys
import threading
import time

import appliances
import common
import process
import vm

PORT = 8000
WATCH_MS = 10
WAYS = ("a_to_b", "b_to_a")
# What the last segments' acknowledgements and the return path say is less than this per sample.
PAYLOAD = 600
# Of a run's destination: all of it there before anything moves. A run that does not say so took it as the pages came.
TARGET_MEMORY = "touched before"
HERE = os.path.dirname(os.path.abspath(__file__))


class Counter:
    """An interface, sampled while something moves."""

    def __init__(self, lab, role, interface):
        command = [sys.executable, os.path.join(HERE, "watch.py"), interface, str(WATCH_MS)]
        self.samples = []
        self.process = subprocess.Popen(lab.inside(role, *command), stdout=subprocess.PIPE, text=True)
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        for line in self.process.stdout:
            at, sent, received = line.split()
            self.samples.append((float(at), int(sent), int(received)))

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.thread.join()

    def bursts(self, column, after, before):
        """When the first and the last sample between two times carried payload."""
        times = [
            now[0]
            for last, now in zip(self.samples, self.samples[1:])
            if after <= now[0] <= before and now[column] - last[column] > PAYLOAD
        ]
        return (times[0], times[-1]) if times else (None, None)


def cpu_seconds(pid):
    """User and system time that a process has used, that of its ended threads as well; 0 if it is gone."""
    return sum(process.cpu_split_seconds(pid) or (0.0, 0.0))


class Watch:
    """What is counted around anything that moves from host a to host b: `begin`, then `arrived`, then `columns`.

    `between` maps a name to the process ids of what stands between the hosts and the WAN.
    """

    def __init__(self, lab, between):
        self.lab, self.between = lab, between
        self.before = lab.status()["wanem"]
        self.tcp_before = lab.tcp_counters("a")
        self.counters = {"a": Counter(lab, "a", "eth0"), "b": Counter(lab, "b", "eth0"), "wan": Counter(lab, "wan", "wan-a")}
        self.trace = appliances.Trace(lab)
        self.started = self.ended = time.time()

    def __enter__(self):
        time.sleep(0.5)
        return self

    def __exit__(self, *_):
        for counter in self.counters.values():
            counter.stop()
        self.traced = self.trace.stop(self.started)

    def cpu(self):
        return {name: sum(map(cpu_seconds, pids)) for name, pids in self.between.items()}

    def begin(self):
        self.cpu_before, self.machine_before = self.cpu(), process.machine_ticks()
        self.started = time.time()

    def arrived(self, at):
        self.ended = at
        self.busy_share = process.busy_share(self.machine_before, process.machine_ticks())
        self.used = {name: used - self.cpu_before[name] for name, used in self.cpu().items()}
        # Late acknowledgements are still part of it.
        time.sleep(0.5)

    def columns(self, moved):
        """What was measured, after the `with`."""
        started, ended, lab, counters = self.started, self.ended, self.lab, self.counters
        status = lab.status()
        _, last_sent = counters["a"].bursts(1, started, ended)
        first_received, last_received = counters["b"].bursts(2, started, ended)
        return {
            "seconds": ended - started,
            "moved_bytes": moved,
            "wire_bytes": on_wire(self.before, status["wanem"]),
            "drain_ms": (ended - last_sent) * 1000 if last_sent else None,
            "last_received_ms": (ended - last_received) * 1000 if last_received else None,
            "sending_s": last_received - first_received if first_received else None,
            "host_resent_share": common.resent_share(self.tcp_before, lab.tcp_counters("a")),
            "appliance_cpu_s": self.used,
            "appliance_cpu_s_per_gb": {name: used / (moved / 1e9) for name, used in self.used.items()},
            "machine_busy_share": self.busy_share,
            "wanem_lateness": {way: status["wanem"][way]["lateness"] for way in WAYS},
            "wanem": status["wanem"],
            "appliance_a": status.get("appliance_a"),
            "appliance_b": status.get("appliance_b"),
            "appliance_trace": self.traced,
            "load": os.getloadavg()[0],
            "undelivered_mb_max": undelivered(counters["a"].samples, counters["b"].samples, started, ended),
            "throughput": throughput(counters["a"].samples, 1, started, ended),
            "wire_throughput": throughput(counters["wan"].samples, 2, started, ended),
            "delivered": throughput(counters["b"].samples, 2, started, ended),
        }


def move(lab, guest, state, folder, seconds, address, between, told=None):
    """Moves the guest from host a to host b. Returns what was measured; raises Failure where it did not arrive.

    `told` is the rate in bytes per second that QEMU may reckon with once the guest is stopped; None: what it measures.
    """
    path, expected_sum = state
    target = vm.Vm(guest, "target", folder, incoming=f"tcp:0.0.0.0:{PORT}", prefix=lab.inside("b"), touched=True)
    with target, vm.Vm(guest, "source", folder, incoming=f"file:{path}", prefix=lab.inside("a")) as source:
        source.start_saved()
        source.migrate_parameters(return_path=True, switchover=told)
        target.qmp("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        with Watch(lab, between) as watch:
            qemu_cpu = [cpu_seconds(one.process.pid) for one in (source, target)]
            watch.begin()
            source.qmp("migrate", uri=f"tcp:{address}:{PORT}")
            source.wait_migrated(seconds)
            watch.arrived(target.wait(lambda: target.event("RESUME"), 60, "running guest at the destination"))
            target.wait_line("B", 20)
            qemu_cpu = [cpu_seconds(one.process.pid) - used for one, used in zip((source, target), qemu_cpu)]
        told = source.qmp("query-migrate")
        measured = watch.columns(told["ram"]["transferred"])
        total, wrong = target.verify()
        stopped = source.event("STOP")
        gap, lost = beats(source.beats, target.beats, source.tail + (target.head or b""))
        return {
            **measured,
            "downtime_qemu_ms": told.get("downtime"),
            "downtime_stop_ms": (watch.ended - stopped) * 1000 if stopped else None,
            "downtime_beat_ms": gap,
            "lost_beats": lost,
            "usual_beat_gap_ms": usual_gap(source.beats, watch.started),
            "intact": total == expected_sum and wrong == 0,
            "wrong_working_set_pages": wrong,
            "passes": told["ram"]["dirty-sync-count"],
            "target_memory": TARGET_MEMORY,
            "host_cpu_s": qemu_cpu,
        }


def replay(lab, recorded, seconds, address, between, host_cpu_s_per_gb):
    """Sends a recorded migration from host a to host b with a plain program. Returns what was measured.

    `host_cpu_s_per_gb` is what both ends are to use at least, as QEMU would.
    """
    path, expected_sum = recorded
    source_cpu, target_cpu = host_cpu_s_per_gb
    script = os.path.join(HERE, "replay.py")
    listen = lab.inside("b", sys.executable, script, "receive", "--port", str(PORT), "--bytes", str(os.path.getsize(path)))
    listen += ["--cpu-per-gb", str(target_cpu)]
    send = lab.inside("a", sys.executable, script, "send", "--address", address, "--port", str(PORT), "--file", path)
    send += ["--cpu-per-gb", str(source_cpu)]
    with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as receiver:
        try:
            if receiver.stdout.readline().strip() != "listening":
                raise common.Failure("the replay's receiver did not start")
            with Watch(lab, between) as watch:
                watch.begin()
                try:
                    sent = json.loads(subprocess.run(send, stdout=subprocess.PIPE, check=True, timeout=seconds).stdout)
                except subprocess.TimeoutExpired as problem:
                    raise common.Failure(f"the replay did not arrive within {seconds:.0f} s") from problem
                watch.started = sent["started"]
                watch.arrived(sent["answered"])
            received = json.loads(receiver.stdout.readline())
        finally:
            receiver.kill()
    nothing = ("downtime_qemu_ms", "downtime_stop_ms", "downtime_beat_ms", "lost_beats", "usual_beat_gap_ms", "passes")
    return {
        **watch.columns(sent["bytes"]),
        **dict.fromkeys(nothing),
        "intact": received["sum"] == expected_sum,
        "wrong_working_set_pages": 0,
        "target_memory": TARGET_MEMORY,
        "host_cpu_s": [sent["cpu_s"], received["cpu_s"]],
    }


def beats(source, target, between):
    """The heartbeat's gap over the move in ms, and how many numbers never appeared. `between`: what the source said last and the
    destination first, which is a beat where the guest was stopped in the midst of one."""
    if not source or not target:
        return None, None
    last, first = source[-1][1], target[0][1]
    is_split = first > last + 1 and between.strip() == f"B {last + 1}".encode()
    return (target[0][0] - source[-1][0]) * 1000, first - last - 1 - is_split


def usual_gap(source, started):
    """The longest gap between two beats while the guest was not on the move yet or copied in the background."""
    gaps = [(now[0] - last[0]) * 1000 for last, now in zip(source, source[1:]) if last[0] > started]
    return max(gaps) if gaps else None


def on_wire(before, after):
    """What crossed the emulator or was lost there, both directions, with Ethernet headers."""
    return sum(after[way]["segments"]["offered_bytes"] - before[way]["segments"]["offered_bytes"] for way in WAYS)


def throughput(samples, column, started, ended, interval=0.25):
    """Mbps per quarter of a second from the start: what a plot shows."""
    rates, at, last = [], started, None
    for now in samples:
        if now[0] < started:
            last = now
            continue
        if last is None:
            last = now
        # A sampler that was kept waiting may be far behind the interval's start.
        if now[0] - at >= interval and now[0] > last[0]:
            rates.append([round(now[0] - started, 3), round((now[column] - last[column]) * 8 / 1e6 / (now[0] - last[0]), 1)])
            at, last = now[0], now
        if now[0] > ended + 0.5:
            break
    return rates


def undelivered(sender, receiver, started, ended):
    """Most megabytes that had left the source and not reached the destination's host: what a switch-over waits for."""
    if not sender or not receiver:
        return None
    base_sent, base_received = sender[0][1], receiver[0][2]
    most, at = 0, 0
    for now, sent, _ in sender:
        if not started <= now <= ended:
            continue
        while at + 1 < len(receiver) and receiver[at + 1][0] <= now:
            at += 1
        most = max(most, (sent - base_sent) - (receiver[at][2] - base_received))
    return round(most / 1e6, 2)


def median(values):
    values = [value for value in values if value is not None]
    return statistics.median(values) if values else None
