#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times libmha beside its peers, each peer in a process of its own, and writes JSON, a Markdown table and a plot.

    driver.py --library <libmha.so> --output <folder> [--quick] [--filter <regex>] [--peer <name>]... [--threads 1,2]

Into the folder: peers.json (a list of the measurements), peers_run.json (what ran where, and what could not), peers.md,
peers.png, peers.svg, peers.log (what the peers printed). Exit status 1: a result is wrong, or nothing ran."""

import argparse
import datetime
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import table

HERE = Path(__file__).resolve().parent
PEERS = ("torch", "onnxruntime", "openvino", "onednn", "mkl", "openblas", "ggml")
LIMIT_SECONDS = 1200  # for one peer on one number of threads; ten times what it takes

# How long idle threads spin before they sleep: by default tens of milliseconds, on the CPU that the other side needs
# next. These make it about one, longer than any gap within a sample; before each sample the worker waits for longer.
SPINNING = {"GOMP_SPINCOUNT": "30000", "OPENBLAS_THREAD_TIMEOUT": "22"}


def cpu_model() -> str:
    for line in open("/proc/cpuinfo", encoding="utf-8"):
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return os.uname().machine


def revision() -> str:
    asked = subprocess.run(["git", "-C", str(HERE), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return asked.stdout.strip() or "unknown"


class Run:
    """Everything that comes back from the workers."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.records: list[dict] = []
        self.notes: list[dict] = []  # {peer, threads, case or None, reason}
        self.disagreed = False
        self.context = {
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "cpu": cpu_model(), "cpus": len(os.sched_getaffinity(0)), "command": arguments.command,
            "revision": revision(), "quick": arguments.quick,
        }  # fmt: skip

    def note(self, peer: str, threads: int, case: str | None, reason: str) -> None:
        self.notes.append({"peer": peer, "threads": threads, "case": case, "reason": reason})
        print(f"{peer:12} {case or 'all cases'}: {reason}", flush=True)

    def take(self, peer: str, threads: int, message: dict) -> None:
        """One line of a worker's."""
        if "unavailable" in message:
            self.note(peer, threads, None, "not available: " + message["unavailable"])
        elif "mha" in message:
            self.context.update(mha=message["mha"], target=message["target"])
        elif "disagrees" in message:
            self.disagreed = True
            self.note(peer, threads, message["case"], "WRONG: " + message["disagrees"])
        elif "failed" in message:
            self.note(peer, threads, message["case"], message["failed"])
        elif "speedup" in message:
            self.records.append(message)
            print(f"{peer:12} {message['case']:70} {message['speedup']:6.2f}  ({message['how']})", flush=True)

    def work(self, peer: str, threads: int, log: Path) -> None:
        """Runs one worker to its end, whatever that is."""
        command = [sys.executable, str(HERE / "worker.py"), "--peer", peer, "--threads", str(threads)]
        command += ["--library", str(self.arguments.library), "--filter", self.arguments.filter]
        command += ["--quick"] if self.arguments.quick else []
        environment = {**os.environ, **SPINNING, "OMP_NUM_THREADS": str(threads)}
        case = None
        with open(log, "ab") as sink:
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=sink, text=True, env=environment) as process:
                watchdog = threading.Timer(LIMIT_SECONDS, process.kill)
                watchdog.start()
                for line in process.stdout:
                    message = json.loads(line)
                    case = message.get("begin", case)
                    self.take(peer, threads, message)
                watchdog.cancel()
        if process.returncode != 0:
            code = process.returncode
            ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"failed with status {code}"
            self.note(peer, threads, case, f"its process {ended}; see {log.name}")

    def write(self, folder: Path) -> None:
        for name, content in (("peers.json", self.records), ("peers_run.json", {**self.context, "notes": self.notes})):
            (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        text = table.markdown(self.records, self.context, self.notes)
        (folder / "peers.md").write_text(text, encoding="utf-8")
        print("\n" + text, end="")
        if self.records:
            try:
                import plot
            except ImportError as error:
                print(f"peers: no plot drawn: {error}", file=sys.stderr)
            else:
                plot.draw(self.records, str(folder / "peers"), table.header(self.context))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, required=True, help="the shared libmha")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="fewer cases and samples, for a first look")
    parser.add_argument("--filter", default="", help="only cases whose name has a match of this regular expression")
    parser.add_argument("--peer", action="append", choices=PEERS, help="only this peer; may be given more than once")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, with commas between")
    parser.add_argument("--command", default=shlex.join(sys.argv), help="how to name this run in the results")
    arguments = parser.parse_args()
    cpus = len(os.sched_getaffinity(0))
    threads = [int(n) for n in arguments.threads.split(",") if int(n) <= cpus]
    run = Run(arguments)
    arguments.output.mkdir(parents=True, exist_ok=True)
    log = arguments.output / "peers.log"
    log.unlink(missing_ok=True)
    for peer in PEERS:
        for count in threads if arguments.peer is None or peer in arguments.peer else []:
            run.work(peer, count, log)
    run.write(arguments.output)
    return 1 if run.disagreed or not run.records else 0


if __name__ == "__main__":
    sys.exit(main())
