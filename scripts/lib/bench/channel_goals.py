"""What the channel benchmark is meant to show, what of it was reached, and what the runs tell about the rest."""

import common
from channel_figures import cell_text

MIB = 1 << 20
CEILING_SHARE = 0.98
# Two rates nearer than this are the same on a machine that also runs the hosts.
NOISE = 0.02
# Queues nearer than this are the same: a few datagrams, and what the emulator's clock leaves open.
QUEUE_NOISE_MS = 0.1
# Beyond the path's loss, of all that was sent.
RESENT_EXTRA = 0.02
SPURIOUS_AT_3_MS = 0.001
JAIN = 0.95
FAIR_PART = 0.5
# Of the channel by itself; and how much more that is than sealed datagrams without a protocol took where it was set (.55, .40),
# because machines differ, and one machine from hour to hour.
CPU_S_PER_GB = {"send": 0.9, "receive": 0.7}
CPU_RATIO = {"send": 1.64, "receive": 1.75}
MEMORY_BDPS, MEMORY_EXTRA = 3, 8 * MIB
SIDES = ("send", "receive")


def cell_of(row):
    return tuple(row["cell"].values())


def startup_bound_s(rtt_ms):
    return 10 * rtt_ms / 1e3 + 0.1


def recovery_bound_s(rtt_ms):
    return 2 * rtt_ms / 1e3 + 0.2


def memory_bound(row, side):
    return row["memory_idle_bytes"][side] + MEMORY_BDPS * row["bdp_bytes"] + MEMORY_EXTRA


def failure_text(row):
    """Why a run failed, fit for a table."""
    return "failed: " + " ".join(row["failure"].replace("|", "/").split())[:160]


def seconds_text(value):
    return "never" if value is None else f"{value:.2f} s"


def goals(part, rows):
    """(row, what is asked, what was measured, reached) for each goal of a part whose runs are there."""
    judge = {"cells": cells, "change": change, "fairness": fairness, "memory": memory, "outage": outage, "cpu": cpu, "alone": alone}[part]
    good = [row for row in rows if "failure" not in row]
    yield from judge(good)
    for row in rows:
        if "failure" in row and row.get("system", "longhaul") == "longhaul":
            yield row, "the run ends", failure_text(row), False


def ours(rows):
    return [row for row in rows if row["system"] == "longhaul"]


def cells(rows):
    for row in ours(rows):
        cell = cell_of(row)
        _, rtt, loss, jitter = cell
        others = {other["system"]: other for other in rows if other is not row and cell_of(other) == cell}
        share = row["of_ceiling"]
        yield row, f"at least {CEILING_SHARE:.0%} of the ceiling", f"{share:.1%}", share >= CEILING_SHARE
        bound, startup = startup_bound_s(rtt), row["startup_s"]
        yield row, f"90 % within {bound:.2f} s", seconds_text(startup), startup is not None and startup <= bound
        if others:
            best = max(others.values(), key=lambda other: other["goodput_mbps"])
            wanted = "ahead of each other system, but for noise"
            measured = f"{row['goodput_mbps']:.1f} Mbps; `{best['system']}` {best['goodput_mbps']:.1f}"
            yield row, wanted, measured, row["goodput_mbps"] >= best["goodput_mbps"] * (1 - NOISE)
        if "bbr" in others and None not in (row["standing_queue_ms"], others["bbr"]["standing_queue_ms"]):
            queue, theirs = row["standing_queue_ms"], others["bbr"]["standing_queue_ms"]
            # Who leaves a part of the link unused has no queue.
            at = f" at {others['bbr']['of_ceiling']:.0%} of the ceiling"
            yield row, "standing queue below BBR's", f"{queue:.2f} ms; `bbr` {theirs:.2f}{at}", queue <= theirs + QUEUE_NOISE_MS
        bound, again = loss / 100 + RESENT_EXTRA, row["retransmitted"]
        yield row, f"sent again at most {bound * 100:g} %", f"{again * 100:.2f} %", again <= bound
        if jitter == 3:
            spurious = row["spurious"]
            yield row, f"sent again without need below {SPURIOUS_AT_3_MS:.1%}", f"{spurious * 100:.3f} %", spurious < SPURIOUS_AT_3_MS


def outage(rows):
    for row in ours(rows):
        bound, after = recovery_bound_s(cell_of(row)[1]), row["outage"]["recovery_s"]
        measured = f"{after:.2f} s" if after is not None else f"not within {row['outage']['watched_s']:.0f} s"
        yield row, f"outage of {row['outage']['length_s']:g} s: at 90 % within {bound:.2f} s", measured, after is not None and after <= bound


