"""The matrix benchmark: which cells it runs, what it makes of a worker's end, and what its report says of made-up figures."""

import contextlib
import io
import json
import os
import sys
import tempfile
import unittest

import common
import matrix
import matrix_report
from matrix_report import Cell

MIB = 1 << 20


def planned(*words):
    return matrix.plan(matrix.parse(["--out", "x", *words]))


def row(cell=Cell(100, 12, 1, 1, "3"), **more):
    figures = {
        "goodput_bps": 99e6, "goodput_second_half_bps": 99e6, "ceiling_bps": 100e6, "to_90_s": 0.2, "to_90_bar_s": 0.22, "loss": 0.01,
        "retransmitted": 0.03, "repair_bytes": 0, "sent_bytes": 10**9, "spurious": 0.0009, "memory_max_bytes": 8 * MIB,
        "memory_bar_bytes": 9 * MIB, "queue_standing_s": 0.001, **more,
    }
    return {"cell": cell._asdict(), "seconds": 15, "figures": figures}


def failed(cell=Cell(100, 12, 1, 1, "3")):
    return {"cell": cell._asdict(), "seconds": 15, "failure": "panicked at here:\nno | byte"}


class Plan(unittest.TestCase):
    def test_the_whole_matrix_is_the_issue_s(self):
        whole = matrix.whole()
        self.assertEqual(len(whole), 3 * 8 * 3 * (7 + 6))
        self.assertEqual(len(set(whole)), len(whole))
        self.assertEqual({cell for cell in whole if not cell.loss_percent and cell.burst > 1}, set())
        self.assertEqual({cell for cell, _ in planned("--all")}, set(whole))

    def test_ten_gigabit_has_neither_jitter_nor_bursts_unless_asked_for(self):
        fast = [cell for cell, _ in planned() if cell.mbps == 10_000]
        self.assertEqual(len(fast), 8 * 7)
        self.assertEqual({(cell.jitter, cell.burst) for cell in fast}, {("0", 1)})
        self.assertEqual(len(planned("--rates", "10000", "--jitters", "3", "--rtts", "5", "--losses", "0,1")), 2)
        self.assertEqual(len(planned("--rates", "10000", "--bursts", "1,4", "--rtts", "5", "--losses", "0,1")), 3)

    def test_bursts_alone_still_have_the_cells_without_loss(self):
        cells = [cell for cell, _ in planned("--rates", "100", "--rtts", "1", "--losses", "0,1", "--jitters", "0", "--bursts", "4")]
        self.assertEqual([(cell.loss_percent, cell.burst) for cell in cells], [(0, 1), (1, 4)])

    def test_a_cell_lasts_by_its_rate_and_twenty_rtts_where_that_is_cheap(self):
        lengths = {(cell.mbps, cell.rtt_ms): seconds for cell, seconds in planned()}
        self.assertEqual([lengths[100, 1], lengths[1000, 1], lengths[1000, 300], lengths[10_000, 300]], [15, 9, 11, 5.5])
        self.assertEqual({seconds for _, seconds in planned("--seconds", "6")}, {6})

    def test_quick_is_part_of_the_whole_and_takes_two_cores_less_than_five_minutes(self):
        quick = planned("--quick")
        self.assertLessEqual({cell for cell, _ in quick}, set(matrix.whole()))
        self.assertEqual({cell.mbps for cell, _ in quick}, set(matrix.RATES))
        self.assertLess(sum(matrix.expected_s(*one) for one in quick) / 2, 240)

    def test_options_that_contradict_each_other_are_refused(self):
        for words in (["--quick", "--all"], ["--quick", "--rtts", "5"], ["--seconds", "5"], ["--jobs", "0"], ["--jitters", "much"]):
            with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
                planned(*words)


