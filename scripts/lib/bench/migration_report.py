"""The migration benchmark's report: the 2009 report's table with ours beside it, the measured columns, and plots."""

import common
import peers
import plot
from onemove import median


def number(value, form="{:.1f}"):
    return "-" if value is None else form.format(value)


class Cell:
    """All runs of one fill, link and system."""

    def __init__(self, results, fill, link, system):
        def mine(run):
            return (run["fill"], run["link"], run["system"]) == (fill, link, system)

        self.all = [run for run in results["runs"] if mine(run)]
        self.good = [run for run in self.all if not run["error"]]

    def median(self, key):
        return median([run[key] for run in self.good])

    def worst(self, key):
        values = [run[key] for run in self.good if run[key] is not None]
        return max(values) if values else None

    def seconds(self):
        """Median of the time, with the extremes where there are several runs, and what is wrong with it."""
        if not self.all:
            return "-"
        if not self.good:
            return "failed"
        times = sorted(run["seconds"] for run in self.good)
        text = f"{median(times):.1f}"
        if len(times) > 1:
            text += f" ({times[0]:.1f}-{times[-1]:.1f})"
        if len(self.good) < len(self.all):
            text += f", {len(self.all) - len(self.good)} failed"
        if any(run["late"] for run in self.good):
            text += " *"
        return text


def times_table(results, links, systems, fill):
    head = ["link", "", "2009: none", "2009: HyperIP", *systems, "none / longhaul"]
    rows = []
    for name, _, _, what, hyperip_none, hyperip in links:
        cells = [Cell(results, fill, name, system) for system in systems]
        plain, ours = (Cell(results, fill, name, system).median("seconds") for system in ("none", "longhaul"))
        speed_up = f"{plain / ours:.1f}x" if plain and ours else "-"
        rows.append([name, what, f"{hyperip_none} s", f"{hyperip} s", *(cell.seconds() for cell in cells), speed_up])
    return common.markdown_table(head, rows)


def cpu(cell):
    sides = sorted({side for run in cell.good for side in run["appliance_cpu_s_per_gb"]})
    values = [median([run["appliance_cpu_s_per_gb"].get(side) for run in cell.good]) for side in sides]
    return " + ".join(number(value, "{:.2f}") for value in values) or "-"


def resent(run):
    """Share of what crossed the WAN that had been sent before, by whoever sends there."""
    channel = (run["appliance_a"] or {}).get("channel")
    if channel:
        return channel["bytes_retransmitted"] / max(channel["bytes_sent"], 1)
    return run["host_resent_share"]


def details_table(results, links, systems, fill):
    head = ["link", "system", "s", "stopped, QEMU ms", "stopped, beats ms (worst)", "lost beats", "memory"]
    head += ["moved MB", "wire MB", "appliances CPU s/GB", "drain ms", "undelivered MB, most", "sent again", "emulator late p99 / max us", "void"]
    rows = []
    for link in links:
        for system in systems:
            cell = Cell(results, fill, link[0], system)
            if not cell.all:
                continue
            if not cell.good:
                rows.append([link[0], system, "failed: " + " ".join(cell.all[0]["error"].replace("|", "/").split())[:120], *["-"] * 12])
                continue
            lateness = [way for run in cell.good for way in run["wanem_lateness"].values()]
            mega = [None if (value := cell.median(key)) is None else value / 1e6 for key in ("moved_bytes", "wire_bytes")]
            share = median([resent(run) for run in cell.good])
            rows.append(
                [
                    link[0],
                    system,
                    cell.seconds(),
                    number(cell.median("downtime_qemu_ms"), "{:.0f}"),
                    f"{number(cell.median('downtime_beat_ms'), '{:.0f}')} ({number(cell.worst('downtime_beat_ms'), '{:.0f}')})",
                    number(cell.worst("lost_beats"), "{:.0f}"),
                    f"verified {len(cell.good)} of {len(cell.all)}",
                    *(number(value, "{:.0f}") for value in mega),
                    cpu(cell),
                    number(cell.median("drain_ms"), "{:.0f}"),
                    number(cell.worst("undelivered_mb_max")),
                    number(share * 100, "{:.3f} %"),
                    f"{max(way['p99_us'] for way in lateness):.0f} / {max(way['max_us'] for way in lateness):.0f}",
                    sum(run["void_runs_before"] for run in cell.good),
                ]
            )
    return common.markdown_table(head, rows)


GOALS = """\
The goals: on baseline at most +2 % over `none` (HyperIP: +21 %); on sonet, metro-low and metro at most 1.05 times the
un-accelerated baseline; on mpls at least 10.7 times as fast as `none` and `cubic-64k`, at most 1.26 times the baseline;
stopped no longer than without longhaul on the clean LAN + 200 ms + one round trip.
"""


