"""Who gets what of a link that several flows fill: longhaul beside kernel TCP that bypasses it, and several pairs of appliances.

Each flow has a pair of hosts of its own; all meet in the emulator's one queue.
"""

import json
import time

import channel_run
import process
from channel_figures import CELL, Arrivals, Queue, bdp_bytes, ceiling_mbps, jain
from channel_run import PORT
from common import Failure, Lab

# Flows start so long after each other, longhaul's last: who comes late must get its part too.
APART_S = 0.5


class Case:
    """A link with a queue of `buffer_bdp` BDP, `sessions` flows through pairs of appliances, and `rivals` of kernel TCP."""

    def __init__(self, mbps, rtt_ms, buffer_bdp, sessions, rivals):
        self.cell = (mbps, rtt_ms, 0, 0)
        self.buffer_bdp, self.sessions, self.rivals = buffer_bdp, sessions, list(rivals)

    def text(self):
        ours = "longhaul" if self.sessions == 1 else f"{self.sessions} x longhaul"
        return " beside ".join([ours, *self.rivals]) + f", buffer {self.buffer_bdp:g} BDP"

    def flows(self):
        """(who, pair) in the order of their start."""
        pairs = [("longhaul", number + 1) for number in range(self.sessions)]
        others = [(rival, self.sessions + number + 1) for number, rival in enumerate(self.rivals)]
        return others + pairs

    def lab_options(self, seed):
        queue = int(bdp_bytes(*self.cell[:2]) * self.buffer_bdp)
        options = [*channel_run.lab_options("longhaul", self.cell, seed), "--queue", str(queue), "--pairs", str(self.sessions)]
        return options + (["--beside", ",".join(self.rivals)] if self.rivals else [])


def cases(quick, buffers, sessions):
    slow, fast = (100, 25), (1000, 12)
    found = [Case(*slow, buffer, 1, [rival]) for buffer in buffers for rival in ("cubic", "bbr")]
    if not quick:
        found += [Case(*fast, 1, 1, [rival]) for rival in ("cubic", "bbr")]
    return found + [Case(*slow, 1, count, []) for count in sessions]


def side(letter, pair):
    return letter if pair == 1 else f"{letter}{pair}"


def run_once(case, arguments, seconds, settle):
    flows, receivers, senders = case.flows(), [], []
    with Lab(arguments.lab, *case.lab_options(arguments.seed)) as lab, channel_run.ended_children() as children:
        lab.wait_for_channel(20)
        for _, pair in flows:
            receivers.append(channel_run.start_receiver(lab, side("b", pair), seconds))
            children.append(receivers[-1])
        began = time.monotonic()
        for number, (_, pair) in enumerate(flows):
            time.sleep(max(0.0, began + number * APART_S - time.monotonic()))
            address = f"10.77.0.{20 * (pair - 1) + 2}"
            senders.append(channel_run.start_sender(lab, side("a", pair), address, PORT, seconds - number * APART_S, 1))
            children.append(senders[-1])
        time.sleep(max(0.0, began + settle - time.monotonic()))
        machine_before = process.machine_ticks()
        time.sleep(max(0.0, began + seconds - 0.3 - time.monotonic()))
        busy_share = process.busy_share(machine_before, process.machine_ticks())
        sent = [json.loads(sender.communicate(timeout=60)[0] or "{}") for sender in senders]
        received = [json.loads(receiver.communicate(timeout=60)[0] or "{}") for receiver in receivers]
        wanem = lab.status()["wanem"]
    for (who, _), given, taken in zip(flows, sent, received):
        if not given or not taken.get("begun"):
            raise Failure(f"{who}: nothing arrived: {given.get('error') or taken.get('error') or 'a program died'}")
    since, until = began + settle, min(given["ended"] for given in sent) - 0.05
    arrivals = [Arrivals(taken["bins"], taken["bin_s"], taken["begun"]) for taken in received]
    rates = [flow.mbps(since, until) for flow in arrivals]
    queue = Queue(wanem["a_to_b"].pop("trace"), wanem["started_monotonic_s"])
    late = channel_run.lateness(wanem)
    return {
        **described(case),
        **shares([who for who, _ in flows], rates, ceiling_mbps(case.cell)),
        "seconds": seconds,
        "settle": settle,
        # In the order of `flows`, each second from the first sender's start on.
        "throughput_mbps": [[round(flow.mbps(began + second, began + second + 1), 1) for second in range(int(seconds))] for flow in arrivals],
        "standing_queue_ms": channel_run.as_ms(queue.standing_bytes(since, until), case.cell[0]),
        "queue_full": wanem["a_to_b"]["segments"]["queue_full"],
        "machine_busy_share": busy_share,
        "lateness": late,
        "void": channel_run.is_void(late, arguments),
    }


def described(case):
    return {
        "case": case.text(),
        "cell": dict(zip(CELL, case.cell)),
        "buffer_bdp": case.buffer_bdp,
        "sessions": case.sessions,
        "rivals": case.rivals,
    }


def shares(names, rates, ceiling):
    """What each flow got, alone and of its fair part of the link."""
    fair = ceiling / len(rates)
    flows = [{"who": who, "mbps": rate, "of_fair_part": rate / fair} for who, rate in zip(names, rates)]
    return {"flows": flows, "jain": jain(rates), "of_ceiling": sum(rates) / ceiling}


def run(case, arguments, seconds, settle):
    """One run, repeated while the emulator was late."""
    return channel_run.repeated(arguments, described(case), lambda: run_once(case, arguments, seconds, settle))
