"""Runs the tests of etcd's clients against tern, and prints how many pass on each server.

    python3 tests/clients/run.py                    all clients, on tern and on etcd 3.4
    python3 tests/clients/run.py etcdctl etcdjs     these clients
    python3 tests/clients/run.py --quick            the quickest six, on tern only
    python3 tests/clients/run.py --write            all, and rewrites the table in README.md

Exit code 1 if a test failed that has no reason in reasons.txt, if a reason there explains no failure any more, or if a
client ran another number of tests than CLIENTS says. README.md tells more.
"""
import argparse
import concurrent.futures
import contextlib
import fnmatch
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import servers as under_test

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parent.parent
# Keeps what was installed, one folder a client.
CACHE = pathlib.Path(os.environ.get("TERN_CLIENTS_CACHE", REPOSITORY / "target/clients")).resolve()

# How many tests each script has. A script that ran fewer has failed, whatever passed.
CLIENTS = {
    "etcdctl": 31,
    "python-etcd-0.4.5": 13,
    "python-etcd-0.3.3": 28,
    "crate-etcd": 36,
    "node-etcd": 26,
    "etcdjs": 34,
    "promise-etcd": 13,
    "etcd-leader": 7,
    "etcd-registry": 12,
    "etcd-cli": 15,
    "etcd-gevent": 13,
    "pyetcd": 12,
    "k3etcd": 16,
    "aio-etcd": 12,
    "txetcd": 8,
    "tooz": 7,
    "go-client": 29,
    "libkv": 2,
    "salt": 9,
    "ansible": 4,
    "ctdb": 4,
    "vip-manager": 4,
    "etcd-discovery": 4,
}
# Clients of the 0.4 line: their followers and standbys run without `-compat 2`.
OLD_CLIENTS = ["python-etcd-0.3.3", "txetcd"]
QUICK = ["etcdctl", "python-etcd-0.4.5", "node-etcd", "etcdjs", "pyetcd", "k3etcd"]

# The longest run of one script on one server, in seconds, with the installation of its client.
SCRIPT_S = 900
# Scripts that run at the same time: most of their time they wait.
AT_ONCE = 4
# The process ids of those that run now.
SCRIPTS = []


class Outcome:
    """What one script printed on one server."""

    def __init__(self, client, column):
        self.client = client
        self.column = column
        self.passed = []
        self.failed = {}
        self.skipped = None
        self.seconds = 0.0

    def read(self, output):
        for line in output.splitlines():
            word, _, rest = line.partition(" ")
            if word == "pass":
                self.passed.append(rest)
            elif word == "fail":
                name, _, text = rest.partition(": ")
                self.failed[name] = text
            elif line.startswith("skipped: needs "):
                self.skipped = line.removeprefix("skipped: needs ")

    def total(self):
        return len(self.passed) + len(self.failed)

    def cell(self):
        return "skipped" if self.skipped else f"{len(self.passed)}/{self.total()}"


def run_script(client, column, tern):
    """Starts the server of the column and runs the client's script against it."""
    outcome = Outcome(client, column)
    began = time.monotonic()
    flags = ["-forward"] if client in OLD_CLIENTS else ["-forward", "-compat", "2"]
    etcd = CACHE / "etcd-server/tree/usr/bin/etcd"
    with under_test.Servers(tern, etcd) as servers, tempfile.TemporaryDirectory() as work:
        try:
            port = under_test.COLUMNS[column](servers, flags)
        except (TimeoutError, RuntimeError, OSError) as error:
            logs = "".join(servers.log(name)[-1000:] for name in servers.processes)
            outcome.failed["start"] = f"{error}: {logs}"
            return outcome
        env = dict(os.environ, CACHE=str(CACHE), WORK=work, HOST="127.0.0.1", PORT=str(port), TERN=tern)
        env["PEER_PORT"] = str(servers.leader_peer_port())
        output, code = run_bounded(["bash", str(HERE / f"{client}.sh")], env)
        outcome.read(output)
        if code != 0:
            outcome.failed["script"] = f"exit code {code}: {output[-400:]}"
    outcome.seconds = time.monotonic() - began
    return outcome


def run_bounded(command, env):
    """What a command printed, and its exit code. It has a session of its own, which ends with it."""
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=output,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        SCRIPTS.append(process.pid)
        try:
            code = process.wait(SCRIPT_S)
        except subprocess.TimeoutExpired:
            code = f"none, not done after {SCRIPT_S} s"
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        SCRIPTS.remove(process.pid)
        output.seek(0)
        return output.read(), code


def end_scripts(*_):
    """On SIGTERM and SIGINT: the scripts end, so their servers do, and no further script begins to run."""
    global SCRIPT_S
    SCRIPT_S = 0
    for pid in list(SCRIPTS):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)


