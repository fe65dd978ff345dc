"""The matrix benchmark's goals and report: how many cells reach each goal, a grid of each rate, and every cell that misses one."""

import math
import typing

from channel_figures import rate_text
from channel_goals import CEILING_SHARE, MIB, RESENT_EXTRA, SPURIOUS_AT_3_MS, failure_text
from common import markdown_table

# Above this, what arrived before second 5 and was read after it, behind a loss, is part of the goodput.
OVERHANG_SHARE = 1.005


class Cell(typing.NamedTuple):
    """Loss in bursts of this mean length (1: each datagram on its own); jitter in ms, or of the RTT as `30%`."""

    mbps: int
    rtt_ms: float
    loss_percent: float
    burst: float
    jitter: str

    def text(self):
        bursts = " in bursts" if self.burst > 1 else ""
        jitter = self.jitter.replace("%", " %") if self.jitter.endswith("%") else f"{self.jitter} ms"
        return f"{rate_text(self.mbps)}, {self.rtt_ms:g} ms, {self.loss_percent:g} %{bursts}" + (f", jitter {jitter}" if self.jitter != "0" else "")


def cell_of(row):
    return Cell(**row["cell"])


# ---- goals --------------------------------------------------------------------------------------------------------------


def share(figures):
    """Goodput of the ceiling; of the second half alone where the first has read what had arrived earlier."""
    whole, half = (figures[name] / figures["ceiling_bps"] for name in ("goodput_bps", "goodput_second_half_bps"))
    return min(whole, half) if whole > OVERHANG_SHARE else whole


def resent(figures):
    return figures["retransmitted"] + figures["repair_bytes"] / max(1, figures["sent_bytes"])


def startup(figures):
    return math.inf if figures["to_90_s"] is None else figures["to_90_s"]


def startup_text(figures):
    return "never" if figures["to_90_s"] is None else f"{figures['to_90_s']:.2f}"


class Goal(typing.NamedTuple):
    """A bound on a value of a cell's figures; `bad` grows as the cell gets worse, and is above 0 where the goal is missed."""

    name: str
    wanted: str
    bad: typing.Callable
    text: typing.Callable
    jitter: str | None = None

    def judges(self, row):
        return self.jitter is None or row["cell"]["jitter"] == self.jitter

    def missed(self, row):
        return "failure" in row or self.bad(row["figures"]) > 0


GOALS = (
    Goal("goodput, % of ceiling", f"at least {CEILING_SHARE * 100:g}", lambda f: CEILING_SHARE - share(f), lambda f: f"{share(f) * 100:.1f}"),
    Goal(
        "to 90 %, s (bound)", "at most 10 RTT + 100 ms",
        lambda f: startup(f) / f["to_90_bar_s"] - 1, lambda f: f"{startup_text(f)} ({f['to_90_bar_s']:.2f})",
    ),
    Goal(
        "sent again, %", f"at most loss + {RESENT_EXTRA * 100:g}",
        lambda f: resent(f) - f["loss"] - RESENT_EXTRA, lambda f: f"{resent(f) * 100:.2f}",
    ),
    # Below the bound, not at it.
    Goal(
        "without need, %", f"below {SPURIOUS_AT_3_MS * 100:g} at 3 ms of jitter",
        lambda f: math.nextafter(f["spurious"], 1) - SPURIOUS_AT_3_MS, lambda f: f"{f['spurious'] * 100:.3f}", "3",
    ),
    Goal(
        "memory, MiB (bound)", "at most 3 BDP + 8 MiB",
        lambda f: f["memory_max_bytes"] / f["memory_bar_bytes"] - 1,
        lambda f: f"{f['memory_max_bytes'] / MIB:.1f} ({f['memory_bar_bytes'] / MIB:.1f})",
    ),
)


def missed(row):
    """The goals that a cell misses; a failed one misses all that judge it."""
    return [goal for goal in GOALS if goal.judges(row) and goal.missed(row)]


def summary(rows):
    """Per goal how many of the cells that it judges reach it, by rate, and the worst of all; in a form for results.json."""
    found = []
    for goal in GOALS:
        judged = [row for row in rows if goal.judges(row)]
        reached = {}
        for row in judged:
            mbps = row["cell"]["mbps"]
            hits, all_of_rate = reached.get(mbps, (0, 0))
            reached[mbps] = (hits + (not goal.missed(row)), all_of_rate + 1)
        measured = [row for row in judged if "failure" not in row]
        worst = max(measured, key=lambda row: goal.bad(row["figures"]), default=None)
        found.append({
            "measure": goal.name, "goal": goal.wanted, "reached_of_cells_by_mbps": {str(mbps): list(counts) for mbps, counts in sorted(reached.items())},
            "worst": None if worst is None else f"{goal.text(worst['figures'])} at {cell_of(worst).text()}",
        })
    return found


# ---- report -------------------------------------------------------------------------------------------------------------


