"""The demo: the report's five links, plain and with longhaul, as one table. Called by scripts/demo."""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), "bench"))
from common import MB, ROOT, Lab, run_main  # noqa: E402 (the path has to be there first)
from payload import make_payload  # noqa: E402

TRANSFER = os.path.join(ROOT, "scripts", "lib", "transfer.py")
NAME = "demo"
CONGESTION_CONTROL = "cubic"

# Name, line rate in Mbps, what it is, MB moved (all, quick), and HyperIP's seconds without and with (2009 report).
LINKS = [
    ("baseline", 1000, "1 Gbps, no delay", 200, 100, 19, 23),
    ("sonet", 1000, "1 Gbps, 5 ms, 0.001 %", 200, 100, 31, 25),
    ("metro-low", 1000, "1 Gbps, 5 ms, 0.005 %", 200, 100, 42, 24),
    ("metro", 1000, "1 Gbps, 12 ms, 0.1 %", 200, 40, 138, 22),
    ("mpls", 100, "100 Mbps, 25 ms, 0.05 %, 3 ms jitter", 60, 30, 256, 24),
]


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def progress_done(text):
    print(f"\r\033[K{text}" if sys.stderr.isatty() else text, file=sys.stderr, flush=True)


def result(line):
    """What a transfer program says of itself; one that died says nothing."""
    return json.loads(line) if line.strip() else {"error": "the transfer program died"}


def on_host(lab, side, *command, **options):
    return subprocess.Popen(lab.inside(side, *command), text=True, stdout=subprocess.PIPE, **options)


def move(lab, file, size, label):
    """One transfer from host a to host b."""
    started = time.monotonic()
    receive = [sys.executable, TRANSFER, "receive", "--address", "10.77.0.2", "--bytes", str(size)]
    receiver = on_host(lab, "b", *receive, stderr=subprocess.PIPE)
    receiver.stdout.readline()

    def watch():
        for line in receiver.stderr:
            if line.startswith("progress "):
                progress(f"{label}: {int(line.split()[1]) / MB:.0f} of {size / MB:.0f} MB")
            else:
                print(line, end="", file=sys.stderr)

    watcher = threading.Thread(target=watch)
    watcher.start()
    sender = on_host(lab, "a", sys.executable, TRANSFER, "send", "--address", "10.77.0.2", "--file", file)
    sent = result(sender.communicate()[0])
    received = result(receiver.stdout.read())
    watcher.join()
    receiver.wait()
    return {
        "seconds": received.get("ended", time.monotonic()) - sent.get("started", started),
        "bytes": received.get("bytes", 0),
        "sha256": received.get("sha256"),
        "error": sent["error"] or received["error"],
    }


def run_one(link, wiring, file, size, digest, seed, label):
    progress(f"{label}: setting up")
    with Lab(NAME, "--link", link, "--wiring", wiring, "--cc", CONGESTION_CONTROL, "--seed", str(seed)) as lab:
        if wiring == "accelerate":
            lab.wait_for_channel()
        outcome = move(lab, file, size, label)
        status = lab.status()
    outcome["intact"] = outcome["error"] is None and outcome["bytes"] == size and outcome["sha256"] == digest
    outcome["wanem"] = status["wanem"]
    outcome["appliance"] = status.get("appliance_a")
    return outcome


def compression_ratio(outcome):
    """Source bytes over encoded bytes of what appliance a sent; None where nothing was accelerated."""
    counters = (outcome["appliance"] or {}).get("counters") or {}
    encoded = counters.get("relayed_encoded_bytes", 0)
    return counters.get("relayed_source_bytes", 0) / encoded if encoded else None