class Workers(unittest.TestCase):
    def test_the_binary_is_the_one_that_cargo_names(self):
        messages = [
            {"reason": "compiler-artifact", "target": {"name": "longhaul"}, "executable": None},
            {"reason": "compiler-artifact", "target": {"name": "sim"}, "executable": "/target/sim-1"},
            {"reason": "build-finished", "success": True},
        ]
        self.assertEqual(matrix.executable_in(["warning: not JSON", *map(json.dumps, messages)]), "/target/sim-1")
        with self.assertRaises(common.Failure):
            matrix.executable_in(map(json.dumps, messages[::2]))

    def test_a_cell_s_environment_is_its_own(self):
        os.environ["SIM_LOAD"] = "heavy"
        try:
            found = matrix.environment(Cell(1000, 12.0, 0.001, 4, "30%"), 9, 7)
        finally:
            del os.environ["SIM_LOAD"]
        asked = {name: value for name, value in found.items() if name.startswith("SIM_")}
        self.assertEqual(asked, {
            "SIM_TABLE": "matrix", "SIM_JSON": "1", "SIM_RATE": "1000", "SIM_RTT": "12", "SIM_LOSS": "0.001", "SIM_BURST": "4",
            "SIM_JITTER": "30%", "SIM_SECONDS": "9", "SIM_SETTLE": "5", "SIM_SEED": "7",
        })

    def test_a_panic_is_a_failure_with_its_message(self):
        out = '\nrate x RTT\n\n{"goodput_bps": 1}\n'
        self.assertEqual(matrix.figures_in(0, out, ""), {"figures": {"goodput_bps": 1}})
        err = "\nthread 'x' panicked at tests/sim/channel.rs:5:9:\nno byte for 5s\nnote: run with `RUST_BACKTRACE=1`\n"
        self.assertEqual(matrix.figures_in(101, out, err), {"failure": "panicked at tests/sim/channel.rs:5:9:\nno byte for 5s"})
        self.assertEqual(matrix.figures_in(-9, "", ""), {"failure": "ended by signal 9"})
        self.assertEqual(matrix.figures_in(0, "running 0 tests", ""), {"failure": "ended with 0"})

    def test_every_cell_has_its_outcome_although_some_fail(self):
        with tempfile.TemporaryDirectory() as folder:
            program = os.path.join(folder, "sim")
            with open(program, "w", encoding="utf-8") as file:
                file.write(f"#!{sys.executable}\nimport os, sys\nrtt = os.environ['SIM_RTT']\n")
                file.write("if rtt == '5':\n    sys.exit('panicked at x:\\nstalled')\nprint('{\"rtt\": ' + rtt + '}')\n")
            os.chmod(program, 0o755)
            cells = [(Cell(100, rtt, 0, 1, "0"), 6) for rtt in (1, 5, 12)]
            found = {cell.rtt_ms: what for cell, _, what in matrix.outcomes(program, cells, 1, 2)}
        self.assertEqual(found, {1: {"figures": {"rtt": 1}}, 5: {"failure": "panicked at x:\nstalled"}, 12: {"figures": {"rtt": 12}}})

    def test_time_left_is_judged_by_the_cells_so_far(self):
        self.assertEqual(matrix.left_s(100, 0, 0, 2), 50)
        self.assertEqual(matrix.left_s(100, 25, 50, 2), 150)


class Resumed(unittest.TestCase):
    def test_good_cells_of_the_same_commit_seed_and_length_are_kept(self):
        other = Cell(100, 1, 0, 1, "0")
        long = Cell(100, 300, 0, 1, "0")
        results = {"about": {"commit": "abc"}, "seed": 1, "cells": [row(), failed(other), row(long)]}
        with tempfile.TemporaryDirectory() as folder:
            self.assertEqual(matrix.kept_rows(folder, "abc", 1, []), [])
            with open(os.path.join(folder, "results.json"), "w", encoding="utf-8") as file:
                json.dump(results, file)
            self.assertEqual([matrix_report.cell_of(kept) for kept in matrix.kept_rows(folder, "abc", 1, [(long, 6)])], [Cell(100, 12, 1, 1, "3")])
            self.assertEqual(len(matrix.kept_rows(folder, "abc", 1, [(long, 15)])), 2)
            for commit, seed in (("abd", 1), ("abc", 2)):
                with self.assertRaises(common.Failure):
                    matrix.kept_rows(folder, commit, seed, [])