def read_reasons():
    """The lines of reasons.txt: client, columns, test, reason. The first three are shell patterns."""
    reasons = []
    for line in (HERE / "reasons.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            reasons.append(tuple(part.strip() for part in line.split("|", 3)))
    return reasons


def is_about(reason, outcome):
    client, columns, _, _ = reason
    if not fnmatch.fnmatchcase(outcome.client, client):
        return False
    return any(fnmatch.fnmatchcase(outcome.column, column.strip()) for column in columns.split(","))


def faults_of(outcome, reasons):
    """What is wrong with an outcome: one line each."""
    where = f"{outcome.client} on {outcome.column}"
    if outcome.skipped:
        return [f"{where}: skipped: needs {outcome.skipped}"] if os.environ.get("TERN_TESTS") == "all" else []
    faults = []
    unexplained = dict(outcome.failed)
    for reason in reasons:
        if is_about(reason, outcome):
            explained = fnmatch.filter(outcome.failed, reason[2])
            if not explained:
                faults.append(f"{where}: no test fails any more for this line of reasons.txt: {' | '.join(reason)}")
            for test in explained:
                unexplained.pop(test, None)
    faults += [f"{where}: {test}: {text}" for test, text in unexplained.items()]
    # Where a whole suite gives up at its beginning, it tells no number.
    gives_up = any(reason[2] == "*" and is_about(reason, outcome) for reason in reasons)
    if outcome.total() != CLIENTS[outcome.client] and not gives_up:
        faults.append(f"{where}: {outcome.total()} tests ran, expected {CLIENTS[outcome.client]}")
    return faults


def table(outcomes, clients, columns):
    cells = {(outcome.client, outcome.column): outcome.cell() for outcome in outcomes}
    lines = [f"| client | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for client in clients:
        lines.append(f"| {client} | {' | '.join(cells[client, column] for column in columns)} |")
    return "\n".join(lines)


def reasons_table(reasons):
    lines = ["| client | server | test | reason |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(reason) + " |" for reason in reasons]
    return "\n".join(lines)


def write_readme(text):
    """Replaces what stands between the two marks of README.md."""
    path, begin, end = HERE / "README.md", "<!-- begin of results -->\n", "<!-- end of results -->"
    head, rest = path.read_text().split(begin)
    path.write_text(f"{head}{begin}\n{text}\n\n{end}{rest.split(end)[1]}")


def default_tern():
    target = os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")
    return os.environ.get("TERN", f"{target}/release/tern")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(CLIENTS))
    parser.add_argument("--quick", action="store_true", help="the quickest six, without the reference")
    parser.add_argument("--write", action="store_true", help="rewrite the tables of README.md")
    parser.add_argument("--column", action="append", choices=under_test.COLUMNS, help="only this server")
    parser.add_argument("--tern", default=default_tern(), help="the program (default: %(default)s)")
    given = parser.parse_args()
    if unknown := [client for client in given.clients if client not in CLIENTS]:
        parser.error(f"no such client: {' '.join(unknown)}")
    if not pathlib.Path(given.tern).is_file():
        parser.error(f"{given.tern} is not there: cargo build --release, or --tern")
    return given


def main():
    given = arguments()
    clients = given.clients or (QUICK if given.quick else list(CLIENTS))
    columns = given.column or [c for c in under_test.COLUMNS if not given.quick or c != "etcd 3.4"]
    tern = str(pathlib.Path(given.tern).resolve())
    if "etcd 3.4" in columns:
        _, code = run_bounded(["bash", str(HERE / "etcd-server.sh")], dict(os.environ, CACHE=str(CACHE)))
        if code != 0:
            sys.exit("skipped: needs Debian's package etcd-server for the reference")

    signal.signal(signal.SIGTERM, end_scripts)
    signal.signal(signal.SIGINT, end_scripts)
    outcomes = []
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        runs = [pool.submit(run_script, client, column, tern) for client in clients for column in columns]
        for run in concurrent.futures.as_completed(runs):
            outcome = run.result()
            outcomes.append(outcome)
            print(f"{outcome.client} on {outcome.column}: {outcome.cell()}, {outcome.seconds:.0f} s", flush=True)
            for test, text in outcome.failed.items():
                print(f"    fail {test}: {text[:400]}")
            if outcome.skipped:
                print(f"    skipped: needs {outcome.skipped}")

    reasons = read_reasons()
    counts = table(outcomes, clients, columns)
    print(f"\n{counts}\n")
    if given.write:
        write_readme(f"{counts}\n\n{reasons_table(reasons)}")
    faults = [fault for outcome in outcomes for fault in faults_of(outcome, reasons)]
    for fault in faults:
        print(f"FAULT {fault}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
