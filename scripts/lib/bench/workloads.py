"""What `scripts/bench clients` does between two hosts, each with ordinary software: the server on host b, the client on host a.

A workload serves once per lab and runs as often as asked; a run gives its measures, and raises Failure where what arrived
is not what was sent.
"""

import glob
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import time

import common
import guest
import payload
import vm
from programs import Daemon, programs


# A disk is made of whole sectors; QEMU would round it up.
SECTORS = 256 * 1024
# scp waits for several answers for each file, whatever carries them: a large tree would only measure the round trip.
SCP_FILES = 200


class Inputs:
    """What is transferred on a link: a file of about `size` bytes (half real files, a quarter zeros, a quarter random),
    a source tree of that size, and a small one."""

    def __init__(self, folder, size, seed):
        self.folder = os.path.join(folder, f"inputs-{size}")
        os.makedirs(self.folder)
        self.size = -(-size // SECTORS) * SECTORS
        self.file = os.path.join(self.folder, "disk")
        self.file_sum = payload.make_payload(self.file, self.size, seed)
        self.tree = Tree(os.path.join(self.folder, "tree"), size)
        self.few = Tree(os.path.join(self.folder, "few"), size, SCP_FILES)

    def remove(self):
        shutil.rmtree(self.folder)


class Tree:
    """Real sources: how much, and what they sum up to."""

    def __init__(self, path, size, files_max=None):
        self.path = path
        self.bytes, self.files = copy_sources(path, size, files_max)
        self.sum = tree_sum(path)


def copy_sources(to, size, files_max=None):
    """Copies the sources of the crates that Cargo.lock names, in its order, until there are so many bytes or files of them."""
    with open(os.path.join(common.ROOT, "Cargo.lock"), encoding="utf-8") as file:
        crates = re.findall(r'name = "([^"]+)"\nversion = "([^"]+)"\nsource', file.read())
    home = os.environ.get("CARGO_HOME") or os.path.expanduser("~/.cargo")
    copied = files = 0
    for name, version in crates:
        for crate in sorted(glob.glob(os.path.join(home, "registry", "src", "*", f"{name}-{version}")))[:1]:
            for path, folders, names in os.walk(crate):
                folders.sort()
                target = os.path.join(to, f"{name}-{version}", os.path.relpath(path, crate))
                os.makedirs(target, exist_ok=True)
                for one in sorted(names):
                    length = os.path.getsize(os.path.join(path, one))
                    if copied + length > size or files == files_max:
                        return copied, files
                    shutil.copy(os.path.join(path, one), target)
                    copied += length
                    files += 1
    if not files:
        raise common.Failure(f"no crate sources below {home}: build the product first")
    return copied, files


def tree_sum(folder):
    """SHA-256 over names and contents, in order."""
    digest = hashlib.sha256()
    for path, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            full = os.path.join(path, name)
            with open(full, "rb") as file:
                content = file.read()
            digest.update(f"{os.path.relpath(full, folder)}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def file_sum(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def empty(folder, name):
    """A fresh folder of that name."""
    path = os.path.join(folder, name)
    shutil.rmtree(path, ignore_errors=True)
    os.makedirs(path)
    return path


def measure(name, unit, value, better="lower", **more):
    return {"name": name, "unit": unit, "value": value, "better": better, **more}


def transfer(name, seconds, length):
    return measure(name, "s", seconds, bytes=length, mbps=length * 8 / seconds / 1e6)


def check(name, got, wanted):
    if got != wanted:
        raise common.Failure(f"{name}: what arrived is not what was sent")


class Workload:
    """One kind of software. `data` says what crosses the WAN, and whether a compressor can make less of it."""

    name, port, data = "", 0, ""

    def __init__(self, lab, address, folder, inputs, quick):
        self.lab, self.address, self.inputs, self.quick = lab, address, inputs, quick
        self.folder = empty(folder, type(self).__name__.lower())
        self.tools = programs()
        self.daemon = None

    def serve(self, *command, name=None):
        self.daemon = Daemon(self.tools, self.lab, "b", command, self.port, self.folder, name or self.name)

    def client(self, *command, seconds=600, **options):
        return self.tools.run(self.lab.inside("a", *map(str, command)), seconds, **options)

    def start(self):
        """Starts the server."""

    def run(self):
        """One run's measures."""
        raise NotImplementedError

    def stop(self):
        if self.daemon:
            self.daemon.stop()

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path


class Rsync(Workload):
    name, port, data = "rsync", 873, "source tree, plain (compressible)"

    def start(self):
        config = self.write("rsyncd.conf", f"use chroot = no\nuid = root\ngid = root\n[in]\npath = {self.folder}/in\nread only = no\n")
        empty(self.folder, "in")
        self.serve(self.tools["rsync"], "--daemon", "--no-detach", f"--port={self.port}", f"--config={config}")

    def run(self):
        empty(self.folder, "in")
        began = time.monotonic()
        self.client(self.tools["rsync"], "-a", f"--port={self.port}", f"{self.inputs.tree.path}/", f"rsync://{self.address}/in/")
        seconds = time.monotonic() - began
        check(self.name, tree_sum(os.path.join(self.folder, "in")), self.inputs.tree.sum)
        return [transfer("rsync", seconds, self.inputs.tree.bytes)]


class Scp(Workload):
    name, port, data = "scp", 2222, f"source tree of {SCP_FILES} files, encrypted by ssh (incompressible); each file costs round trips"

    def start(self):
        for key in ("host", "user"):
            path = os.path.join(self.folder, key)
            self.tools.run([self.tools["ssh-keygen"], "-q", "-t", "ed25519", "-N", "", "-f", path])
        config = self.write(
            "sshd_config",
            f"HostKey {self.folder}/host\nAuthorizedKeysFile {self.folder}/user.pub\nPidFile none\nUsePAM no\nStrictModes no\n"
            "PasswordAuthentication no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n",
        )
        # sshd insists on /run/sshd and on a user of its own. `ip netns exec` has a mount namespace of its own, where they are
        # added; the machine sees nothing of it.
        with open("/etc/passwd", encoding="utf-8") as file:
            users = file.read()
        if "\nsshd:" not in users:
            users += "sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin\n"
        passwd = self.write("passwd", users)
        script = f"mount --bind {passwd} /etc/passwd && mount -t tmpfs none /run && mkdir -m 755 /run/sshd && "
        script += f"exec {self.tools['sshd']} -D -p {self.port} -f {config}"
        self.serve("sh", "-c", script)

    def copy(self, source, to, *flags):
        """Seconds that scp took."""
        options = ["-q", *flags, "-F", "none", "-i", f"{self.folder}/user", "-S", self.tools["ssh"], "-P", self.port]
        for option in ("BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"):
            options += ["-o", option]
        began = time.monotonic()
        self.client(self.tools["scp"], *options, source, f"root@{self.address}:{to}")
        return time.monotonic() - began

    def run(self):
        to = os.path.join(empty(self.folder, "in"), "tree")
        seconds = self.copy(self.inputs.few.path, to, "-r")
        check(self.name, tree_sum(to), self.inputs.few.sum)
        return [transfer("scp -r", seconds, self.inputs.few.bytes)]


class ScpFile(Scp):
    """One large file, where scp has no answers to wait for between files."""

    name, port, data = "scp-file", 2223, "disk image, encrypted by ssh (incompressible)"

    def run(self):
        to = os.path.join(empty(self.folder, "in"), "disk")
        seconds = self.copy(self.inputs.file, to)
        check(self.name, file_sum(to), self.inputs.file_sum)
        return [transfer("scp of a file", seconds, self.inputs.size)]


class Curl(Workload):
    name, port, data = "curl", 8080, "disk image from b to a, plain (half compressible)"

    def start(self):
        folder = self.folder
        temporary = " ".join(f"{kind}_temp_path {folder};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        config = self.write(
            "nginx.conf",
            f"daemon off; pid {folder}/pid; user root; worker_processes 1; error_log {folder}/error.log;\n"
            f"events {{}}\nhttp {{ access_log off; sendfile on; {temporary}\n"
            f"server {{ listen {self.port}; location / {{ root {os.path.dirname(self.inputs.file)}; }} }} }}\n",
        )
        self.serve(self.tools["nginx"], "-p", folder, "-e", f"{folder}/error.log", "-c", config)

    def run(self):
        to = os.path.join(self.folder, "got")
        began = time.monotonic()
        self.client(self.tools["curl"], "-sSf", "-o", to, f"http://{self.address}:{self.port}/{os.path.basename(self.inputs.file)}")
        seconds = time.monotonic() - began
        check(self.name, file_sum(to), self.inputs.file_sum)
        return [transfer("curl from nginx", seconds, self.inputs.size)]


class Pgbench(Workload):
    name, port, data = "pgbench", 5432, "4 clients, TPC-B-like, 7 statements a transaction: latency counts"
    # The server refuses to run as root. In a user namespace root has another number, and its own files all the same: the
    # cache below its home included.
    NOBODY = ("unshare", "--user", "--map-user=65534", "--map-group=65534")

    def start(self):
        self.cluster = os.path.join(self.folder, "cluster")
        os.mkdir(self.cluster, 0o700)
        server = {"cwd": self.folder}
        self.tools.run([*self.NOBODY, self.tools["initdb"], "-N", "-A", "trust", "-U", "bench", "-D", self.cluster], **server)
        with open(os.path.join(self.cluster, "pg_hba.conf"), "a", encoding="utf-8") as file:
            file.write("host all all 10.77.0.0/16 trust\n")
        # A disk's own delays are not what is measured.
        settings = {"listen_addresses": "*", "port": self.port, "unix_socket_directories": self.folder, "fsync": "off",
                    "synchronous_commit": "off", "autovacuum": "off"}
        words = [word for key, value in settings.items() for word in ("-c", f"{key}={value}")]
        self.serve(*self.NOBODY, self.tools["postgres"], "-D", self.cluster, *words)
        database = ["-h", self.folder, "-p", str(self.port), "-U", "bench", "postgres"]
        # It listens before it lets anybody in.
        deadline = time.monotonic() + 20
        while True:
            try:
                self.tools.run([self.tools["pgbench"], "-i", "-q", "-s", "5", *database])
                return
            except common.Failure:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def run(self):
        log = os.path.join(empty(self.folder, "log"), "of")
        words = ["-c", "4", "-T", "4" if self.quick else "8", "-l", f"--log-prefix={log}"]
        self.client(self.tools["pgbench"], *words, "-h", self.address, "-p", self.port, "-U", "bench", "postgres", cwd=self.folder)
        latencies, first, last = [], None, None
        for path in glob.glob(log + "*"):
            with open(path, encoding="ascii") as file:
                for line in file:
                    fields = line.split()
                    latencies.append(int(fields[2]) / 1000)
                    at = int(fields[4]) + int(fields[5]) / 1e6
                    first, last = min(first or at, at), max(last or at, at)
        latencies.sort()
        return [
            measure("pgbench, median", "ms", statistics.median(latencies)),
            measure("pgbench, 99th of 100", "ms", latencies[int(len(latencies) * 0.99)]),
            measure("pgbench, per second", "tps", len(latencies) / (last - first), "higher"),
        ]


class Iperf(Workload):
    name, port, data = "iperf3", 5201, "iperf3's own bytes: a random block again and again (compressors see 128 KiB of noise)"
    KINDS = ("-P 1", "-P 8", "-R", "--bidir")

    def start(self):
        self.serve(self.tools["iperf3"], "-s", "-p", str(self.port))

    def run(self):
        found = []
        for kind in self.KINDS:
            words = ["-c", self.address, "-p", self.port, "-J", "-O", "1", "-t", "3" if self.quick else "5", *kind.split()]
            told = json.loads(self.client(self.tools["iperf3"], *words, seconds=60))
            ways = {"": "sum_received"} if kind != "--bidir" else {" there": "sum_received", " back": "sum_received_bidir_reverse"}
            for way, key in ways.items():
                found.append(measure(f"iperf3 {kind}{way}", "Mbps", told["end"][key]["bits_per_second"] / 1e6, "higher"))
        return found


class DriveMirror(Workload):
    name, port, data = "drive-mirror", 10809, "disk image over NBD (half compressible)"

    def start(self):
        self.qemu = guest.fetch(common.cache_dir())

    def run(self):
        to = os.path.join(self.folder, "disk")
        with open(to, "wb") as file:
            file.truncate(self.inputs.size)
        with Qemu(self, "b", "target", to) as target, Qemu(self, "a", "source", self.inputs.file) as source:
            target.qmp("nbd-server-start", addr={"type": "inet", "data": {"host": "0.0.0.0", "port": str(self.port)}})
            target.qmp("block-export-add", type="nbd", id="out", writable=True, **{"node-name": "disk"}, name="disk")
            server = {"type": "inet", "host": self.address, "port": str(self.port)}
            began = time.monotonic()
            source.qmp("blockdev-add", driver="nbd", server=server, export="disk", **{"node-name": "remote"})
            source.qmp("blockdev-mirror", **{"job-id": "move"}, device="disk", target="remote", sync="full")
            source.wait("BLOCK_JOB_READY", 600)
            seconds = time.monotonic() - began
            # Once it is ready, cancelling leaves the target as it is.
            source.qmp("block-job-cancel", device="move")
            source.wait("BLOCK_JOB_COMPLETED", 60)
        check(self.name, file_sum(to), self.inputs.file_sum)
        return [transfer("drive-mirror over NBD", seconds, self.inputs.size)]


class Qemu:
    """A QEMU with a disk and nothing else, in a host's namespace."""

    def __init__(self, workload, side, name, disk):
        path = os.path.join(workload.folder, f"{name}.qmp")
        # What is written is not waited for: the network is what is measured.
        disk = f"driver=raw,node-name=disk,file.driver=file,file.filename={disk},cache.no-flush=on"
        command = [workload.qemu.qemu, "-machine", "none", "-nodefaults", "-display", "none", "-blockdev", disk]
        command += ["-qmp", f"unix:{path},server=on,wait=off"]
        self.log = open(os.path.join(workload.folder, f"{name}.log"), "w", encoding="utf-8")
        self.process = subprocess.Popen(
            workload.lab.inside(side, *command), env=workload.qemu.environment, stdin=subprocess.DEVNULL, stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.name, self.events = name, []
        try:
            control = vm.connected(path, self.process, self.log, name)
            control.settimeout(600)
            self.lines = control.makefile("rw", encoding="utf-8")
            self.qmp("qmp_capabilities")
        except common.Failure:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def message(self):
        line = self.lines.readline()
        if not line:
            raise common.Failure(f"QEMU ({self.name}) is gone")
        return json.loads(line)

    def qmp(self, command, **arguments):
        self.lines.write(json.dumps({"execute": command, "arguments": arguments, "id": command}) + "\n")
        self.lines.flush()
        while True:
            message = self.message()
            if "event" in message:
                self.events.append(message)
            elif message.get("id") == command:
                if "error" in message:
                    raise common.Failure(f"QEMU ({self.name}), {command}: {message['error']['desc']}")
                return message["return"]

    def wait(self, event, seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for message in self.events:
                if message["event"] == event:
                    if message.get("data", {}).get("error"):
                        raise common.Failure(f"QEMU ({self.name}): {message['data']['error']}")
                    return
                if message["event"] == "BLOCK_JOB_COMPLETED":
                    raise common.Failure(f"QEMU ({self.name}): the copy ended early: {message['data'].get('error', '')}")
            self.events.clear()
            self.events.append(self.message())
        raise common.Failure(f"QEMU ({self.name}): no {event} within {seconds:g} s")


ALL = (DriveMirror, Rsync, Scp, ScpFile, Curl, Pgbench, Iperf)
