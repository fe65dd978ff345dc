"""A benchmark: ordinary clients and servers through the lab, without and with longhaul and its alternatives.

Storage migration (QEMU's drive-mirror to an NBD server), rsync and scp of a source tree, scp of a disk image, curl from
nginx, pgbench and iperf3. Every transfer is compared with what was sent. Servers are on host b, clients on host a.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time

import common
import peers
import workloads

LAB_NAME = "clients"
# Name, Mbps, round trip in ms, what it is, MB of each transfer (all, quick).
LINKS = [
    ("baseline", 1000, 0, "1 Gbps, no delay", 200, 60),
    ("sonet", 1000, 5, "1 Gbps, 5 ms, 0.001 %", 100, 40),
    ("metro-low", 1000, 5, "1 Gbps, 5 ms, 0.005 %", 100, 40),
    ("metro", 1000, 12, "1 Gbps, 12 ms, 0.1 %", 60, 15),
    ("mpls", 100, 25, "100 Mbps, 25 ms, 0.05 %, 3 ms jitter", 30, 10),
]
DEFAULT_LINKS = "baseline,metro,mpls"
QUICK_LINKS = "baseline,metro"
SYSTEMS = ("none", "longhaul", "bbr", "haproxy")
QUICK_SYSTEMS = ("none", "longhaul")
# Mbps of one bulk transfer to judge the time left by; what is not listed goes at about the line's rate.
EXPECTED_MBPS = {("none", "metro"): 37, ("none", "metro-low"): 300, ("none", "mpls"): 20}
LATENESS_P99_US = 2000


def arguments():
    names = ",".join(link[0] for link in LINKS)
    kinds = ",".join(workload.name for workload in workloads.ALL)
    parser = argparse.ArgumentParser(
        prog="scripts/bench clients", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", required=True, help="folder for results.json and report.md")
    parser.add_argument("--links", help=f"of {names} (default: {DEFAULT_LINKS}; with --quick {QUICK_LINKS})")
    parser.add_argument("--with", dest="systems", help=f"of {','.join(SYSTEMS)} (default: all; with --quick {','.join(QUICK_SYSTEMS)})")
    parser.add_argument("--clients", default=kinds, help=f"of {kinds} (default: all)")
    parser.add_argument("--runs", type=int, help="runs of each, of which the median is told (default: 3; with --quick 1)")
    parser.add_argument("--quick", action="store_true", help="two links, small transfers, one run each: at most 5 minutes")
    parser.add_argument("--seed", type=int, default=1, help="of the data and, with the run's number, of the losses")
    parsed = parser.parse_args()
    parsed.links = (parsed.links or (QUICK_LINKS if parsed.quick else DEFAULT_LINKS)).split(",")
    parsed.systems = (parsed.systems or ",".join(QUICK_SYSTEMS if parsed.quick else SYSTEMS)).split(",")
    parsed.clients = parsed.clients.split(",")
    parsed.runs = parsed.runs or (1 if parsed.quick else 3)
    for option, allowed in (("links", names.split(",")), ("systems", SYSTEMS), ("clients", kinds.split(","))):
        for word in getattr(parsed, option):
            if word not in allowed:
                parser.error(f'"{word}" is not one of {", ".join(allowed)}')
    return parsed


def expected_seconds(system, link, size, kinds, quick):
    """Roughly, for the progress lines."""
    name, rate = link[:2]
    bulk = size * 8 / EXPECTED_MBPS.get((system, name), rate * 0.7) + 0.5
    fixed = {"pgbench": 6 if quick else 10, "iperf3": 18 if quick else 26}
    return 4 + sum(fixed.get(kind, bulk) for kind in kinds)


def relayed(status):
    """What the appliances have carried so far: bytes of streams, channel bytes, how many of those again, flows taken."""
    sides = [status.get(f"appliance_{side}") for side in "ab"]
    if None in sides:
        return None
    return {
        "source_bytes": sum(side["counters"]["relayed_source_bytes"] for side in sides),
        "encoded_bytes": sum(side["counters"]["relayed_encoded_bytes"] for side in sides),
        "channel_bytes": sum(side["channel"]["bytes_sent"] for side in sides),
        "again_bytes": sum(side["channel"]["bytes_retransmitted"] for side in sides),
        "flows": sides[0]["counters"]["flows_opened"],
    }


def described(tree):
    return {"bytes": tree.bytes, "files": tree.files, "sha256": tree.sum}


def difference(after, before):
    return {key: after[key] - before[key] for key in after}


def run_workload(kind, lab, address, folder, inputs, quick, system):
    """One client's measures, or its failure."""
    workload = kind(lab, address, folder, inputs, quick)
    outcome = {"client": kind.name, "data": kind.data, "measures": [], "error": None}
    try:
        workload.start()
        before, began = relayed(lab.status()), time.monotonic()
        outcome["measures"] = workload.run()
        outcome["elapsed_s"] = time.monotonic() - began
        if before:
            outcome["relayed"] = difference(relayed(lab.status()), before)
            if not outcome["relayed"]["flows"]:
                outcome["error"] = "longhaul accelerated none of its connections"
    except (common.Failure, subprocess.CalledProcessError, OSError, KeyError, ValueError) as failure:
        outcome["error"] = str(failure) or type(failure).__name__
    finally:
        workload.stop()
    return outcome


