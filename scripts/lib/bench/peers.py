"""The systems that a migration is measured with: how the lab is wired for each, and what is started in it."""

import functools
import os
import shutil
import subprocess
import time

import common
import guest

# The report's TCP: a window that cannot scale.
WINDOW_64K = 65535
# Where kcptun, haproxy and the QUIC forwarder listen for what nftables hands them.
LOCAL_PORT = 8001
KCPTUN_PORT = 29900
QUIC_PORT = 29901
QUIC_CRATE = os.path.join(common.ROOT, "tests", "bench", "quic")

SYSTEMS = {
    "none": "kernel TCP, CUBIC",
    "longhaul": "longhaul inline, hosts CUBIC",
    "cubic-64k": "kernel TCP, CUBIC, both hosts' routes limited to a window of 65535 bytes (`ip route … window`)",
    "bbr": "kernel TCP, BBR on the hosts",
    "haproxy": "split TCP: haproxy 2.6 with nftables TPROXY in both sites' routers, BBR between them, hosts CUBIC",
    "kcptun": "kcptun in both sites' routers (nftables redirect), hosts CUBIC; compression on, FEC 10+3, windows for the path",
    "quic": "QUIC: a forwarder on quinn 0.11 with BBR in both sites' routers (nftables redirect), windows for the path, hosts CUBIC",
}
# System to the reason why it is not measured.
LEFT_OUT = {}
ROUTED = ("haproxy", "kcptun", "quic")


