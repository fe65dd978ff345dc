"""Arithmetic of the channel benchmark: links and their ceilings, rates from bins of arrivals, queues from the emulator's trace, fairness."""

import math
import statistics

# Stream bytes of a full datagram of the channel (1500 less IP, UDP, header, tag, frame header), and what it is on the
# wire with Ethernet's header, which is how the emulator counts.
PAYLOAD, WIRE = 1439, 1514
# A rate is reached when so much time together carried it.
WINDOW_S = 0.05
CELL = ("rate_mbps", "rtt_ms", "loss_percent", "jitter_ms")


def ceiling_mbps(cell):
    mbps, _, loss, _ = cell
    return mbps * PAYLOAD / WIRE * (1 - loss / 100)


def bdp_bytes(mbps, rtt_ms):
    return mbps * 1e6 / 8 * rtt_ms / 1e3


def rate_text(mbps):
    return f"{mbps // 1000} Gbps" if mbps % 1000 == 0 else f"{mbps} Mbps"


def cell_text(cell):
    mbps, rtt, loss, jitter = cell
    return f"{rate_text(mbps)}, {rtt:g} ms, {loss:g} %" + (f", jitter {jitter:g} ms" if jitter else "")


class Arrivals:
    """Bytes that arrived, in bins of `bin_s` from the moment `begun` on; nothing arrives behind the last bin."""

    def __init__(self, bins, bin_s, begun):
        self.bins, self.bin_s, self.begun = bins, bin_s, begun

    def between(self, since, until):
        first, last = (max(0, int((moment - self.begun) / self.bin_s + 1e-6)) for moment in (since, until))
        return sum(self.bins[first:last])

    def mbps(self, since, until):
        return self.between(since, until) * 8 / max(until - since, 1e-9) / 1e6

    def reached_s(self, since, wanted_mbps, hold_s=0.0):
        """From `since` until the end of the first WINDOW_S that carried `wanted_mbps`, and `hold_s` from its start did too; None if never."""
        width = max(1, round(WINDOW_S / self.bin_s))
        hold = max(width, round(hold_s / self.bin_s))
        wanted = wanted_mbps * 1e6 / 8 * self.bin_s
        # The first whole bin behind `since`: what arrived before does not count.
        for at in range(max(0, math.ceil((since - self.begun) / self.bin_s - 1e-6)), len(self.bins) - hold + 1):
            if sum(self.bins[at : at + width]) >= wanted * width and sum(self.bins[at : at + hold]) >= wanted * hold:
                return self.begun + (at + width) * self.bin_s - since
        return None


class Queue:
    """What the emulator's queue held at least and at most in each bin since it started."""

    def __init__(self, trace, started):
        self.bin_s, self.started = trace["bin_s"], started
        self.least, self.most = trace["queue_min_bytes"], trace["queue_max_bytes"]

    def bins(self, since, until):
        first, last = (max(0, int((moment - self.started) / self.bin_s)) for moment in (since, until))
        return self.least[first:last], self.most[first:last]

    def standing_bytes(self, since, until):
        """The median of what never left it within a bin."""
        least, _ = self.bins(since, until)
        return statistics.median(least) if least else None

    def greatest_bytes(self, since, until):
        return max(self.bins(since, until)[1], default=None)

    def longest_above_s(self, since, until, bound_bytes):
        """The longest time in which it never held `bound_bytes` or less, by whole bins."""
        longest = run = 0
        for least in self.bins(since, until)[0]:
            run = run + 1 if least > bound_bytes else 0
            longest = max(longest, run)
        return longest * self.bin_s


def jain(shares):
    """Jain's index: 1 where all have the same, 1/n where one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else None


def change_figures(arrivals, queue, changes, rtt_ms, ended):
    """What each change of the rate, (moment, new Mbps), led to until the next one."""
    rows = []
    for number, (moment, mbps) in enumerate(changes):
        until = changes[number + 1][0] if number + 1 < len(changes) else ended
        ceiling, rtt_s = ceiling_mbps((mbps, rtt_ms, 0, 0)), rtt_ms / 1e3
        bdp = bdp_bytes(mbps, rtt_ms)
        rows.append({
            "to_mbps": mbps,
            "reached_s": arrivals.reached_s(moment, 0.9 * ceiling, hold_s=10 * rtt_s),
            "afterwards_of_ceiling": arrivals.mbps(moment + 10 * rtt_s, until) / ceiling,
            "queue_max_bdp": (queue.greatest_bytes(moment, until) or 0) / bdp,
            "queue_above_bdp_s": queue.longest_above_s(moment, until, bdp),
            "rtt_s": rtt_s,
        })
    return rows
