"""The migration benchmark: what is made of a run's records."""

import socket
import unittest

import onemove
import process
import vm


class Heartbeat(unittest.TestCase):
    SOURCE = [(10.0, 998), (10.01, 999)]

    def test_numbers_that_appear_on_neither_console_are_lost(self):
        gap, lost = onemove.beats(self.SOURCE, [(10.3, 1000)], b"")
        self.assertEqual((round(gap), lost), (290, 0))
        self.assertEqual(onemove.beats(self.SOURCE, [(10.3, 1003)], b"")[1], 3)
        self.assertEqual(onemove.beats([], [(10.3, 1003)], b""), (None, None))

    def test_a_beat_that_was_cut_by_the_stop_is_not_lost(self):
        target = [(10.3, 1001)]
        self.assertEqual(onemove.beats(self.SOURCE, target, b"")[1], 1)
        for at in range(7):
            tail, head = b"B 1000"[:at], b"B 1000"[at:] + b"\r"
            self.assertEqual(onemove.beats(self.SOURCE, target, tail + head)[1], 0)
        self.assertEqual(onemove.beats(self.SOURCE, [(10.3, 1002)], b"B 1000")[1], 1)
        self.assertEqual(onemove.beats(self.SOURCE, [(10.3, 1000)], b"B 1000\r")[1], 0, "the destination's first whole beat")


class Reading(unittest.TestCase):
    def test_lines_are_whole_however_they_come(self):
        near, far = socket.socketpair()
        heard = vm.heard_lines(near)
        with near:
            for said, expected in ((b"B 1\nB", ([b"B 1"], b"B")), (b" 2\nB 3\n", ([b"B 2", b"B 3"], b"")), (b"B 4", ([], b"B 4"))):
                far.sendall(said)
                self.assertEqual(next(heard), expected)
            far.close()
            self.assertEqual(list(heard), [])

    def test_the_busy_share_is_of_the_time_between(self):
        self.assertEqual(process.busy_share((100, 1000), (150, 1200)), 0.25)
        self.assertEqual(process.busy_share((100, 1000), (100, 1000)), 0.0)


if __name__ == "__main__":
    unittest.main()
