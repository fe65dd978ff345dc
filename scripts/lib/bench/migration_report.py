"""The migration benchmark's report: the 2009 report's table with ours beside it, the measured columns, and plots."""

import os

import common
import migration_goals
import peers
import plot
from onemove import TARGET_MEMORY, median

SWITCHOVER = {None: "what it has sent in the last 100 ms", "line": "the line's, as told by an administrator"}
HOW = {False: "latency read as round trip", True: "latency read as one way"}


def number(value, form="{:.1f}"):
    return "-" if value is None else form.format(value)


class Cell:
    """All runs of one link and system in a part."""

    def __init__(self, runs, link, system):
        self.all = [run for run in runs if (run["link"], run["system"]) == (link, system)]
        self.good = [run for run in self.all if not run["error"]]
        self.endless = [run["endless_s"] for run in self.all if "endless_s" in run]

    def values(self, key):
        return [run[key] for run in self.good if run.get(key) is not None]

    def median(self, key):
        return median(self.values(key))

    def worst(self, key):
        return max(self.values(key), default=None)

    def at_least(self):
        """The median of the time, or what it takes at the very least; None without runs."""
        return self.median("seconds") or min(self.endless, default=None)

    def seconds(self):
        """Median of the time, with the extremes and the number of runs, and what is wrong with it."""
        if not self.all:
            return "-"
        if not self.good and self.endless:
            return f"> {min(self.endless):.0f}: does not end, n={len(self.endless)}"
        if not self.good:
            return "failed"
        times = sorted(run["seconds"] for run in self.good)
        text = f"{median(times):.1f}"
        if len(times) > 1:
            text += f" ({times[0]:.1f}-{times[-1]:.1f})"
        text += f", n={len(times)}"
        if len(self.good) < len(self.all):
            text += f", {len(self.all) - len(self.good)} failed"
        if any(run["late"] for run in self.good):
            text += " *"
        if any(run.get("target_memory") != TARGET_MEMORY for run in self.good):
            text += " †"
        return text


class Part:
    """What is compared with each other: runs of one fill and one reading of the latency."""

    def __init__(self, results, links, fill, one_way, how="migration"):
        self.fill, self.one_way = fill, one_way
        self.runs = [run for run in results["runs"] if (run["how"], run["fill"], run["one_way"]) == (how, fill, one_way)]
        self.links = [link for link in links if any(run["link"] == link[0] for run in self.runs)]
        self.systems = [name for name in peers.SYSTEMS if any(run["system"] == name for run in self.runs)]

    def cell(self, link, system):
        return Cell(self.runs, link, system)

    def name(self):
        return f"{self.fill}{'-one-way' if self.one_way else ''}"

    def rtt_ms(self, link):
        return link[2] * (2 if self.one_way else 1)


def parts_of(results, links, how="migration"):
    keys = dict.fromkeys((run["one_way"], run["fill"]) for run in results["runs"] if run["how"] == how)
    order = {fill: place for place, fill in enumerate(("report", "dense", "encrypted"))}
    return [Part(results, links, fill, one_way, how) for one_way, fill in sorted(keys, key=lambda key: (key[0], order[key[1]]))]


def times_table(part):
    head = ["link", "", "2009: none", "2009: HyperIP", *part.systems, "none / longhaul"]
    rows = []
    for name, _, _, what, hyperip_none, hyperip in part.links:
        plain, ours = (part.cell(name, system).median("seconds") for system in ("none", "longhaul"))
        speed_up = f"{plain / ours:.1f}x" if plain and ours else "-"
        cells = [part.cell(name, system).seconds() for system in part.systems]
        rows.append([name, what, f"{hyperip_none} s", f"{hyperip} s", *cells, speed_up])
    return common.markdown_table(head, rows)


def cpu(cell):
    sides = sorted({side for run in cell.good for side in run["appliance_cpu_s_per_gb"]})
    values = [median([run["appliance_cpu_s_per_gb"].get(side) for run in cell.good]) for side in sides]
    return " + ".join(number(value, "{:.2f}") for value in values) or "-"


def resent(run):
    """Share of what crossed the WAN that had been sent before, by whoever sends there; kcptun does not tell."""
    channel = (run["appliance_a"] or {}).get("channel")
    if channel:
        return (channel["bytes_retransmitted"] + channel["bytes_repair"]) / max(channel["bytes_sent"], 1)
    return None if run["appliance_cpu_s"] else run["host_resent_share"]