def table(rows):
    head = ["link", "", "MB", "plain s", "longhaul s", "speed-up", "plain/line", "longhaul/line", "ratio", "HyperIP s (speed-up)"]
    lines = [head]
    for row in rows:
        ratio = f"{row['ratio']:.2f}" if row["ratio"] else "-"
        lines.append(
            [
                row["link"],
                row["what"],
                f"{row['bytes'] / MB:.0f}",
                f"{row['plain_s']:.2f}" + ("" if row["plain_intact"] else " BROKEN"),
                f"{row['longhaul_s']:.2f}" + ("" if row["longhaul_intact"] else " BROKEN"),
                f"{row['speed_up']:.1f}x",
                f"{row['plain_share']:.0%}",
                f"{row['longhaul_share']:.0%}",
                ratio,
                f"{row['hyperip_plain_s']} -> {row['hyperip_s']} ({row['hyperip_plain_s'] / row['hyperip_s']:.1f}x)",
            ]
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def main():
    parser = argparse.ArgumentParser(prog="scripts/demo")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--links", default=",".join(link[0] for link in LINKS))
    parser.add_argument("--json")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    wanted = arguments.links.split(",")
    unknown = set(wanted) - {link[0] for link in LINKS}
    if unknown:
        parser.error(f"no link {', '.join(sorted(unknown))}; there are {', '.join(link[0] for link in LINKS)}")
    links = [link for link in LINKS if link[0] in wanted]
    rows, started = [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="longhaul-demo-") as folder:
        payloads = {}
        for number, (link, mbps, what, full_mb, quick_mb, hyperip_plain, hyperip) in enumerate(links):
            size = (quick_mb if arguments.quick else full_mb) * MB
            if size not in payloads:
                progress(f"making {size / MB:.0f} MB of files, zero pages and random bytes")
                file = os.path.join(folder, f"payload-{size}")
                payloads[size] = (file, make_payload(file, size, arguments.seed))
            file, digest = payloads[size]
            step = f"[{number + 1}/{len(links)}] {link}"
            plain = run_one(link, "wire", file, size, digest, arguments.seed, f"{step}, plain")
            accelerated = run_one(link, "accelerate", file, size, digest, arguments.seed, f"{step}, longhaul")
            row = {
                "link": link,
                "what": what,
                "line_rate_mbps": mbps,
                "bytes": size,
                "congestion_control": CONGESTION_CONTROL,
                "plain_s": plain["seconds"],
                "plain_intact": plain["intact"],
                "plain_error": plain["error"],
                "longhaul_s": accelerated["seconds"],
                "longhaul_intact": accelerated["intact"],
                "longhaul_error": accelerated["error"],
                "speed_up": plain["seconds"] / accelerated["seconds"],
                "plain_share": size * 8 / plain["seconds"] / (mbps * 1e6),
                "longhaul_share": size * 8 / accelerated["seconds"] / (mbps * 1e6),
                "ratio": compression_ratio(accelerated),
                "hyperip_plain_s": hyperip_plain,
                "hyperip_s": hyperip,
                "wanem_plain": plain["wanem"],
                "wanem_longhaul": accelerated["wanem"],
            }
            rows.append(row)
            progress_done(f"{step}: plain {row['plain_s']:.2f} s, longhaul {row['longhaul_s']:.2f} s")

    print()
    print(table(rows))
    print()
    print(
        f"hosts: kernel TCP {CONGESTION_CONTROL}, Linux {platform.release()}; goodput as a share of line rate counts the\n"
        "hosts' bytes, so compression can take it above 100 %. HyperIP: the whole migration of a running VM, 2009 report;\n"
        f"here: a file transfer over the same emulated links. {time.monotonic() - started:.0f} s in all."
    )
    intact = all(row["plain_intact"] and row["longhaul_intact"] for row in rows)
    if not intact:
        for row in rows:
            for kind in ("plain", "longhaul"):
                if not row[f"{kind}_intact"]:
                    print(f"NOT INTACT: {row['link']}, {kind}: {row[f'{kind}_error'] or 'wrong bytes'}", file=sys.stderr)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"intact": intact, "kernel": platform.release(), "seed": arguments.seed, "links": rows}, file, indent=2)
    return 0 if intact else 1


if __name__ == "__main__":
    run_main(main, program="demo", lab=NAME)