class System:
    """One of them, around a lab that is up. `ports` are the TCP ports that it carries."""

    def __init__(self, name, link_options, ports=(8000,)):
        self.name = name
        self.link_options = link_options
        self.ports = ports
        self.routed = name in ROUTED
        self.address = "10.77.2.2" if self.routed else "10.77.0.2"
        self.children = []

    def lab_options(self):
        wiring = "accelerate" if self.name == "longhaul" else "wire"
        control = "bbr" if self.name == "bbr" else "cubic"
        ports = ["--ports", ",".join(map(str, self.ports))] if self.name == "longhaul" else []
        return [*self.link_options, "--wiring", wiring, "--cc", control, *ports, *(["--routed"] if self.routed else [])]

    def start(self, lab, folder, rate_mbps, rtt_ms):
        """Makes the lab what its name says; returns the process ids of the appliances by name."""
        if self.name == "longhaul":
            lab.wait_for_channel()
            return {side: lab.pids(f"app{side}") for side in "ab"}
        if self.name == "cubic-64k":
            for side, number in (("a", 1), ("b", 2)):
                route = f"route change 10.77.0.0/24 dev eth0 src 10.77.0.{number} congctl cubic window {WINDOW_64K}"
                lab.read(side, "ip", *route.split())
        if self.name == "haproxy":
            self.start_haproxy(lab, folder)
        if self.name == "kcptun":
            self.start_kcptun(lab, folder, rate_mbps, rtt_ms)
        if self.name == "quic":
            self.start_quic(lab, folder, rate_mbps, rtt_ms)
        return {child.side: [child.process.pid] for child in self.children}

    def stop(self):
        for child in self.children:
            child.process.kill()
            child.process.wait()
        self.children = []

    # ---- what needs programs of its own ----

    def launch(self, lab, side, folder, command, environment=None):
        log = open(os.path.join(folder, f"{self.name}-{side}.log"), "w", encoding="utf-8")
        process = subprocess.Popen(
            lab.inside(f"r{side}", *command), env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        log.close()
        child = Child(side, process)
        self.children.append(child)
        time.sleep(0.3)
        if process.poll() is not None:
            with open(log.name, encoding="utf-8") as file:
                raise common.Failure(f"{self.name} did not start: {file.read()[-400:]}")

    def port_set(self):
        return "{ " + ", ".join(map(str, self.ports)) + " }"

    def redirect(self, lab):
        """Hands what host a opens towards the ports to a program in site a's router."""
        rules = f"""table ip tunnel {{
  chain pre {{
    type nat hook prerouting priority -100;
    iifname "lan0" tcp dport {self.port_set()} redirect to :{LOCAL_PORT}
  }}
}}
"""
        nft(lab, "ra", rules)

    def start_haproxy(self, lab, folder):
        program, environment = peer_program("usr/sbin/haproxy")
        for side, interface in (("a", "lan0"), ("b", "wan0")):
            router = f"r{side}"
            rules = f"""table ip split {{
  chain pre {{
    type filter hook prerouting priority mangle;
    iifname "{interface}" tcp dport {self.port_set()} tproxy to :{LOCAL_PORT} meta mark set 1 accept
  }}
}}
"""
            nft(lab, router, rules)
            lab.read(router, "ip", "rule", "add", "fwmark", "1", "lookup", "100")
            lab.read(router, "ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "100")
            config = os.path.join(folder, f"haproxy-{side}.cfg")
            with open(config, "w", encoding="utf-8") as file:
                file.write(
                    f"""global
  maxconn 100
  tune.bufsize 65536
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen split
  bind 0.0.0.0:{LOCAL_PORT} transparent
  option transparent
  option splice-auto
"""
                )
            self.launch(lab, side, folder, [program, "-db", "-f", config], environment)
        lab.read("ra", "ip", "route", "change", "10.77.2.0/24", "via", "10.77.0.252", "congctl", "bbr")
        # What flows back goes to site a's router itself, which is who has connected.
        lab.read("rb", "ip", "route", "change", "10.77.0.0/24", "dev", "wan0", "src", "10.77.0.252", "congctl", "bbr")

    def start_kcptun(self, lab, folder, rate_mbps, rtt_ms):
        # Windows in packets of about 1350 bytes: twice the bandwidth-delay product, not less than the manual's 1024.
        window = str(max(1024, int(2 * rate_mbps * 1e6 / 8 * (rtt_ms + 10) / 1000 / 1350)))
        self.redirect(lab)
        shared = ["--mode", "fast3", "--mtu", "1350", "--key", "bench", "--crypt", "aes-128", "--sockbuf", "16777216"]
        shared += ["--smuxbuf", "16777216", "--streambuf", "8388608", "--quiet"]
        sides = (
            ("b", ["kcptun-server", "-t", "10.77.2.2:8000", "-l", f":{KCPTUN_PORT}"], window),
            ("a", ["kcptun-client", "-r", f"10.77.0.252:{KCPTUN_PORT}", "-l", f":{LOCAL_PORT}"], window),
        )
        for side, command, packets in sides:
            program, environment = peer_program(f"usr/bin/{command[0]}")
            self.launch(lab, side, folder, [program, *command[1:], *shared, "--sndwnd", packets, "--rcvwnd", packets], environment)


    def start_quic(self, lab, folder, rate_mbps, rtt_ms):
        self.redirect(lab)
        for side, command in quic_commands(folder, "10.77.0.252", rate_mbps, rtt_ms):
            self.launch(lab, side, folder, command)


def quic_commands(folder, server, rate_mbps, rtt_ms, target=None):
    """Side and command line of the forwarder's server and client; without `target`, for redirected connections."""
    program = quic_program()
    certificate = os.path.join(folder, "quic.der")
    if os.path.exists(certificate):
        os.unlink(certificate)
    # Two bandwidth-delay products, where the delay includes a queue of 10 ms.
    window = max(1 << 20, int(2 * rate_mbps * 1e6 / 8 * (rtt_ms + 10) / 1000))
    shared = ["--certificate", certificate, "--window", str(window)]
    wanted = ["--target", target] if target else []
    yield "b", [program, "server", "--listen", f"0.0.0.0:{QUIC_PORT}", *shared]
    # The server writes its certificate once it listens; the client begins by reading it.
    deadline = time.monotonic() + 10
    while not os.path.exists(certificate) and time.monotonic() < deadline:
        time.sleep(0.05)
    yield "a", [program, "client", "--listen", f"0.0.0.0:{LOCAL_PORT}", "--server", f"{server}:{QUIC_PORT}", *shared, *wanted]


@functools.cache
def quic_program():
    """The QUIC forwarder, built if need be."""
    target = os.path.join(common.ROOT, "target", "quic-forward")
    manifest = os.path.join(QUIC_CRATE, "Cargo.toml")
    common.say("building the QUIC forwarder")
    done = subprocess.run(
        ["cargo", "build", "--quiet", "--release", "--locked", "--manifest-path", manifest, "--target-dir", target],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )
    if done.returncode:
        raise common.Failure(f"building the QUIC forwarder failed: {done.stdout.strip()[-600:]}")
    return os.path.join(target, "release", "quic-forward")


class Child:
    """A started program and the site it stands at."""

    def __init__(self, side, process):
        self.side, self.process = side, process


def peer_program(path):
    """A program of haproxy, kcptun or nftables and the environment it needs; the cache's, unless the machine has it."""
    installed = shutil.which(os.path.basename(path))
    if installed:
        return installed, dict(os.environ)
    tree = guest.unpacked(common.cache_dir(), "peers", ["haproxy", "kcptun", "nftables"])
    return os.path.join(tree, path), dict(os.environ, LD_LIBRARY_PATH=guest.library_path(tree))


def nft(lab, role, rules):
    program, environment = peer_program("usr/sbin/nft")
    command = lab.inside(role, program, "-f", "-")
    done = subprocess.run(command, input=rules, text=True, env=environment, capture_output=True, check=False)
    if done.returncode:
        raise common.Failure(f"nft in {role}: {done.stderr.strip()[:300]}")