def details_table(part):
    head = ["link", "system", "s", "of line rate while sending", "stopped, beats ms (worst)", "stopped, QEMU ms", "lost beats", "memory"]
    head += ["moved MB", "wire MB", "appliances CPU s/GB", "drain ms", "undelivered MB, most", "sent again", "machine busy"]
    head += ["emulator late p99 / max us", "void"]
    rows = []
    for link in part.links:
        for system in part.systems:
            cell = part.cell(link[0], system)
            if not cell.all:
                continue
            if not cell.good:
                why = ("" if cell.endless else "failed: ") + " ".join(cell.all[0]["error"].replace("|", "/").split())[:160]
                rows.append([link[0], system, why, *["-"] * (len(head) - 3)])
                continue
            late = [way for run in cell.good for way in run["wanem_lateness"].values()]
            mega = [None if (value := cell.median(key)) is None else value / 1e6 for key in ("moved_bytes", "wire_bytes")]
            share, busy = median([resent(run) for run in cell.good]), cell.median("machine_busy_share")
            line = migration_goals.line_share(part, link, system)
            worst = number(cell.worst("downtime_beat_ms"), "{:.0f}")
            rows.append(
                [
                    link[0],
                    system,
                    cell.seconds(),
                    "-" if line is None else f"{line * 100:.1f} %",
                    f"{number(cell.median('downtime_beat_ms'), '{:.0f}')} ({worst})",
                    number(cell.median("downtime_qemu_ms"), "{:.0f}"),
                    number(cell.worst("lost_beats"), "{:.0f}"),
                    f"verified {len(cell.good)} of {len(cell.all)}",
                    *(number(value, "{:.0f}") for value in mega),
                    cpu(cell),
                    number(cell.median("drain_ms"), "{:.0f}"),
                    number(cell.worst("undelivered_mb_max")),
                    "-" if share is None else f"{share * 100:.3f} %",
                    "-" if busy is None else f"{busy * 100:.0f} %",
                    f"{max(way['p99_us'] for way in late):.0f} / {max(way['max_us'] for way in late):.0f}",
                    sum(run["void_runs_before"] for run in cell.good),
                ]
            )
    return common.markdown_table(head, rows)


COLUMNS = """\
Time is from the migrate command until the guest runs at the destination: the median of n valid runs, with the extremes. `of line
rate while sending`: the migration's bytes over the time from the first to the last that reached the destination host, as a share of
the link's rate; above 100 % is compression. `stopped, beats` is the gap in the guest's 10 ms heartbeat as seen on its console, QEMU's
figure ends too early; `lost beats` are numbers that never appeared. `drain` is from the source's last byte until the guest runs,
`undelivered` what was between the hosts at most, in their bytes; `wire` counts both directions with Ethernet headers. `machine busy`
is the share of all cores that was used by anything while it moved. HyperIP's figures are the 2009 report's: another guest, other machines.
The destination's memory is touched before a run begins: this machine may be virtual, and its hypervisor take milliseconds for every
page that is written for the first time. Runs where it was not are marked †, and on the quick links they took longer for it.
"> N: does not end" is a migration that was given up: its guest dirties memory as fast as that system sends it, so that no vMotion would end.
"""


REPLAY = """\
A recorded migration, sent by a plain program through the same lab: no guest, no switch-over, both ends made to use as much CPU as
QEMU did in real runs of the same cell. It stands for real ones where the medians agree within 10 %; the extremes beside them tell how
far runs of one kind differ by themselves: a few lost packets decide over CUBIC, other work on the cores over longhaul.
"""
REPLAY_AGREES = 0.10


def replays(results, links):
    """The replays' times, and how they compare with real migrations where there are both."""
    text, rows = [], []
    real = {(part.fill, part.one_way): part for part in parts_of(results, links)}
    for part in parts_of(results, links, "replay"):
        text += [f"### Replay of fill `{part.fill}`, {HOW[part.one_way]}\n", times_table(part), details_table(part)]
        for link in part.links:
            for system in part.systems:
                other = real.get((part.fill, part.one_way))
                ours, theirs = part.cell(link[0], system), other.cell(link[0], system) if other else None
                if not ours.good or not theirs or not theirs.good:
                    continue
                off = ours.median("seconds") / theirs.median("seconds") - 1
                agrees = "agrees" if abs(off) <= REPLAY_AGREES else "**does not agree**"
                rows.append([part.name(), link[0], system, theirs.seconds(), ours.seconds(), f"{off * 100:+.1f} %", agrees])
    if rows:
        head = ["fill", "link", "system", "migration s", "replay s", "difference", f"within {REPLAY_AGREES * 100:.0f} %"]
        text.insert(0, common.markdown_table(head, rows))
    return ["## Replay\n", REPLAY, *text] if text else []


