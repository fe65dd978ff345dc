"""What every benchmark needs: where things are, progress, the lab, what machine this is, and the results' files."""

import datetime
import json
import os
import platform
import shlex
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
LAB = os.path.join(ROOT, "scripts", "lab")
MB = 1_000_000


class Failure(Exception):
    """What a benchmark cannot go on from; shown without a traceback."""


def cache_dir():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = os.path.join(base, "longhaul")
    os.makedirs(path, exist_ok=True)
    return path


def run_main(main, program="bench", lab=None):
    """Runs a program's main: a Failure is a line, an interruption takes its lab down."""
    try:
        sys.exit(main())
    except Failure as failure:
        print(f"{program}: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        if lab:
            subprocess.run([LAB, "down", "--name", lab], check=False)
        sys.exit(130)


# ---- progress -----------------------------------------------------------------------------------------------------------


def say(text):
    clear = "\r\033[K" if sys.stderr.isatty() else ""
    print(f"{clear}{text}", file=sys.stderr, flush=True)


class Progress:
    """Steps done of all, and the time left judged by what the steps were expected to take."""

    def __init__(self, expected_seconds):
        self.expected = list(expected_seconds)
        self.done = 0
        self.spent = 0.0
        self.started = time.monotonic()

    def step(self, text):
        self.started = time.monotonic()
        ahead = sum(self.expected[self.done :])
        behind = sum(self.expected[: self.done])
        # The steps so far tell by how much the expectation was off.
        scale = self.spent / behind if behind else 1.0
        say(f"[{self.done + 1}/{len(self.expected)}] {text} (about {duration(ahead * scale)} left)")

    def finish(self, text):
        self.spent += time.monotonic() - self.started
        self.done += 1
        say(f"      {text}")

    def drop(self):
        """The next step has turned out not to be wanted."""
        del self.expected[self.done]


def numbers(kind):
    """The type of an option whose values are listed with commas."""
    return lambda listed: [kind(word) for word in listed.split(",") if word]


def duration(seconds):
    seconds = int(seconds)
    return f"{seconds} s" if seconds < 100 else f"{seconds // 60} min {seconds % 60} s"


# ---- the lab ------------------------------------------------------------------------------------------------------------


class Lab:
    """One lab of scripts/lab, taken down whatever happens."""

    def __init__(self, name, *options):
        self.name = name
        self.options = options

    def __enter__(self):
        self.run("down")
        self.run("up", *self.options)
        return self

    def __exit__(self, *_):
        self.run("down")

    def run(self, command, *arguments, gently=False):
        """Runs a command of scripts/lab; `gently` where what is being measured needs the cores."""
        done = subprocess.run(
            [*(["nice", "-n", "19"] if gently else []), LAB, command, "--name", self.name, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False
        )
        if done.returncode:
            raise Failure(f"scripts/lab {command} failed: {done.stderr.strip()[-600:]}")
        return done.stdout

    def status(self):
        return json.loads(self.run("status", "--json"))

    def namespace(self, role):
        return f"lh-{self.name}-{role}"

    def inside(self, role, *command):
        """The command line that runs a command in a namespace; the process keeps its id."""
        return ["ip", "netns", "exec", self.namespace(role), *command]

    def read(self, role, *command):
        return subprocess.run(self.inside(role, *command), text=True, stdout=subprocess.PIPE, check=True).stdout

    def tcp_counters(self, role):
        """What the namespace's kernel counts of TCP, by its names (OutSegs, RetransSegs, …)."""
        names, values = [line.split()[1:] for line in self.read(role, "cat", "/proc/net/snmp").splitlines() if line.startswith("Tcp:")]
        return dict(zip(names, map(int, values)))

    def pids(self, role):
        return self.read_pids(self.namespace(role))

    @staticmethod
    def read_pids(namespace):
        out = subprocess.run(["ip", "netns", "pids", namespace], text=True, stdout=subprocess.PIPE, check=False).stdout
        return [int(word) for word in out.split()]

    def wait_for_channel(self, seconds=10):
        """Until all appliances have their session: a flow opened before that passes through unaccelerated."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status = self.status()
            appliances = [what for key, what in status.items() if key.startswith("appliance_")]
            states = [((what or {}).get("channel") or {}).get("state") for what in appliances]
            if states and set(states) == {"up"}:
                return
            time.sleep(0.1)
        raise Failure(f"the appliances found no session within {seconds} s; see scripts/lab appliance a log")


def resent_share(before, after):
    """Of the segments sent between two `tcp_counters`, those sent again."""
    sent, again = (after[name] - before[name] for name in ("OutSegs", "RetransSegs"))
    return again / max(1, sent)


# ---- what machine, what program, what command ---------------------------------------------------------------------------


def first_line(path, key):
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                if line.startswith(key):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return "unknown"


def git(*arguments):
    done = subprocess.run(["git", "-C", ROOT, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def description(**more):
    """When, where, what: everything one needs to judge the figures, or to get them again."""
    changed = "-changed" if git("status", "--porcelain", "--untracked-files=no") else ""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join(["scripts/bench", *sys.argv[1:]] if len(sys.argv) > 1 else ["scripts/bench"]),
        "commit": (git("rev-parse", "--short=12", "HEAD") or "unknown") + changed,
        "kernel": platform.release(),
        "machine": {
            "cpu": first_line("/proc/cpuinfo", "model name"),
            "cores": os.cpu_count(),
            "memory": first_line("/proc/meminfo", "MemTotal"),
        },
        "load_at_start": list(os.getloadavg()),
        **more,
    }


def write_files(folder, results, report, plots=None):
    """results.json, report.md and SVG plots."""
    os.makedirs(folder, exist_ok=True)
    files = {"results.json": json.dumps(results, indent=2) + "\n", "report.md": report, **(plots or {})}
    for name, content in files.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(content)


def markdown_table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"