def change(rows):
    """The worst of a run's changes up, and of those down."""
    for row in ours(rows):
        rates = sorted({change["to_mbps"] for change in row["changes"]})
        for mbps in rates:
            same = [change for change in row["changes"] if change["to_mbps"] == mbps]
            rtt_s = same[0]["rtt_s"]
            reached = [change["reached_s"] for change in same]
            worst = None if None in reached else max(reached)
            wanted = f"to {mbps} Mbps: 90 % within {10 * rtt_s:.2f} s"
            yield row, wanted, seconds_text(worst), worst is not None and worst <= 10 * rtt_s
            above = max(change["queue_above_bdp_s"] for change in same)
            wanted = f"to {mbps} Mbps: queue above 1 BDP for {5 * rtt_s * 1e3:.0f} ms at most"
            yield row, wanted, f"{above * 1e3:.0f} ms", above <= 5 * rtt_s


def fairness(rows):
    for row in rows:
        if row["rivals"]:
            measured = ", ".join(f"`{flow['who']}` {flow['of_fair_part']:.0%}" for flow in row["flows"])
            reached = all(flow["of_fair_part"] >= FAIR_PART for flow in row["flows"])
            yield row, f"{row['case']}: each at least {FAIR_PART:.0%} of its fair part", measured, reached
        else:
            yield row, f"{row['case']}: Jain's index at least {JAIN}", f"{row['jain']:.3f}", row["jain"] >= JAIN


def memory(rows):
    for row in ours(rows):
        for side in SIDES:
            if side not in row["memory_idle_bytes"] or not row["memory_peak_bytes"].get(side):
                continue
            bound, peak = memory_bound(row, side), row["memory_peak_bytes"][side]
            wanted = f"{side}: at most {bound / MIB:.0f} MiB (idle {row['memory_idle_bytes'][side] / MIB:.0f} + 3 BDP + 8)"
            yield row, wanted, f"{peak / MIB:.0f} MiB", peak <= bound


def cpu(rows):
    """A whole appliance has no goal of its own: what it is for is bounded by what the machine has, and the channel's cost is judged alone."""
    del rows
    return []


def alone(rows):
    for row in rows:
        for side in SIDES:
            used, ratio = row["alone"]["channel"][side], row["alone"]["ratio"][side]
            yield row, f"{side}: at most {CPU_S_PER_GB[side]} CPU s/GB", f"{used:.2f}", used <= CPU_S_PER_GB[side]
            yield row, f"{side}: at most {CPU_RATIO[side]}x sealed datagrams without a protocol", f"{ratio:.2f}x", ratio <= CPU_RATIO[side]


# ---- what fell short ----------------------------------------------------------------------------------------------------


def reasons(row):
    """What a run itself says about where its time went."""
    if "failure" in row:
        return "the run failed"
    if "alone" in row:
        return "without a protocol: send {send:.2f} s/GB, receive {receive:.2f} at the same time".format(**row["alone"]["no protocol"])
    said = [f"cores {row['machine_busy_share']:.0%} busy"]
    if row.get("cpu_share"):
        said[0] += " (of one core: " + ", ".join(f"{role} {share:.0%}" for role, share in sorted(row["cpu_share"].items())) + ")"
    if "retransmitted" in row:
        said.append(f"{row['retransmitted'] * 100:.2f} % sent again, {row['dropped_by_queue'] * 100:.2f} % dropped by the queue")
    if row.get("rtt_loaded_ms") and row.get("rtt_idle_ms"):
        said.append(f"ping {row['rtt_loaded_ms']:.1f} ms, idle {row['rtt_idle_ms']:.1f}")
    if row["standing_queue_ms"] is not None:
        said.append(f"standing queue {row['standing_queue_ms']:.2f} ms")
    said.append(f"emulator late by {row['lateness']['p99_us']:.0f} us (p99)")
    if row["void"]:
        said.append("**void**: the emulator was too late, so the run says little")
    return "; ".join(said)


def judged(part, rows):
    """As goals(), in a form for results.json."""
    return [
        {"part": part, "link": cell_text(cell_of(row)), "goal": wanted, "measured": measured, "reached": bool(reached), "void": row.get("void", False)}
        for row, wanted, measured, reached in goals(part, rows)
    ]


def table(part, rows):
    """The goals' table and, for links that fell short, what is known about it; empty where there is nothing to say."""
    lines, short, reached_all = [], {}, 0
    for row, wanted, measured, reached in goals(part, rows):
        link = cell_text(cell_of(row))
        lines.append([link, wanted, measured + (" (VOID)" if row.get("void") else ""), "reached" if reached else "**not reached**"])
        reached_all += bool(reached)
        if not reached:
            short[f"{link}{': ' + row['case'] if 'case' in row else ''}"] = reasons(row)
    said = "".join(f"- {name}: {why}\n" for name, why in short.items())
    head = ["link", "goal", "measured", f"{reached_all} of {len(lines)}"]
    return (common.markdown_table(head, lines) if lines else ""), said
