"""The channel benchmark's report: for each part its goals, what fell short, and everything measured."""

import channel_goals
import plot
from channel_figures import PAYLOAD, WIRE, cell_text
from channel_goals import MIB, SIDES, cell_of
from common import markdown_table

TITLES = {
    "cells": "Links",
    "change": "The rate changes in mid-transfer",
    "outage": "After an outage",
    "fairness": "Fairness",
    "memory": "Memory",
    "cpu": "CPU",
    "alone": "CPU of the channel alone",
}


def text(value, form="{:.1f}"):
    return "-" if value is None else form.format(value)


def system_of(row):
    return row["system"] + (" VOID" if row["void"] else "")


def failed(row, name, width):
    return [cell_text(cell_of(row)), name, channel_goals.failure_text(row), *[""] * (width - 3)]


def rows_of(rows, head, lines):
    """One line (or more) of a table for each run; a failed run says why."""
    found = []
    for row in rows:
        found += [failed(row, row.get("system") or row["case"], len(head))] if "failure" in row else lines(row)
    return markdown_table(head, found)


CELLS = """\
Goodput counts from second {settle:g} on. Start-up: from connecting until 50 ms together reach 90 % of the ceiling. Again: sent again, of
what was sent, as the sender counts it (the forwarders tell nothing of it). Queue dropped: of what was offered to the link, what its full
queue refused. Standing queue: the median of what never left the emulator's queue within 5 ms. RTT: ping beside the flow, median. Each
process's CPU includes its system calls; a kernel TCP's own cost belongs to the hosts and is not listed.
"""


def cells(rows):
    head = ["link", "system", "Mbps", "% line", "% ceiling", "start-up s", "again %", "queue dropped %", "standing queue ms", "RTT idle ms"]
    head += ["loaded ms", "queue max KB", "CPU s/GB send", "receive", "MiB send", "receive", "late p99 ms"]

    def lines(row):
        cpu, memory = row["cpu_s_per_gb"], row["memory_peak_bytes"]
        mib = [text(memory[role] / MIB, "{:.0f}") if memory.get(role) else "-" for role in SIDES]
        yield [
            cell_text(cell_of(row)), system_of(row), text(row["goodput_mbps"]), text(row["of_line"] * 100),
            text(row["of_ceiling"] * 100), text(row["startup_s"], "{:.2f}"),
            text(row["retransmitted"] * 100, "{:.2f}") if "retransmitted" in row else "-",
            text(row["dropped_by_queue"] * 100, "{:.2f}"), text(row["standing_queue_ms"], "{:.2f}"), text(row["rtt_idle_ms"], "{:.2f}"),
            text(row["rtt_loaded_ms"], "{:.2f}"), text(row["queue_max_bytes"] / 1e3, "{:.0f}"),
            text(cpu.get("send"), "{:.2f}"), text(cpu.get("receive"), "{:.2f}"), *mib, text(row["lateness"]["p99_us"] / 1e3, "{:.2f}"),
        ]

    return rows_of(rows, head, lines)


CHANGE = """\
90 % after: from the change until 50 ms together, and 10 RTT from their start, carry 90 % of the new ceiling; a lower rate is reached at
once unless the flow falls below it. Then: goodput from 10 RTT after the change until the next one, of the ceiling. Queue: the most the
emulator held, in BDP of the new rate, and the longest time in which it never held less than one. What is queued already when the rate
changes leaves at the old one.
"""


def change(rows):
    head = ["link", "system", "to Mbps", "90 % after s", "then % ceiling", "queue max BDP", "above 1 BDP ms"]

    def lines(row):
        for one in row["changes"]:
            yield [
                cell_text(cell_of(row)), system_of(row), one["to_mbps"], text(one["reached_s"], "{:.2f}"),
                text(one["afterwards_of_ceiling"] * 100), text(one["queue_max_bdp"], "{:.2f}"), text(one["queue_above_bdp_s"] * 1e3, "{:.0f}"),
            ]

    return rows_of(rows, head, lines)


def change_plots(rows):
    """File name to the goodput over each link's run, all systems in one plot."""
    found = {}
    for cell in dict.fromkeys(cell_of(row) for row in rows):
        good = [row for row in rows if cell_of(row) == cell and "failure" not in row]
        # The last interval is rarely whole.
        series = [
            (row["system"], [[(place + 1) / 10, mbps] for place, mbps in enumerate(row["throughput_mbps"][:-1])], len(row["throughput_mbps"]) / 10)
            for row in good
        ]
        if series:
            title = f"{cell_text(cell)}: the rate halves and doubles"
            found[f"change-{cell[0]}-{cell[1]:g}.svg"] = plot.rates(title, "seconds since connecting", "Mbps that arrive", series)
    return found


OUTAGE = """\
The WAN is dead for that long, six seconds after the emulator's start; a run goes on for about six seconds after its return.
"""


def outage(rows):
    head = ["link", "system", "outage s", "Mbps before", "back at 90 % after s"]

    def lines(row):
        one = row["outage"]
        back = text(one["recovery_s"], "{:.2f}") if one["recovery_s"] is not None else f"> {one['watched_s']:.0f}"
        yield [cell_text(cell_of(row)), system_of(row), f"{one['length_s']:g}", text(one["before_mbps"]), back]

    return rows_of(rows, head, lines)


FAIRNESS = """\
Each flow has a pair of hosts of its own, and all meet in the emulator's one queue: the rivals' hosts have no appliances. Flows start half
a second apart, longhaul last. Of its fair part: a flow's goodput, of the link's ceiling divided by the number of flows.
"""