def goals_table(results, links, fill):
    """What was reached of the goals, as far as the runs needed for it are there."""
    base = Cell(results, fill, "baseline", "none")
    base_s, base_stop = base.median("seconds"), base.median("downtime_beat_ms")
    rows = []
    for name, _, rtt, *_ in links:
        ours = Cell(results, fill, name, "longhaul")
        seconds, stop = ours.median("seconds"), ours.median("downtime_beat_ms")
        if not seconds:
            continue
        if base_s:
            bound = {"baseline": 1.02, "mpls": 1.26}.get(name, 1.05)
            reached = seconds / base_s
            rows.append([name, f"time at most {bound:.2f} x baseline's `none`", f"{reached:.2f}", verdict(reached <= bound)])
        if base_stop:
            bound = base_stop + 200 + rtt
            rows.append([name, f"stopped at most {bound:.0f} ms", f"{stop:.0f} ms", verdict(stop <= bound)])
        for system in ("none", "cubic-64k") if name == "mpls" and fill == "report" else ():
            other = Cell(results, fill, name, system).median("seconds")
            if other:
                rows.append([name, f"at least 10.7 x as fast as `{system}`", f"{other / seconds:.1f}", verdict(other / seconds >= 10.7)])
    return common.markdown_table(["link", "goal", "measured", ""], rows) if rows else ""


def verdict(reached):
    return "reached" if reached else "**not reached**"


def report(results, links, systems, options):
    """report.md and the plots by file name."""
    loads = [run["load"] for run in results["runs"] if not run["error"]]
    machine = results["machine"]
    parts = [
        "# A running virtual machine moves\n",
        f"`{results['command']}`, {results['date']}, commit {results['commit']}, Linux {results['kernel']}, QEMU {results['qemu']} "
        f"(TCG), {machine['cores']} cores ({machine['cpu']}), load {min(loads, default=0):.1f}-{max(loads, default=0):.1f} of which "
        f"the benchmark itself makes 2 to 3. A guest of {results['memory_mb']} MB, {options.runs} run(s) each, seed {results['seed']}; latency read "
        f"as {'one way' if results['one_way'] else 'round trip'}. Hosts, appliances, both QEMUs and the emulator share the cores, so "
        "times at 1 Gbps are an upper bound; compare columns of one row.\n",
        "Time is from the migrate command until the guest runs at the destination, the median of the runs. `stopped, beats` is the "
        "gap in the guest's 10 ms heartbeat as seen on its console; `lost beats` are numbers that never appeared; `drain` is from the "
        "source's last byte until the guest runs, `undelivered` what was between the hosts at most, in their bytes; `wire` counts both directions with Ethernet headers. HyperIP's rows are the 2009 "
        "report's: another guest, other machines.\n",
    ]
    plots = {}
    for fill in options.fill:
        parts += [f"## Fill `{fill}`\n", times_table(results, links, systems, fill)]
        if any(run.get("late") for run in results["runs"]):
            parts.append(f"\\* the emulator was late (p99 above {results['lateness_bound_p99_us']} us) in every repetition.\n")
        goals = goals_table(results, links, fill)
        if goals:
            parts += [f"### Goals\n\n{GOALS}", goals]
        parts += ["### Everything measured\n", details_table(results, links, systems, fill)]
        plots[f"time-{fill}.svg"] = time_plot(results, links, systems, fill)
        parts.append(f"![time per link](time-{fill}.svg)\n")
        for link in links:
            series = throughput_series(results, link[0], systems, fill)
            if series:
                file = f"throughput-{fill}-{link[0]}.svg"
                plots[file] = plot.lines(f"{link[0]}, {fill}: what the source sends", "seconds", "Mbps", series)
                parts.append(f"![throughput on {link[0]}]({file})\n")
    used = "".join(f"- `{name}`: {peers.SYSTEMS[name]}\n" for name in systems)
    parts += ["## Systems\n", used]
    if results["left_out"]:
        parts += ["Left out:\n", "".join(f"- `{name}`: {why}\n" for name, why in results["left_out"].items())]
    return "\n".join(parts), plots


def time_plot(results, links, systems, fill):
    groups = []
    for link in links:
        values = [(system, Cell(results, fill, link[0], system).median("seconds")) for system in systems]
        groups.append((link[0], [("HyperIP 2009", link[5]), *values]))
    return plot.bars(f"Seconds until the guest runs at the destination ({fill})", "seconds, logarithmic", groups)


def throughput_series(results, link, systems, fill):
    series = []
    for system in systems:
        good = Cell(results, fill, link, system).good
        if good:
            series.append((system, good[0]["throughput"]))
    return series