def introduction(results):
    runs = results["runs"]
    machine = results["machine"]

    def between(key, form="{}"):
        values = sorted({run[key] for run in runs if run.get(key) is not None}) or ["-"]
        return form.format(values[0]) + (f" to {form.format(values[-1])}" if values[0] != values[-1] else "")

    commits = ", ".join(dict.fromkeys(run["commit"] for run in runs if run["system"] == "longhaul")) or results["commit"]
    return (
        f"`{results['command']}` (the last call that added to this), runs of {between('date')}, longhaul commit(s) {commits}, Linux "
        f"{results['kernel']}, QEMU {results['qemu']} (TCG), {machine['cores']} cores ({machine['cpu']}), load average when a run began "
        f"{between('load_at_start', '{:.1f}')}. A guest of {results['memory_mb']} MB, seed {results['seed']}; "
        f"the rate by which QEMU decides to stop it: {SWITCHOVER[results.get('switchover')]}. Hosts, "
        "appliances, both QEMUs and the emulator share the cores, so times at 1 Gbps are an upper bound; compare columns of one row.\n"
    )


def report(results, links):
    """report.md and the plots by file name."""
    text = ["# A running virtual machine moves\n", introduction(results), COLUMNS]
    plots = {}
    for part in parts_of(results, links):
        text += [f"## Fill `{part.fill}`, {HOW[part.one_way]}\n", times_table(part)]
        if any(run["late"] for run in part.runs):
            text.append(f"\\* the emulator was late (p99 above {results['lateness_bound_p99_us']} us) in every repetition.\n")
        plots[f"time-{part.name()}.svg"] = time_plot(part)
        text.append(f"![time per link](time-{part.name()}.svg)\n")
        rows, short = migration_goals.table(part, results["machine"]["cores"])
        if rows:
            text += ["### Goals\n", rows]
            text += ["What fell short, and what the run's own figures say about it:\n", short] if short else ["All reached.\n"]
        text += ["### Everything measured\n", details_table(part)]
        for link in part.links:
            series = throughput_series(part, link[0])
            if series:
                file = f"throughput-{part.name()}-{link[0]}.svg"
                title = f"{link[3]}, fill {part.fill}: what reaches the destination host"
                line = (link[1], f"the link's {link[1]} Mbps")
                plots[file] = plot.rates(title, "seconds since the migrate command", "Mbps of the host's bytes", series, line)
                text.append(f"![throughput on {link[0]}]({file})\n")
    text += replays(results, links)
    systems = [name for name in peers.SYSTEMS if any(run["system"] == name for run in results["runs"])]
    text += ["## Systems\n", "".join(f"- `{name}`: {peers.SYSTEMS[name]}\n" for name in systems)]
    if results["left_out"]:
        text += ["Left out:\n", "".join(f"- `{name}`: {why}\n" for name, why in results["left_out"].items())]
    return "\n".join(text), plots


def write(folder, results, links):
    """report.md and the plots, beside results.json."""
    content, plots = report(results, links)
    for name, text in {"report.md": content, **plots}.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            file.write(text)


def time_plot(part):
    groups = []
    for link in part.links:
        cells = {system: part.cell(link[0], system) for system in part.systems}
        values = [(system, cell.at_least(), "" if cell.good else "> ") for system, cell in cells.items()]
        groups.append((link[0], link[3], [("HyperIP 2009", link[5], ""), *values]))
    title = f"Seconds until the guest runs at the destination (fill {part.fill}, {HOW[part.one_way]})"
    return plot.bars(title, "seconds, logarithmic", groups)


def throughput_series(part, link):
    good = {system: part.cell(link, system).good for system in part.systems}
    return [(system, runs[0]["delivered"], runs[0]["seconds"]) for system, runs in good.items() if runs]
