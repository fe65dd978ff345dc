"""The channel benchmark: figures from made-up arrivals and queues, and what its goals say of them."""

import argparse
import unittest

import channel
import channel_alone
import channel_fairness
import channel_figures
import channel_goals
import channel_profile
import channel_report
import common

RATE = 100
CEILING = channel_figures.ceiling_mbps((RATE, 25, 0, 0))
# Bytes of a bin of 10 ms at the ceiling.
FULL = int(CEILING * 1e6 / 8 * 0.01) + 1


def arrivals(*parts, begun=100.0):
    """Arrivals of (bins, bytes in each)."""
    return channel_figures.Arrivals([each for count, each in parts for _ in range(count)], 0.01, begun)


def queue(*parts, started=90.0):
    bins = [held for count, held in parts for _ in range(count)]
    return channel_figures.Queue({"bin_s": 0.005, "queue_min_bytes": bins, "queue_max_bytes": [held + 1000 for held in bins]}, started)


class Figures(unittest.TestCase):
    def test_a_link_s_ceiling_is_its_payload_less_the_loss(self):
        self.assertAlmostEqual(channel_figures.ceiling_mbps((1000, 5, 1, 0)), 1000 * 1439 / 1514 * 0.99)
        self.assertEqual(channel_figures.bdp_bytes(100, 25), 312_500)
        self.assertEqual(channel_figures.cell_text((1000, 12.0, 0.1, 3.0)), "1 Gbps, 12 ms, 0.1 %, jitter 3 ms")

    def test_rates_count_only_what_arrived_in_between(self):
        seen = arrivals((100, 0), (100, 1250))
        self.assertAlmostEqual(seen.mbps(101.0, 102.0), 1.0)
        self.assertAlmostEqual(seen.mbps(100.5, 101.5), 0.5)
        self.assertEqual(seen.between(90.0, 100.0), 0)

    def test_a_rate_is_reached_when_fifty_milliseconds_together_carry_it(self):
        seen = arrivals((20, FULL // 2), (30, FULL))
        self.assertAlmostEqual(seen.reached_s(99.9, 0.9 * CEILING), 0.1 + 0.2 + 0.05 - 0.01 * 1, delta=0.011)
        self.assertIsNone(arrivals((50, FULL // 2)).reached_s(100.0, 0.9 * CEILING))

    def test_what_arrived_before_the_moment_does_not_count(self):
        seen = arrivals((1, 100 * FULL), (50, FULL))
        self.assertAlmostEqual(seen.reached_s(100.004, 0.9 * CEILING), 0.056)

    def test_a_flash_is_not_a_rate_that_holds(self):
        seen = arrivals((10, 0), (5, FULL), (30, 0), (40, FULL))
        self.assertAlmostEqual(seen.reached_s(100.0, 0.9 * CEILING), 0.15)
        self.assertAlmostEqual(seen.reached_s(100.0, 0.9 * CEILING, hold_s=0.25), 0.49, delta=0.03)

    def test_silence_behind_the_last_bin_never_counts_as_reached(self):
        self.assertIsNone(arrivals((100, FULL)).reached_s(101.0, 1))

    def test_a_standing_queue_is_the_median_of_what_never_left(self):
        seen = queue((100, 0), (100, 5000), (101, 7000))
        self.assertEqual(seen.standing_bytes(90.5, 91.5), 6000)
        self.assertEqual(seen.greatest_bytes(90.0, 90.4), 1000)
        self.assertIsNone(seen.standing_bytes(95.0, 96.0))

    def test_time_above_a_bound_counts_the_longest_run_only(self):
        seen = queue((10, 9000), (1, 100), (30, 9000), (5, 0), (20, 9000))
        self.assertAlmostEqual(seen.longest_above_s(90.0, 91.0, 8000), 0.15)
        self.assertEqual(seen.longest_above_s(90.0, 91.0, 9000), 0)

    def test_jain_s_index_is_one_for_equals_and_one_nth_for_a_monopoly(self):
        self.assertAlmostEqual(channel_figures.jain([5, 5, 5, 5]), 1)
        self.assertAlmostEqual(channel_figures.jain([8, 0, 0, 0]), 0.25)
        self.assertIsNone(channel_figures.jain([0, 0]))

    def test_each_change_is_judged_until_the_next_one(self):
        # 1 s of 100 Mbps, halved to 50, doubled again after another second; the sender needs 200 ms to double.
        seen = arrivals((100, FULL), (100, FULL // 2 + 1), (20, FULL // 2), (80, FULL))
        held = queue((2200, 0), (40, 200_000), (560, 0))
        down, up = channel_figures.change_figures(seen, held, [(101.0, 50), (102.0, 100)], 25, 103.0)
        self.assertAlmostEqual(down["reached_s"], 0.05)
        self.assertAlmostEqual(down["queue_above_bdp_s"], 0.2)
        self.assertAlmostEqual(down["queue_max_bdp"], 201_000 / 156_250)
        self.assertAlmostEqual(up["reached_s"], 0.25, delta=0.02)
        self.assertEqual(up["queue_above_bdp_s"], 0)
        self.assertAlmostEqual(up["afterwards_of_ceiling"], 1, delta=0.01)


def cell_row(system, share=0.99, **more):
    cell = (RATE, 25, 1, 3)
    return {
        "system": system, "cell": dict(zip(channel_figures.CELL, cell)), "void": False, "of_ceiling": share,
        "goodput_mbps": share * channel_figures.ceiling_mbps(cell), "startup_s": 0.3, "standing_queue_ms": 1.0, "retransmitted": 0.02,
        "spurious": 0.0, "dropped_by_queue": 0.0, "machine_busy_share": 0.5, "cpu_share": {"send": 0.2}, "rtt_idle_ms": 25.0,
        "rtt_loaded_ms": 27.0, "lateness": {"p99_us": 90}, **more,
    }


def reached(part, rows):
    return {wanted: hit for _, wanted, _, hit in channel_goals.goals(part, rows)}


class Goals(unittest.TestCase):
    def test_a_good_cell_reaches_all_of_its_goals(self):
        rows = [cell_row("longhaul"), cell_row("bbr", 0.98, standing_queue_ms=3.0)]
        found = reached("cells", rows)
        self.assertEqual(len(found), 6)
        self.assertTrue(all(found.values()), found)

    def test_each_goal_of_a_cell_can_fail_alone(self):
        rival = cell_row("bbr", 0.98, standing_queue_ms=3.0)
        faults = {
            "ceiling": {"of_ceiling": 0.97}, "90 %": {"startup_s": None}, "ahead": {"goodput_mbps": 50.0},
            "standing": {"standing_queue_ms": 3.2}, "again at most": {"retransmitted": 0.031}, "without need": {"spurious": 0.001},
        }
        for word, fault in faults.items():
            missed = [wanted for wanted, hit in reached("cells", [cell_row("longhaul", **fault), rival]).items() if not hit]
            self.assertEqual(len(missed), 1, (word, missed))
            self.assertIn(word, missed[0])

    def test_rivals_are_judged_by_the_weaker_side_and_sessions_by_jain_s_index(self):
        def fairness(case, rates):
            names = [who for who, _ in case.flows()]
            return {**channel_fairness.described(case), **channel_fairness.shares(names, rates, 90.0), "void": False}

        beside = channel_fairness.Case(100, 25, 1, 1, ["cubic"])
        self.assertEqual(beside.flows(), [("cubic", 2), ("longhaul", 1)])
        self.assertEqual(list(reached("fairness", [fairness(beside, [22.4, 67.0])]).values()), [False])
        self.assertEqual(list(reached("fairness", [fairness(beside, [22.6, 67.0])]).values()), [True])
        alone = channel_fairness.Case(100, 25, 1, 2, [])
        self.assertEqual(list(reached("fairness", [fairness(alone, [30.0, 60.0])]).values()), [False])
        self.assertEqual(list(reached("fairness", [fairness(alone, [40.0, 50.0])]).values()), [True])

    def test_memory_is_bounded_by_three_bdp_and_eight_mib_above_the_idle_appliance(self):
        mib = 1 << 20
        row = {**cell_row("longhaul"), "bdp_bytes": 2 * mib, "memory_idle_bytes": {"send": 5 * mib}, "memory_peak_bytes": {"send": 19 * mib}}
        self.assertEqual(list(reached("memory", [row]).values()), [True])
        row["memory_peak_bytes"]["send"] += 1
        self.assertEqual(list(reached("memory", [row]).values()), [False])

    def test_a_change_is_judged_by_the_worst_of_its_kind(self):
        def change(mbps, seconds, above):
            return {"to_mbps": mbps, "reached_s": seconds, "queue_above_bdp_s": above, "rtt_s": 0.025}

        row = {**cell_row("longhaul"), "changes": [change(50, 0.05, 0.1), change(100, 0.2, 0), change(50, 0.05, 0.2), change(100, None, 0)]}
        found = reached("change", [row])
        self.assertEqual([hit for wanted, hit in found.items() if "to 50 Mbps" in wanted], [True, False])
        self.assertEqual([hit for wanted, hit in found.items() if "to 100 Mbps" in wanted], [False, True])

    def test_an_outage_has_its_bound_and_a_whole_appliance_s_cpu_none(self):
        row = {**cell_row("longhaul"), "outage": {"length_s": 10, "recovery_s": 0.25, "watched_s": 5.0}}
        self.assertEqual(list(reached("outage", [row]).values()), [True])
        row["outage"]["recovery_s"] = None
        self.assertEqual(list(reached("outage", [row]).values()), [False])
        row = {**cell_row("longhaul"), "cpu_s_per_gb": {"send": 0.9, "receive": 0.71, "wanem": 5}}
        self.assertEqual(reached("cpu", [row]), {}, "a whole appliance has no goal of its own")
        self.assertEqual(reached("cpu", [{**row, "profile": {"send": []}}]), {})

    def test_a_run_that_failed_is_a_goal_missed_and_stands_in_the_report(self):
        row = {"system": "longhaul", "cell": dict(zip(channel_figures.CELL, (RATE, 25, 0, 0))), "failure": "Failure: no | session"}
        table, short = channel_goals.table("cells", [row])
        self.assertIn("not reached", table)
        self.assertIn("failed", short)
        self.assertIn("failed: Failure: no / session", channel_report.cells([row]))


class Plans(unittest.TestCase):
    def test_the_rate_halves_and_doubles_and_the_run_goes_on_for_a_period(self):
        plan = channel.change_plan(1000, 4, 2)
        self.assertEqual(plan.changes, ((4, 500), (8, 1000), (12, 500), (16, 1000)))
        self.assertEqual(plan.seconds, 20)

    def test_the_costs_of_the_channel_alone_are_read_from_what_the_measurement_prints(self):
        printed = "1 Gbps on loopback\n  no protocol  send 0.812  receive 0.500\n  channel      send 1.218  receive 0.750\n  ratio        send 1.50x  receive 1.50x\n"
        found = channel_alone.parsed(printed)
        self.assertEqual(found["channel"], {"send": 1.218, "receive": 0.75})
        row = {"system": "longhaul", "cell": dict(zip(channel_figures.CELL, channel_alone.ALONE_CELL)), "void": False, "alone": found}
        judged = [(wanted, reached) for _, wanted, _, reached in channel_goals.goals("alone", [row])]
        self.assertEqual([reached for _, reached in judged], [False, True, False, True])
        self.assertIn("1.50x", channel_report.alone([row]))
        self.assertIn("send 0.81 s/GB", channel_goals.table("alone", [row])[1])
        with self.assertRaises(common.Failure):
            channel_alone.parsed("no figures")

    def test_parts_are_chosen_by_name(self):
        self.assertEqual(channel.words(channel.PARTS)("cpu,change"), ["cpu", "change"])
        with self.assertRaises(argparse.ArgumentTypeError):
            channel.words(channel.PARTS)("cpu,colour")

    def test_a_profile_keeps_the_largest_functions(self):
        report = "".join(f"    {20 - number}.50%  [{'k' if number else '.'}] function {number}\n" for number in range(20))
        found = channel_profile.functions(f"\n# comment\n{report}")
        self.assertEqual(len(found), channel_profile.TOP)
        self.assertEqual(found[:2], [[20.5, "function 0"], [19.5, "function 1 [k]"]])
        newer = "  84.06%  [.] <longhaul::relay::Relay>::turn::h0123456789abcdef   -      -   \n"
        self.assertEqual(channel_profile.functions(newer), [[84.06, "<longhaul::relay::Relay>::turn"]])


if __name__ == "__main__":
    unittest.main()
