"""The migration benchmark's results.json: grows run by run, over several calls, and by several of them at once."""

import contextlib
import fcntl
import json
import os

import common

# What makes two runs repetitions of each other.
CELL = ("how", "fill", "one_way", "link", "system")
# Runs compare only if the guest and the way to stop it were the same.
SAME = ("memory_mb", "seed", "qemu", "switchover")


def cell_of(run):
    return tuple(run[key] for key in CELL)


def valid(run):
    return "endless_s" in run or (not run["error"] and not run["late"])


def took(run):
    return run.get("endless_s") or run["seconds"]


class Results:
    """The runs of one folder. `redo` names systems whose kept runs a new one of the same cell takes the place of."""

    def __init__(self, folder, description, resume, redo=()):
        self.path = os.path.join(folder, "results.json")
        self.description = description
        self.redo = set(redo)
        self.redone = set()
        os.makedirs(folder, exist_ok=True)
        kept = self.read() if resume else None
        for key in SAME if kept else ():
            if kept.get(key) != description[key]:
                raise common.Failure(
                    f"--resume: {self.path} has {key} {kept.get(key)}, this call {description[key]}; take another --out"
                )
        self.runs = kept["runs"] if kept else []
        if not kept:
            self.change(lambda runs: runs.clear())

    def read(self):
        try:
            with open(self.path, encoding="utf-8") as file:
                return json.load(file)
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def locked(self):
        with open(self.path + ".lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def change(self, how):
        """Changes the file's runs, which another call may have added to meanwhile."""
        with self.locked():
            self.runs = (self.read() or {"runs": []})["runs"]
            how(self.runs)
            new = self.path + ".new"
            with open(new, "w", encoding="utf-8") as file:
                json.dump(self.all(), file)
                file.write("\n")
            os.replace(new, self.path)

    def all(self):
        return dict(self.description, runs=self.runs)

    def again(self, cell):
        """Whether the cell's kept runs are to be replaced and have not been yet."""
        return cell[CELL.index("system")] in self.redo and cell not in self.redone

    def of(self, cell):
        """The cell's valid runs by their number."""
        if self.again(cell):
            return {}
        return {run["run"]: run for run in self.runs if cell_of(run) == cell and valid(run)}

    def add(self, run):
        cell = cell_of(run)
        whole_cell = self.again(cell)

        def replaced(old):
            return cell_of(old) == cell and (whole_cell or old["run"] == run["run"])

        def put(runs):
            runs[:] = [old for old in runs if not replaced(old)] + [run]

        self.change(put)
        self.redone.add(cell)

    def wanted(self, cell, number, slow_runs, slow_s):
        """Whether run `number` of a cell is still missing; cells whose first run was slow get `slow_runs` only."""
        runs = self.of(cell)
        slow = 0 in runs and took(runs[0]) > slow_s
        return number not in runs and not (slow and number >= slow_runs)