def fairness(rows):
    head = ["link", "flows", "from s to s", "Mbps (of its fair part)", "Jain", "together % ceiling", "standing queue ms", "machine busy"]

    def lines(row):
        flows = ", ".join(f"{flow['who']} {flow['mbps']:.1f} ({flow['of_fair_part']:.0%})" for flow in row["flows"])
        name = row["case"] + (" VOID" if row["void"] else "")
        queue, busy = text(row["standing_queue_ms"], "{:.2f}"), f"{row['machine_busy_share']:.0%}"
        when = f"{row['settle']:g}-{row['seconds']:g}"
        yield [cell_text(cell_of(row)), name, when, flows, text(row["jain"], "{:.3f}"), text(row["of_ceiling"] * 100), queue, busy]

    return rows_of(rows, head, lines)


MEMORY = """\
Resident memory of each appliance: idle, with its session up, and at its peak.
"""


def memory(rows):
    head = ["link", "system", "side", "idle MiB", "peak MiB", "bound MiB", "BDP MiB", "Mbps"]

    def lines(row):
        for side in SIDES:
            if side in row["memory_idle_bytes"]:
                idle, peak = row["memory_idle_bytes"][side], row["memory_peak_bytes"].get(side)
                values = [idle, peak or 0, channel_goals.memory_bound(row, side), row["bdp_bytes"]]
                mib = [f"{value / MIB:.1f}" for value in values]
                yield [cell_text(cell_of(row)), system_of(row), side, *mib, text(row["goodput_mbps"])]

    return rows_of(rows, head, lines)


CPU = """\
CPU seconds per GB of the hosts' bytes, of a whole appliance: its LAN side (frames, TCP), relay, channel and system calls. The channel
alone has a section of its own.
"""


def cpu(rows):
    head = ["link", "system", "side", "CPU s/GB", "user", "system", "of one core", "Mbps"]

    def lines(row):
        for side in SIDES:
            if side not in row["cpu_s_per_gb"]:
                continue
            used, user = row["cpu_s_per_gb"][side], row["cpu_user_share"].get(side)
            parts = ["-", "-"] if user is None else [f"{used * user:.2f}", f"{used * (1 - user):.2f}"]
            yield [cell_text(cell_of(row)), system_of(row), side, f"{used:.2f}", *parts, f"{row['cpu_share'][side]:.0%}", text(row["goodput_mbps"])]

    found = rows_of([row for row in rows if not row.get("profile")], head, lines)
    for row in rows:
        for side, functions in row.get("profile", {}).items():
            listed = [[f"{percent:.1f}", f"`{name}`"] for percent, name in functions]
            found += f"\n{side}, {cell_text(cell_of(row))}: where its CPU time went ([k]: in the kernel)\n\n"
            found += markdown_table(["%", "function"], listed)
    return found


ALONE = """\
CPU seconds per GB of one thread that sends and one that receives over a UDP socket on loopback at 1 Gbps, 1452-byte datagrams, system
calls included. No protocol: the same datagrams sealed, sent in segmented batches, received and opened. Without the kernel, and with loss:
`cargo test --release --test channel_cost -- --ignored --nocapture seconds_per_gigabyte`.
"""


def alone(rows):
    head = ["link", "what", "send s/GB", "receive s/GB"]

    def lines(row):
        for name, costs in row["alone"].items():
            form = "{:.2f}x" if name == "ratio" else "{:.2f}"
            yield [cell_text(cell_of(row)), name, *(form.format(costs[side]) for side in SIDES)]

    return rows_of(rows, head, lines)


PARTS = {"cells": (CELLS, cells), "change": (CHANGE, change), "outage": (OUTAGE, outage), "fairness": (FAIRNESS, fairness),
         "memory": (MEMORY, memory), "cpu": (CPU, cpu), "alone": (ALONE, alone)}


def report(results):
    """report.md, and the plots by file name."""
    plots = change_plots(results["parts"].get("change", []))
    about = results["about"]
    send_buffer = about["host_buffers"]["tcp_wmem"][2]
    said = [
        "# The channel in the lab\n",
        f"{about['machine']['cpu']}, {about['machine']['cores']} cores, Linux {about['kernel']}, commit {about['commit']}, "
        f"{about['date']}, load {about['load_at_start'][0]:.1f} at the start. `{about['command']}`\n",
        f"{results['streams']} TCP stream(s) of random bytes from host a to host b. Ceiling: line rate x {PAYLOAD}/{WIRE} x (1 - loss), the "
        f"same for every system. Hosts, appliances and the emulator share the cores. VOID: the emulator released one frame in a hundred "
        f"more than {results['late_ms']:g} ms late, or lost some itself; the figures are kept for what they are. The hosts' sockets have "
        f"the system's buffers, {send_buffer / MIB:g} MiB to send at most: what kernel TCP has under way.\n",
    ]
    for part, rows in results["parts"].items():
        if not rows:
            continue
        explained, table = PARTS[part]
        goals, short = channel_goals.table(part, rows)
        said += [f"## {TITLES[part]}\n", explained.format(settle=results["settle"])]
        if goals:
            said += [goals, f"What fell short, and what the runs themselves say about it:\n\n{short}" if short else "All reached.\n"]
        said += ["### Everything measured\n", table(rows)]
        if part == "change":
            said += [f"![{name}]({name})\n" for name in plots]
    if results.get("left_out"):
        said += ["## Left out\n", "".join(f"- {why}\n" for why in results["left_out"])]
    return "\n".join(said), plots