def summary_table(rows):
    rates = sorted({row["cell"]["mbps"] for row in rows})
    lines = []
    for goal in summary(rows):
        counts = goal["reached_of_cells_by_mbps"]
        of = [counts.get(str(mbps), (0, 0)) for mbps in rates]
        totals = [sum(column) for column in zip(*of)]
        lines.append([goal["measure"], goal["goal"], *(f"{hits} of {total}" if total else "-" for hits, total in [*of, totals]), goal["worst"] or "-"])
    return markdown_table(["measure", "goal", *map(rate_text, rates), "all", "worst"], lines)


def grid(rows):
    """The least goodput, in per cent of the ceiling, of one rate's cells by RTT and loss."""
    rtts, losses = (sorted({row["cell"][axis] for row in rows}) for axis in ("rtt_ms", "loss_percent"))

    def least(rtt, loss):
        here = [row for row in rows if row["cell"]["rtt_ms"] == rtt and row["cell"]["loss_percent"] == loss]
        if any("failure" in row for row in here):
            return "**failed**"
        shares = [share(row["figures"]) for row in here]
        if not shares:
            return "-"
        return f"{min(shares) * 100:.1f}" if min(shares) >= CEILING_SHARE else f"**{min(shares) * 100:.1f}**"

    lines = [[f"{rtt:g} ms", *(least(rtt, loss) for loss in losses)] for rtt in rtts]
    return markdown_table(["RTT / loss", *(f"{loss:g} %" for loss in losses)], lines)


def misses(rows):
    """Every cell that misses a goal, with its figures, what is missed in bold."""
    lines = []
    for row in rows:
        fell_short = missed(row)
        if not fell_short:
            continue
        if "failure" in row:
            lines.append([cell_of(row).text(), failure_text(row), *[""] * len(GOALS)])
            continue
        figures = row["figures"]
        said = [f"**{goal.text(figures)}**" if goal in fell_short else goal.text(figures) for goal in GOALS]
        lines.append([cell_of(row).text(), *said, f"{figures['queue_standing_s'] * 1e3:.1f}"])
    return markdown_table(["path", *(goal.name for goal in GOALS), "standing queue ms"], lines) if lines else "None.\n"


def values_text(values):
    return ", ".join(value if isinstance(value, str) else f"{value:g}" for value in values)


def coverage(rows, whole):
    """What was run of the whole matrix, rate by rate."""
    lines = []
    for mbps in sorted({cell.mbps for cell in whole} | {row["cell"]["mbps"] for row in rows}):
        cells = [cell_of(row) for row in rows if row["cell"]["mbps"] == mbps]
        planned = [cell for cell in whole if cell.mbps == mbps]
        seconds = sorted({row["seconds"] for row in rows if row["cell"]["mbps"] == mbps})

        def axis(name, cells=cells):
            return values_text(sorted({getattr(cell, name) for cell in cells})) or "-"

        lines.append([
            rate_text(mbps), f"{len(set(cells) & set(planned))} of {len(planned)}", values_text(seconds) or "-",
            axis("rtt_ms"), axis("loss_percent"), axis("burst"), axis("jitter"),
        ])
    return markdown_table(["rate", "cells run", "seconds", "RTT ms", "loss %", "mean length of a loss", "jitter ms"], lines)


HEAD = """\
Two channels on virtual time, joined by an emulated path with a queue of 1 BDP (100 packets at least), one greedy stream of random bytes.
Nothing here depends on the machine; a cell is a function of the seed ({seed}). Loss comes one by one or in bursts of mean length 4; jitter
keeps the order. Ceiling: line rate x 1440/1514 x (1 - loss). Goodput counts from second {settle:g} on; where that is more than
{overhang:g} % of the ceiling, because bytes that had come earlier were read then, the second half of that time counts. All else is of
the whole run, start-up included.
"""


def report(results, whole):
    """report.md."""
    about, rows = results["about"], results["cells"]
    left = len(set(whole) - {cell_of(row) for row in rows})
    failed = sum("failure" in row for row in rows)
    said = [
        "# The channel's matrix on virtual time\n",
        f"{about['machine']['cpu']}, {about['machine']['cores']} cores, Linux {about['kernel']}, commit {about['commit']}, "
        f"{about['date']}. `{about['command']}`\n",
        HEAD.format(seed=results["seed"], settle=results["settle"], overhang=OVERHANG_SHARE * 100),
        f"{len(rows)} cells were run, {left} of the whole matrix's {len(whole)} were not; {failed} failed.\n",
        coverage(rows, whole),
    ]
    if rows:
        said += ["## Cells that reach the goals\n", summary_table(rows)]
        said += ["## Goodput by RTT and loss\n", "Per cent of the ceiling, the least of all jitters and kinds of loss; below the goal in bold.\n"]
        for mbps in sorted({row["cell"]["mbps"] for row in rows}):
            said += [f"### {rate_text(mbps)}\n", grid([row for row in rows if row["cell"]["mbps"] == mbps])]
        said += ["## Every cell that misses a goal\n", misses(rows)]
    return "\n".join(said)