def run_lab(options, link, system_name, inputs, seed, folder):
    """All clients, one after the other, through one lab."""
    name, rate, rtt = link[:3]
    kinds = [kind for kind in workloads.ALL if kind.name in options.clients]
    system = peers.System(system_name, ["--link", name, "--seed", str(seed)], [kind.port for kind in kinds])
    outcomes = []
    try:
        with common.Lab(LAB_NAME, *system.lab_options()) as lab:
            system.start(lab, folder, rate, rtt)
            for kind in kinds:
                outcome = run_workload(kind, lab, system.address, folder, inputs, options.quick, system_name)
                outcomes.append(outcome)
                told = ", ".join(f"{one['name']} {shown(one['value'])} {one['unit']}" for one in outcome["measures"])
                common.say(f"      {outcome['error'] and 'FAILED: ' + kind.name + ': ' + outcome['error'] or told}")
            status = lab.status()
    finally:
        system.stop()
    lateness = {way: status["wanem"][way]["lateness"] for way in ("a_to_b", "b_to_a")}
    return {
        "clients": outcomes,
        "wanem_lateness": lateness,
        "late": max(way["p99_us"] for way in lateness.values()) > LATENESS_P99_US,
        "status": status,
        "load": os.getloadavg()[0],
    }


def shown(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def values_of(results):
    """(link, measure) to its unit, direction and, by system, the values of all runs; in the order they were met."""
    found = {}
    for run in results["runs"]:
        for outcome in run.get("clients", []):
            for one in outcome["measures"]:
                row = found.setdefault((run["link"], one["name"]), {"unit": one["unit"], "better": one["better"], "by": {}})
                row["by"].setdefault(run["system"], []).append(one["value"])
    return found


def report(results, links, systems, options):
    about = results
    parts = [
        "# Ordinary clients over the report's links\n",
        f"{about['machine']['cpu']}, {about['machine']['cores']} cores, Linux {about['kernel']}, commit {about['commit']}, "
        f"{about['date']}, load {about['load_at_start'][0]:.1f} at the start. `{about['command']}`\n",
        f"Median of {options.runs} run(s), all clients of a run one after the other through one lab. Ratio: how many times better "
        "longhaul does than kernel TCP CUBIC alone (`none`), above 1 is better. Each transfer was compared with what was sent "
        "(SHA-256); iperf3 checks nothing.\n",
    ]
    beside = [system for system in systems if system not in ("none", "longhaul")]
    found = values_of(results)
    for link in links:
        rows = []
        for (name, measured), row in found.items():
            if name != link[0]:
                continue
            median = {system: statistics.median(values) for system, values in row["by"].items()}
            ratio = "-"
            if median.get("none") and median.get("longhaul"):
                better = median["none"] / median["longhaul"] if row["better"] == "lower" else median["longhaul"] / median["none"]
                ratio = f"{better:.2f}"
            cells = [shown(median[system]) if system in median else "-" for system in ("none", "longhaul")]
            rows.append([measured, row["unit"], *cells, ratio, *(shown(median[s]) if s in median else "-" for s in beside)])
        if rows:
            size = results["sizes"][link[0]]
            trees = (f"{size[tree]['bytes'] / 1e6:.1f} MB in {size[tree]['files']} files" for tree in ("tree", "few"))
            parts.append(f"\n## {link[3]} ({link[0]})\n")
            parts.append("Disk image {:.1f} MB; rsync's source tree {}, scp's {}.\n".format(size["disk_bytes"] / 1e6, *trees))
            parts.append(common.markdown_table(["client", "unit", "none", "longhaul", "ratio", *beside], rows))
    parts.append("\n## What crossed\n")
    parts.append("Disk image: half real files, a quarter zeros, a quarter random bytes, in turns of 256 KiB.\n")
    kinds = [kind for kind in workloads.ALL if kind.name in options.clients]
    parts.append(common.markdown_table(["client", "port", "data"], [[kind.name, kind.port, kind.data] for kind in kinds]))
    parts.append(relayed_table(results))
    wrong = [
        f"- {run['link']}, {run['system']}, run {run['run'] + 1}: {problem}" for run in results["runs"] for problem in problems(run)
    ]
    if wrong:
        parts += ["\n## Failures and late runs\n", "\n".join(wrong) + "\n"]
    return "\n".join(parts)


def relayed_table(results):
    """What longhaul made of each client's bytes."""
    sums = {}
    for run in results["runs"]:
        for outcome in run.get("clients", []):
            if outcome.get("relayed"):
                row = sums.setdefault((run["link"], outcome["client"]), dict.fromkeys(outcome["relayed"], 0))
                for key, value in outcome["relayed"].items():
                    row[key] += value
    rows = []
    for (link, client), row in sums.items():
        ratio = f"{row['source_bytes'] / row['encoded_bytes']:.2f}" if row["encoded_bytes"] else "-"
        again = f"{100 * row['again_bytes'] / row['channel_bytes']:.2f}" if row["channel_bytes"] else "-"
        rows.append([link, client, row["flows"], f"{row['source_bytes'] / 1e6:.1f}", ratio, again])
    if not rows:
        return ""
    head = ["link", "client", "connections taken", "MB of the hosts", "compression", "sent again %"]
    return "\nThrough longhaul, all runs:\n\n" + common.markdown_table(head, rows)


def problems(run):
    if run.get("error"):
        yield run["error"]
    for outcome in run.get("clients", []):
        if outcome["error"]:
            yield f"{outcome['client']}: {outcome['error']}"
    if run.get("late"):
        late = max(way["p99_us"] for way in run["wanem_lateness"].values())
        yield f"the emulator was late ({late:.0f} us in one frame of a hundred): its figures are kept for what they are"


def main():
    options = arguments()
    if os.geteuid() != 0:
        raise common.Failure("network namespaces need root: run it with sudo")
    links = [link for link in LINKS if link[0] in options.links]
    workloads.programs()
    if "drive-mirror" in options.clients:
        workloads.guest.fetch(common.cache_dir())
    results = dict(common.description(seed=options.seed, quick=options.quick), runs=[], sizes={})
    results["command"] = shlex.join(["scripts/bench", "clients", *sys.argv[1:]])
    # Systems take turns within a run, so that a busy quarter of an hour hits all of them.
    plan = [(link, run, system) for link in links for run in range(options.runs) for system in options.systems]
    size_of = lambda link: link[5] if options.quick else link[4]
    progress = common.Progress([expected_seconds(system, link, size_of(link), options.clients, options.quick) for link, _, system in plan])
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="longhaul-clients-") as folder:
        inputs = None
        for link, run, system in plan:
            progress.step(f"{link[0]}, run {run + 1} of {options.runs}, {system}")
            size = size_of(link) * common.MB
            if link[0] not in results["sizes"]:
                if inputs:
                    inputs.remove()
                inputs = workloads.Inputs(folder, size, options.seed)
                results["sizes"][link[0]] = {"disk_bytes": inputs.size, "tree": described(inputs.tree), "few": described(inputs.few)}
            try:
                outcome = run_lab(options, link, system, inputs, options.seed + run, folder)
            except (common.Failure, subprocess.CalledProcessError) as failure:
                outcome = {"error": str(failure)}
                common.say(f"      FAILED: {failure}")
            results["runs"].append({"link": link[0], "system": system, "run": run, **outcome})
            progress.finish(f"{system} done" + (", emulator late" if outcome.get("late") else ""))
            results["elapsed_s"] = round(time.monotonic() - started, 1)
            # Written as it grows: what was measured before an interruption is not lost.
            common.write_files(options.out, results, report(results, links, options.systems, options))
    print(open(os.path.join(options.out, "report.md"), encoding="utf-8").read())
    failed = any(run.get("error") or any(one["error"] for one in run.get("clients", [])) for run in results["runs"])
    return 1 if failed else 0


if __name__ == "__main__":
    common.run_main(main, lab=LAB_NAME)
