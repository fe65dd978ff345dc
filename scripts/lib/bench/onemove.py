"""One live migration through a lab, and everything that is measured of it."""

import os
import statistics
import subprocess
import sys
import threading
import time

import appliances
import common
import vm

PORT = 8000
WATCH_MS = 10
WAYS = ("a_to_b", "b_to_a")
# What the last segments' acknowledgements and the return path say is less than this per sample.
PAYLOAD = 600


class Counter:
    """An interface, sampled while something moves."""

    def __init__(self, lab, role, interface):
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "watch.py")
        self.samples = []
        self.process = subprocess.Popen(
            lab.inside(role, sys.executable, script, interface, str(WATCH_MS)), stdout=subprocess.PIPE, text=True
        )
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


def busy_seconds():
    """Core seconds that the whole machine has spent on anything, and all that went by."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    # The fourth and the fifth are idle and waiting for a disk.
    return (sum(ticks) - ticks[3] - ticks[4]), sum(ticks)


def tcp_counters(lab, role):
    """Segments sent and sent again by a namespace's kernel."""
    names, values = [line.split()[1:] for line in lab.read(role, "cat", "/proc/net/snmp").splitlines() if line.startswith("Tcp:")]
    counters = dict(zip(names, values))
    return int(counters["OutSegs"]), int(counters["RetransSegs"])


def move(lab, guest, state, folder, seconds, address="10.77.0.2", between=None):
    """Moves the guest from host a to host b. Returns what was measured; raises Failure where it did not arrive.

    `between` maps a name to the process ids of what stands between the hosts and the WAN.
    """
    between = between or {}
    path, expected_sum = state
    target = vm.Vm(guest, "target", folder, incoming=f"tcp:0.0.0.0:{PORT}", prefix=lab.inside("b"))
    with target, vm.Vm(guest, "source", folder, incoming=f"file:{path}", prefix=lab.inside("a")) as source:
        source.start_saved()
        source.migrate_parameters(return_path=True)
        target.qmp("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}])
        before = lab.status()["wanem"]
        segments = tcp_counters(lab, "a")
        counters = {"a": Counter(lab, "a", "eth0"), "b": Counter(lab, "b", "eth0"), "wan": Counter(lab, "wan", "wan-a")}
        trace, started = appliances.Trace(lab), time.time()
        try:
            time.sleep(0.5)
            cpu = {name: sum(map(common.cpu_seconds, pids)) for name, pids in between.items()}
            qemu_cpu = [common.cpu_seconds(one.process.pid) for one in (source, target)]
            machine = busy_seconds()
            started = time.time()
            source.qmp("migrate", uri=f"tcp:{address}:{PORT}")
            source.wait_migrated(seconds)
            running = target.wait(lambda: target.event("RESUME"), 60, "running guest at the destination")
            busy, spent = (now - then for now, then in zip(busy_seconds(), machine))
            target.wait_line("B", 20)
            cpu = {name: sum(map(common.cpu_seconds, pids)) - cpu[name] for name, pids in between.items()}
            qemu_cpu = [common.cpu_seconds(one.process.pid) - used for one, used in zip((source, target), qemu_cpu)]
            time.sleep(0.5)
        finally:
            for counter in counters.values():
                counter.stop()
            traced = trace.stop(started)
        told = source.qmp("query-migrate")
        status = lab.status()
        sent, again = (now - then for now, then in zip(tcp_counters(lab, "a"), segments))
        total, wrong = target.verify()
        moved = told["ram"]["transferred"]
        stopped = source.event("STOP")
        gap, lost = beats(source.beats, target.beats)
        _, last_sent = counters["a"].bursts(1, started, running)
        first_received, last_received = counters["b"].bursts(2, started, running)
        wire = on_wire(before, status["wanem"])
        return {
            "seconds": running - started,
            "downtime_qemu_ms": told.get("downtime"),
            "downtime_stop_ms": (running - stopped) * 1000 if stopped else None,
            "downtime_beat_ms": gap,
            "lost_beats": lost,
            "usual_beat_gap_ms": usual_gap(source.beats, started),
            "intact": total == expected_sum and wrong == 0,
            "wrong_working_set_pages": wrong,
            "moved_bytes": moved,
            "passes": told["ram"]["dirty-sync-count"],
            "wire_bytes": wire,
            "drain_ms": (running - last_sent) * 1000 if last_sent else None,
            "last_received_ms": (running - last_received) * 1000 if last_received else None,
            "sending_s": last_received - first_received if first_received else None,
            "host_resent_share": again / sent if sent else 0.0,
            "appliance_cpu_s": cpu,
            "appliance_cpu_s_per_gb": {name: used / (moved / 1e9) for name, used in cpu.items()},
            "qemu_cpu_s": qemu_cpu,
            "machine_busy_share": busy / max(spent, 1),
            "wanem_lateness": {way: status["wanem"][way]["lateness"] for way in WAYS},
            "wanem": status["wanem"],
            "appliance_a": status.get("appliance_a"),
            "appliance_b": status.get("appliance_b"),
            "appliance_trace": traced,
            "load": os.getloadavg()[0],
            "undelivered_mb_max": undelivered(counters["a"].samples, counters["b"].samples, started, running),
            "throughput": throughput(counters["a"].samples, 1, started, running),
            "wire_throughput": throughput(counters["wan"].samples, 2, started, running),
            "delivered": throughput(counters["b"].samples, 2, started, running),
        }


def beats(source, target):
    """The heartbeat's gap over the move in ms, and how many numbers never appeared."""
    if not source or not target:
        return None, None
    return (target[0][0] - source[-1][0]) * 1000, target[0][1] - source[-1][1] - 1


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