class Report(unittest.TestCase):
    def test_a_good_cell_misses_nothing_and_a_failed_one_everything(self):
        self.assertEqual(matrix_report.missed(row()), [])
        self.assertEqual(len(matrix_report.missed(failed())), 5)
        self.assertEqual(len(matrix_report.missed(failed(Cell(100, 12, 1, 1, "0")))), 4)

    def test_each_goal_can_be_missed_alone(self):
        faults = {
            "goodput": {"goodput_bps": 97.9e6}, "to 90 %": {"to_90_s": None}, "sent again": {"repair_bytes": 10**6},
            "without need": {"spurious": 0.001}, "memory": {"memory_max_bytes": 9 * MIB + 1},
        }
        for word, fault in faults.items():
            missed = [goal.name for goal in matrix_report.missed(row(**fault))]
            self.assertEqual(len(missed), 1, (word, missed))
            self.assertTrue(missed[0].startswith(word), (word, missed))
        self.assertEqual([goal.name[:7] for goal in matrix_report.missed(row(to_90_s=0.221))], ["to 90 %"])

    def test_spurious_retransmissions_are_judged_at_three_milliseconds_of_jitter_only(self):
        self.assertEqual(matrix_report.missed(row(Cell(100, 12, 1, 1, "30%"), spurious=0.5)), [])

    def test_what_came_before_the_fifth_second_does_not_help_a_cell_to_its_goal(self):
        self.assertEqual(matrix_report.share(row(goodput_bps=112e6, goodput_second_half_bps=97e6)["figures"]), 0.97)
        self.assertEqual(matrix_report.share(row(goodput_bps=99e6, goodput_second_half_bps=97e6)["figures"]), 0.99)

    def test_cells_are_counted_per_goal_and_rate_and_the_worst_is_named(self):
        rows = [row(), row(goodput_bps=90e6), failed(), row(Cell(1000, 1, 0, 1, "0"), goodput_bps=95e6)]
        goodput, *_, spurious, _ = matrix_report.summary(rows)
        self.assertEqual(goodput["reached_of_cells_by_mbps"], {"100": [1, 3], "1000": [0, 1]})
        self.assertEqual(goodput["worst"], "90.0 at 100 Mbps, 12 ms, 1 %, jitter 3 ms")
        self.assertEqual(spurious["reached_of_cells_by_mbps"], {"100": [2, 3]})

    def test_the_grid_has_the_least_of_its_cells(self):
        cells = [Cell(100, 1, 0, 1, "0"), Cell(100, 1, 1, 1, "0"), Cell(100, 1, 1, 4, "0"), Cell(100, 5, 0, 1, "0")]
        rows = [row(cells[0]), row(cells[1]), row(cells[2], goodput_bps=97e6), failed(cells[3])]
        _, _, first, second = matrix_report.grid(rows).splitlines()
        self.assertEqual(first, "| 1 ms | 99.0 | **97.0** |")
        self.assertEqual(second, "| 5 ms | **failed** | - |")

    def test_the_report_lists_every_miss_and_says_what_was_not_run(self):
        rows = [row(), row(Cell(100, 25, 1, 4, "30%"), goodput_bps=97e6), failed(Cell(100, 50, 1, 1, "3"))]
        about = {"machine": {"cpu": "CPU", "cores": 2}, "kernel": "6", "commit": "abc", "date": "today", "command": "scripts/bench matrix"}
        said = matrix_report.report({"about": about, "seed": 1, "settle": 5, "cells": rows}, matrix.whole())
        self.assertIn("3 cells were run, 933 of the whole matrix's 936 were not; 1 failed.", said)
        self.assertIn("| 1 Gbps | 0 of 312 | - |", said)
        listed = said.split("## Every cell that misses a goal")[1]
        self.assertIn("| 100 Mbps, 25 ms, 1 % in bursts, jitter 30 % | **97.0** | 0.20 (0.22) | 3.00 |", listed)
        self.assertIn("failed: panicked at here: no / byte", listed)
        self.assertNotIn("12 ms", listed)


if __name__ == "__main__":
    unittest.main()
