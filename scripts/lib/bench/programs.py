"""Programs that a benchmark wants: the machine's own, else unpacked below the cache. Nothing is installed, no service starts."""

import functools
import os
import shutil
import subprocess
import time

import common
import guest

# Debian keeps some of these out of an ordinary PATH; /usr/bin/pgbench is a script around the one in PostgreSQL's folder.
FOLDERS = ("usr/lib/postgresql/15/bin", "usr/bin", "usr/sbin", "bin", "sbin")
PACKAGES = {
    "curl": "curl",
    "initdb": "postgresql-15",
    "iperf3": "iperf3",
    "nginx": "nginx-light",
    "pgbench": "postgresql-15",
    "postgres": "postgresql-15",
    "rsync": "rsync",
    "scp": "openssh-client",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "sshd": "openssh-server",
}


class Programs:
    """Where each of PACKAGES is. One environment serves all: it only adds folders of libraries."""

    def __init__(self):
        path = ":".join([f"/{FOLDERS[0]}", os.environ.get("PATH", ""), *(f"/{folder}" for folder in FOLDERS)])
        self.paths = {name: shutil.which(name, path=path) for name in PACKAGES}
        self.environment = dict(os.environ, LC_ALL="C")
        missing = sorted({PACKAGES[name] for name, found in self.paths.items() if not found})
        if not missing:
            return
        common.say(f"unpacking {', '.join(missing)}")
        tree = guest.unpacked(common.cache_dir(), "-".join(["clients", *missing]), missing)
        self.environment["LD_LIBRARY_PATH"] = guest.library_path(tree)
        for name in [name for name, found in self.paths.items() if not found]:
            places = (os.path.join(tree, folder, name) for folder in FOLDERS)
            self.paths[name] = next((place for place in places if os.path.exists(place)), None)
            if not self.paths[name]:
                raise common.Failure(f"package {PACKAGES[name]} has no {name}")

    def __getitem__(self, name):
        return self.paths[name]

    def run(self, command, seconds=120, **options):
        """What a command printed; raises Failure with its complaint."""
        options = {"env": self.environment, "stdin": subprocess.DEVNULL, **options}
        try:
            done = subprocess.run(command, text=True, capture_output=True, timeout=seconds, check=False, **options)
        except subprocess.TimeoutExpired as late:
            raise common.Failure(f"{os.path.basename(command[0])} did not end within {seconds:g} s") from late
        if done.returncode:
            raise common.Failure(f"{' '.join(map(str, command[:6]))}… failed: {(done.stderr or done.stdout).strip()[-400:]}")
        return done.stdout


class Daemon:
    """A server on one side of a lab, ended with it."""

    def __init__(self, programs, lab, side, command, port, folder, name):
        log = os.path.join(folder, f"{name}.log")
        with open(log, "w", encoding="utf-8") as file:
            self.process = subprocess.Popen(
                lab.inside(side, *command), env=programs.environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )
        # A connection only to see whether it listens would cross the WAN or occupy it: the kernel is asked.
        deadline = time.monotonic() + 20
        while not listening(lab, side, port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                with open(log, encoding="utf-8") as file:
                    raise common.Failure(f"{name} does not listen on port {port}: {file.read().strip()[-400:]}")
            time.sleep(0.05)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()


def listening(lab, side, port):
    wanted = f":{port:04X}"
    for table in ("tcp", "tcp6"):
        for line in lab.read(side, "cat", f"/proc/net/{table}").splitlines()[1:]:
            fields = line.split()
            if fields[1].endswith(wanted) and fields[3] == "0A":
                return True
    return False


@functools.cache
def programs():
    return Programs()
