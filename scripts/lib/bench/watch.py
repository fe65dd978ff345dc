"""Prints an interface's byte counters with the time, again and again: run inside a host's namespace.

usage: watch.py INTERFACE MILLISECONDS
"""

import sys
import time


def main():
    folder = f"/sys/class/net/{sys.argv[1]}/statistics"
    interval = int(sys.argv[2]) / 1000
    with open(f"{folder}/tx_bytes", encoding="ascii") as sent, open(f"{folder}/rx_bytes", encoding="ascii") as received:
        while True:
            sent.seek(0)
            received.seek(0)
            print(f"{time.time():.4f} {sent.read().strip()} {received.read().strip()}", flush=True)
            time.sleep(interval)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        pass
