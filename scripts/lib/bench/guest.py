"""QEMU, a guest kernel and the guest's initramfs, in the cache directory; nothing is installed on the machine."""

import glob
import hashlib
import os
import shutil
import subprocess
import tempfile

import common

# 7.2, which Debian 12 has, loses dirty pages under TCG at WAN rates: destination guests died. Backports has a newer one.
QEMU_SUITE = "bookworm-backports"
SOURCES = """\
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} bookworm main
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} bookworm-backports main
"""
MIRROR = "http://deb.debian.org/debian"
GUEST = os.path.join(common.ROOT, "tests", "bench", "guest")


class Tools:
    """Where QEMU, the kernel and the initramfs are."""

    def __init__(self, cache):
        tree = os.path.join(cache, "qemu")
        self.qemu = os.path.join(tree, "usr/bin/qemu-system-x86_64")
        self.firmware = [os.path.join(tree, "usr/share/seabios"), os.path.join(tree, "usr/share/qemu")]
        self.environment = dict(os.environ, LD_LIBRARY_PATH=library_path(tree))
        self.kernel = os.path.join(cache, "vmlinuz")
        # By its source: worktrees of different age share a cache.
        self.initramfs = os.path.join(cache, f"initramfs-{source_digest()}.cpio")

    def version(self):
        out = subprocess.run([self.qemu, "--version"], env=self.environment, check=True, capture_output=True, text=True)
        return out.stdout.split("version", 1)[1].split()[0]

    def fingerprint(self):
        """Changes whenever a saved guest would have to be made again."""
        digest = hashlib.sha256(self.version().encode())
        for path in (self.kernel, self.initramfs):
            with open(path, "rb") as file:
                digest.update(file.read())
        return digest.hexdigest()[:12]


def source_digest():
    digest = hashlib.sha256()
    for name in sorted(os.listdir(GUEST)):
        with open(os.path.join(GUEST, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()[:12]


def apt(cache):
    """apt-get with lists, sources and archives of its own: the machine's are not touched."""
    base = os.path.join(cache, "apt")
    os.makedirs(os.path.join(base, "lists", "partial"), exist_ok=True)
    os.makedirs(os.path.join(base, "archives", "partial"), exist_ok=True)
    sources = os.path.join(base, "sources.list")
    with open(sources, "w", encoding="utf-8") as file:
        file.write(SOURCES.format(mirror=MIRROR))
    options = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": os.path.join(base, "lists"),
        "Dir::Cache::Archives": os.path.join(base, "archives"),
        "Dir::Cache::pkgcache": "",
        "Dir::Cache::srcpkgcache": "",
        "APT::Sandbox::User": "root",
        # Nothing is installed, so another apt-get that runs does not matter.
        "Debug::NoLocking": "1",
    }
    return [word for key, value in options.items() for word in ("-o", f"{key}={value}")], os.path.join(base, "archives")


def quiet(command, **options):
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options)
    if done.returncode:
        raise common.Failure(f"{' '.join(command[:2])} failed: {done.stdout[-800:]}")
    return done.stdout


def unpacked(cache, name, packages, suite="bookworm"):
    """Packages and whatever of their dependencies this machine lacks, unpacked below the cache; returns where."""
    tree = os.path.join(cache, name)
    if os.path.exists(tree):
        return tree
    options, archives = apt(cache)
    quiet(["apt-get", *options, "-qq", "update"])
    wanted = ["-y", "--no-install-recommends", "-t", suite, "--download-only", "install", *packages]
    quiet(["apt-get", *options, "clean"])
    quiet(["apt-get", *options, *wanted])
    new = tree + ".new"
    shutil.rmtree(new, ignore_errors=True)
    for package in glob.glob(os.path.join(archives, "*.deb")):
        quiet(["dpkg-deb", "-x", package, new])
    os.rename(new, tree)
    return tree


def library_path(tree):
    return ":".join(os.path.join(tree, folder) for folder in ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"))


def fetch(cache):
    """Downloads and unpacks QEMU with the libraries this machine lacks, and the cloud kernel."""
    tools = Tools(cache)
    if not os.path.exists(tools.qemu):
        common.say("downloading QEMU, once")
        unpacked(cache, "qemu", ["qemu-system-x86"], QEMU_SUITE)
    if not os.path.exists(tools.kernel):
        common.say("downloading a guest kernel, once")
        options, _ = apt(cache)
        quiet(["apt-get", *options, "-qq", "update"])
        shown = quiet(["apt-cache", *options, "depends", "linux-image-cloud-amd64"])
        name = next(line.split()[1] for line in shown.splitlines() if "Depends: linux-image" in line)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            quiet(["apt-get", *options, "download", name], cwd=folder)
            quiet(["dpkg-deb", "-x", glob.glob(os.path.join(folder, "*.deb"))[0], os.path.join(folder, "tree")])
            os.rename(glob.glob(os.path.join(folder, "tree", "boot", "vmlinuz-*"))[0], tools.kernel)
    return tools


def cpio_entry(number, name, mode, content=b"", device=(0, 0)):
    """One member of a "newc" archive, the initramfs's format."""
    name = name.encode() + b"\0"
    fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0]
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + name
    return header + b"\0" * (-len(header) % 4) + content + b"\0" * (-len(content) % 4)


def build(cache):
    """Compiles the guest's program and packs it, unless that was done before; returns the tools."""
    tools = fetch(cache)
    if os.path.exists(tools.initramfs):
        return tools
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        program = os.path.join(folder, "init")
        # Compiled where it lies, by its bare name: the program does not depend on where the repository is.
        quiet(
            ["rustc", "--edition", "2024", "-O", "-C", "target-feature=+crt-static", "-C", "panic=abort", "-C", "strip=symbols"]
            + ["--crate-name", "guest", "-o", program, "main.rs"],
            cwd=GUEST,
        )
        with open(program, "rb") as file:
            init = file.read()
    archive = b"".join(
        [
            cpio_entry(1, "dev", 0o040755),
            cpio_entry(2, "dev/console", 0o020600, device=(5, 1)),
            cpio_entry(3, "init", 0o100755, init),
            cpio_entry(0, "TRAILER!!!", 0),
        ]
    )
    new = f"{tools.initramfs}.{os.getpid()}"
    with open(new, "wb") as file:
        file.write(archive)
    os.replace(new, tools.initramfs)
    return tools
