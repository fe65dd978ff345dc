"""The guest in QEMU: booted and filled once, then started from its saved state, moved, and asked to verify itself."""

import hashlib
import json
import mmap
import os
import re
import socket
import subprocess
import threading
import time
import zlib

import common

BEAT_MS = 10
DIRTY_MB = 8
DIRTY_PPS = 500
# What TCP carries on a clean line of 1 Gbps.
RECORDED_BYTES_PER_S = 118_000_000
# What a QEMU may take until it listens, and the least pace at which it may touch its memory first.
START_S = 20
TOUCHED_MB_PER_S = 100
LINE = re.compile(r"^([BFV]) (.*)$")


class Endless(common.Failure):
    """A migration that was given up after so many seconds: the guest dirtied its memory as fast as it was sent."""

    def __init__(self, why, seconds):
        super().__init__(why)
        self.seconds = seconds


class Guest:
    """What is in the guest's memory: size, fill and seed, hence the same bytes on every run."""

    def __init__(self, tools, memory_mb, fill, seed):
        self.tools, self.memory_mb, self.fill, self.seed = tools, memory_mb, fill, seed
        # The rest is for the guest's kernel and the unpacked program.
        self.fill_mb = int(memory_mb * 0.94) - 80

    def kernel_arguments(self):
        own = f"FILL={self.fill} FILL_MB={self.fill_mb} SEED={self.seed} DIRTY_MB={DIRTY_MB} DIRTY_PPS={DIRTY_PPS} BEAT_MS={BEAT_MS}"
        return f"console=ttyS0 quiet loglevel=3 nokaslr mitigations=off transparent_hugepage=never panic=-1 {own}"

    def state_file(self, cache):
        key = hashlib.sha256(f"{self.tools.fingerprint()} {self.memory_mb} {self.kernel_arguments()}".encode()).hexdigest()[:12]
        return os.path.join(cache, f"guest-{self.fill}-{self.memory_mb}-{key}.state")

    def prepare(self, cache, folder):
        """Boots, fills and saves the guest unless that was done before; returns the saved state's file and its sum."""
        state = self.state_file(cache)
        if not os.path.exists(state + ".sum"):
            common.say(f"booting and filling a guest of {self.memory_mb} MB ({self.fill}), once")
            with Vm(self, "boot", folder) as vm:
                total = vm.wait_line("F", 300).split()[0]
                vm.wait_line("B", 10)
                vm.qmp("stop")
                vm.migrate_parameters(return_path=False)
                new = f"{state}.{os.getpid()}"
                vm.qmp("migrate", uri=f"file:{new}")
                vm.wait_migrated(120)
            os.replace(new, state)
            with open(new + ".sum", "w", encoding="ascii") as file:
                file.write(total)
            os.replace(new + ".sum", state + ".sum")
        with open(state + ".sum", encoding="ascii") as file:
            return state, file.read()

    def record(self, cache, folder):
        """A migration's bytes, recorded while the guest runs unless that was done before; returns the file and its sum."""
        saved, _ = self.prepare(cache, folder)
        stream = saved.removesuffix(".state") + ".stream"
        if not os.path.exists(stream + ".sum"):
            common.say(f"recording a migration of {self.memory_mb} MB ({self.fill}), once")
            new = f"{stream}.{os.getpid()}"
            with Vm(self, "recorded", folder, incoming=f"file:{saved}") as vm:
                vm.start_saved()
                # At about the pace of a real one, so that as many pages are sent again.
                vm.migrate_parameters(return_path=False, bytes_per_second=RECORDED_BYTES_PER_S)
                vm.qmp("migrate", uri=f"file:{new}")
                vm.wait_migrated(600)
            with open(new, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as content:
                total = f"{zlib.crc32(content):08x}"
            os.replace(new, stream)
            with open(new + ".sum", "w", encoding="ascii") as file:
                file.write(total)
            os.replace(new + ".sum", stream + ".sum")
        with open(stream + ".sum", encoding="ascii") as file:
            return stream, file.read()


def connected(path, process, log, name, seconds):
    """A socket to a QEMU that has just been started and will listen there."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        channel = socket.socket(socket.AF_UNIX)
        try:
            channel.connect(path)
            return channel
        except OSError:
            channel.close()
            time.sleep(0.02)
    with open(log.name, encoding="utf-8") as file:
        raise common.Failure(f"QEMU ({name}) did not start: {file.read()[-400:]}")


def heard_lines(channel):
    """Whole lines as they come in a socket, and what stands behind the last of them; ends when nobody is there any more."""
    rest = b""
    while True:
        try:
            got = channel.recv(65536)
        except OSError:
            got = b""
        if not got:
            return
        *whole, rest = (rest + got).split(b"\n")
        yield whole, rest


class Vm:
    """One QEMU process. `prefix` is what puts it into a host's namespace, `touched` has its memory there from the start.

    Without that a guest's memory comes as it is first written. Where this machine is virtual itself, its hypervisor may have
    taken free memory back (free page reporting): then each huge page of 2 MB stops QEMU for 6 ms, which no physical host does.
    """

    def __init__(self, guest, name, folder, incoming=None, prefix=(), touched=False):
        self.name = name
        self.lines, self.events = [], []
        self.news = threading.Condition()
        self.beats = []
        # What it said before its first end of line and after its last: the guest may be stopped in the midst of a beat.
        self.head, self.tail = None, b""
        self.answers = {}
        sockets = {kind: os.path.join(folder, f"{name}.{kind}") for kind in ("qmp", "serial")}
        for path in sockets.values():
            if os.path.exists(path):
                os.unlink(path)
        tools = guest.tools
        machine = "pc,memory-backend=pc.ram" if touched else "pc"
        command = [*prefix, tools.qemu, "-name", name, "-accel", "tcg", "-machine", machine, "-cpu", "qemu64", "-smp", "1"]
        command += ["-m", str(guest.memory_mb), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        for path in tools.firmware:
            command += ["-L", path]
        command += ["-kernel", tools.kernel, "-initrd", tools.initramfs, "-append", guest.kernel_arguments()]
        for kind in ("qmp", "serial"):
            command += [f"-{kind}", f"unix:{sockets[kind]},server=on,wait=off"]
        if incoming:
            command += ["-incoming", incoming]
        if touched:
            # The name that QEMU gives a guest's memory by itself: source and destination must agree in it.
            command += ["-object", f"memory-backend-ram,id=pc.ram,size={guest.memory_mb}M,prealloc=on"]
        self.log = open(os.path.join(folder, f"{name}.log"), "w", encoding="utf-8")
        self.process = subprocess.Popen(
            command, env=tools.environment, stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT
        )
        try:
            patience = START_S + guest.memory_mb / TOUCHED_MB_PER_S
            self.serial = connected(sockets["serial"], self.process, self.log, name, patience)
            self.control = connected(sockets["qmp"], self.process, self.log, name, patience)
        except common.Failure:
            self.close()
            raise
        self.next_id = 0
        for reader in (self.read_serial, self.read_control):
            threading.Thread(target=reader, daemon=True).start()
        self.qmp("qmp_capabilities")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()

    # ---- what it says ----

    def read_serial(self):
        for whole, rest in heard_lines(self.serial):
            now = time.time()
            with self.news:
                if self.head is None and whole:
                    self.head = whole[0]
                self.tail = rest
                for line in whole:
                    found = LINE.match(line.decode("ascii", "replace").strip())
                    if not found:
                        continue
                    self.lines.append((now, found[1], found[2]))
                    if found[1] == "B" and found[2].isdigit():
                        self.beats.append((now, int(found[2])))
                self.news.notify_all()

    def read_control(self):
        for whole, _ in heard_lines(self.control):
            with self.news:
                for line in whole:
                    message = json.loads(line)
                    if "event" in message:
                        stamp = message["timestamp"]
                        at = stamp["seconds"] + stamp["microseconds"] / 1e6
                        self.events.append((at, message["event"], message.get("data", {})))
                    elif "id" in message:
                        self.answers[message["id"]] = message
                self.news.notify_all()
        with self.news:
            self.answers[None] = {"error": {"desc": "QEMU is gone"}}
            self.news.notify_all()

    def wait(self, condition, seconds, what):
        deadline = time.monotonic() + seconds
        with self.news:
            while True:
                found = condition()
                if found:
                    return found
                left = deadline - time.monotonic()
                if left <= 0 or None in self.answers:
                    raise common.Failure(f"QEMU ({self.name}): no {what} within {seconds:.0f} s")
                self.news.wait(min(left, 1))

    def wait_line(self, kind, seconds, since=0.0):
        def found():
            return next((text for at, which, text in self.lines if which == kind and at > since), None)

        return self.wait(found, seconds, f"line {kind}")

    def event(self, name, **wanted):
        """When an event was first reported (wall clock), or None."""
        for at, event, data in self.events:
            if event == name and all(data.get(key) == value for key, value in wanted.items()):
                return at
        return None

    # ---- what it is told ----

    def qmp(self, command, **arguments):
        with self.news:
            self.next_id += 1
            number = self.next_id
        self.control.sendall(json.dumps({"execute": command, "arguments": arguments, "id": number}).encode() + b"\n")
        answer = self.wait(lambda: self.answers.get(number), 20, f"answer to {command}")
        if "error" in answer:
            raise common.Failure(f"QEMU ({self.name}), {command}: {answer['error']['desc']}")
        return answer["return"]

    def migrate_parameters(self, return_path, bytes_per_second=20_000_000_000, switchover=None):
        # Default is 128 MiB/s; the network is to be the limit. By the return path the source learns that the destination
        # runs; a file has none.
        enabled = [{"capability": name, "state": True} for name in ["events"] + ["return-path"] * return_path]
        self.qmp("migrate-set-capabilities", capabilities=enabled)
        rates = {"max-bandwidth": bytes_per_second}
        if switchover:
            # Else QEMU takes what it sent in the last 100 ms, which compressible pages inflate: what is left of the guest
            # then takes longer than the 300 ms that QEMU allows itself.
            rates["avail-switchover-bandwidth"] = switchover
        self.qmp("migrate-set-parameters", **rates)

    def start_saved(self, seconds=60):
        """Runs a guest started from its saved state, once that is loaded."""
        deadline = time.monotonic() + seconds
        while self.qmp("query-status")["status"] == "inmigrate":
            if time.monotonic() > deadline:
                raise common.Failure(f"QEMU ({self.name}): the saved state was not loaded within {seconds} s")
            time.sleep(0.1)
        self.qmp("cont")
        self.wait_line("B", 20)

    def wait_migrated(self, seconds):
        """Until the migration has ended well; raises Endless if it will not."""
        started = now = time.monotonic()
        looked = started

        def ended():
            return next((data["status"] for _, name, data in self.events if name == "MIGRATION" and data["status"] in ENDS), None)

        while not (status := ended()):
            with self.news:
                if None in self.answers:
                    raise common.Failure(f"QEMU ({self.name}) ended during the migration")
                self.news.wait(1)
            now = time.monotonic()
            if now > started + seconds:
                raise Endless(f"not arrived after {now - started:.0f} s", now - started)
            if now > looked + LOOK_S:
                looked = now
                passes = self.qmp("query-migrate").get("ram", {}).get("dirty-sync-count", 0)
                if passes > PASSES_MAX:
                    why = f"does not end: after {now - started:.0f} s and {passes} passes the guest writes as fast as the link takes it"
                    raise Endless(why, now - started)
        if status != "completed":
            reason = self.qmp("query-migrate").get("error-desc", "")
            raise common.Failure(f"QEMU ({self.name}): migration {status} {reason}")

    def verify(self, seconds=120):
        """The guest's own sum of its memory, and how many pages of the working set are wrong."""
        since = time.time()
        self.serial.sendall(b"verify\n")
        total, wrong = self.wait_line("V", seconds, since).split()
        return total, int(wrong)


# How often to look whether a migration gets nearer to its end, and the passes over the dirtied memory after which it does not.
LOOK_S = 5
PASSES_MAX = 100
ENDS = ("completed", "failed", "cancelled")
