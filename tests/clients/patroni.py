"""Two PostgreSQL servers under Patroni, with three tern as the store of its leases, through failovers.

    python3 tests/clients/patroni.py                       20 failovers
    python3 tests/clients/patroni.py --failovers 4         fewer
    python3 tests/clients/patroni.py --flags="-compat 2"   with these flags of tern instead of -forward

Needs PostgreSQL of Debian (`postgresql`), root or the user postgres, and PyPI.

A writer for each PostgreSQL server inserts a row ten times a second, whether the server is the primary or not.
Checked is:
- never do two primaries take writes: the timeline of acknowledged rows does not go back;
- each row that was acknowledged is there at the end, on both servers: the pair replicates synchronously;
- Patroni logs no error but while a failure lasts.
Printed is for each step the longest time without an acknowledged row.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

from run import CACHE, HERE, default_tern, run_bounded
from servers import LEADER, Servers, free_ports, request, wait_until

# Patroni, and the driver of PostgreSQL.
SITE = CACHE / "patroni/site"
BIN = pathlib.Path("/usr/lib/postgresql")
TICK_S = 0.1
# Patroni's lease of its leader, the shortest that it accepts.
TTL_S = 20
# How long a step may take until both servers are back, on a busy machine.
STEP_S = 180

CONFIG = """
scope: clients
name: {name}
restapi: {{listen: '127.0.0.1:{api}', connect_address: '127.0.0.1:{api}'}}
etcd: {{hosts: [{hosts}]}}
bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: 2
    retry_timeout: 5
    primary_start_timeout: 0
    synchronous_mode: true
    postgresql:
      use_pg_rewind: true
      parameters: {{max_connections: 20, shared_buffers: 16MB, wal_keep_size: 64MB}}
  initdb: [{{auth: trust}}, {{encoding: UTF8}}, data-checksums]
postgresql:
  listen: 127.0.0.1:{port}
  connect_address: 127.0.0.1:{port}
  data_dir: {folder}/{name}
  bin_dir: {bin}
  pgpass: {folder}/{name}.pgpass
  pg_hba: ['local all all trust', 'host all all 127.0.0.1/32 trust', 'host replication all 127.0.0.1/32 trust']
  parameters: {{unix_socket_directories: '{folder}'}}
  authentication:
    superuser: {{username: postgres}}
    replication: {{username: replicator}}
    rewind: {{username: rewinder}}
"""


class Writer(threading.Thread):
    """Inserts a row into one PostgreSQL server each tick, and keeps what was acknowledged."""

    def __init__(self, name, port, rows):
        super().__init__(daemon=True)
        self.name = name
        self.port = port
        self.rows = rows
        self.stopped = False

    def run(self):
        connection = None
        number = 0
        while not self.stopped:
            began = time.monotonic()
            number += 1
            try:
                connection = connection or connect(self.port)
                row = f"{self.name}-{number}"
                timeline = query(connection, "INSERT INTO rows VALUES (%s) "
                                 "RETURNING substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)", row)
                self.rows.acknowledged(row, int(timeline, 16), began)
            except driver().Error:
                if connection:
                    connection.close()
                connection = None
            time.sleep(max(0, TICK_S - (time.monotonic() - began)))


class Rows:
    """The acknowledged rows of both writers, with the time at which each was asked and acknowledged."""

    def __init__(self):
        self.lock = threading.Lock()
        self.names = set()
        self.times = []
        self.newest = (0, 0.0)
        self.went_back = []

    def acknowledged(self, row, timeline, asked):
        """The newest timeline may have been reached only after this row was asked for."""
        now = time.monotonic()
        with self.lock:
            newest, since = self.newest
            if timeline < newest and asked > since:
                self.went_back.append(f"{row} on timeline {timeline}, {asked - since:.1f} s after one on {newest}")
            if timeline > newest:
                self.newest = (timeline, now)
            self.names.add(row)
            self.times.append(now)

    def longest_gap(self, begin):
        with self.lock:
            times = [begin] + [t for t in self.times if t >= begin] + [time.monotonic()]
        return max(after - before for before, after in zip(times, times[1:]))


def driver():
    """The driver of PostgreSQL, which `main` has installed."""
    if str(SITE) not in sys.path:
        sys.path.append(str(SITE))
    import psycopg2
    return psycopg2


def connect(port):
    connection = driver().connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres", connect_timeout=2)
    connection.autocommit = True
    return connection


def query(connection, text, *values):
    with connection.cursor() as cursor:
        cursor.execute(text, values)
        return cursor.fetchone()[0] if cursor.description else None


class Pair:
    """Two PostgreSQL servers and their Patroni processes."""

    def __init__(self, servers, hosts):
        self.servers = servers
        self.folder = servers.folder / "pair"
        ports = free_ports(4)
        self.ports = {"pg1": (ports[0], ports[1]), "pg2": (ports[2], ports[3])}
        self.folder.mkdir()
        # PostgreSQL refuses to run as root.
        self.user = "postgres" if os.getuid() == 0 else None
        if self.user:
            os.chmod(servers.folder, 0o755)
            shutil.chown(self.folder, self.user, self.user)
        versions = sorted(BIN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
        for name, (port, api) in self.ports.items():
            config = CONFIG.format(name=name, port=port, api=api, folder=self.folder, ttl=TTL_S,
                                   bin=versions[-1].parent, hosts=", ".join(f"'{host}'" for host in hosts))
            (servers.folder / f"{name}.yml").write_text(config)

    def start(self, name):
        environment = {"PYTHONPATH": str(SITE), "PATH": os.environ["PATH"], "HOME": str(self.folder), "LANG": "C"}
        with open(self.servers.folder / f"{name}.log", "ab") as log:
            self.servers.processes[name] = subprocess.Popen(
                ["/usr/bin/python3", "-m", "patroni", str(self.servers.folder / f"{name}.yml")],
                stdout=log, stderr=subprocess.STDOUT, cwd=self.folder, env=environment,
                user=self.user, group=self.user, extra_groups=[] if self.user else None)

    def kill_postgres(self, name):
        pid = int((self.folder / name / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    def kill_all(self, name):
        """Patroni first, so that it does not start PostgreSQL again."""
        self.servers.stop(name, kill=True)
        self.kill_postgres(name)

    def ask(self, name, method="GET", path="/patroni", body=None):
        status, text = request(method, f"http://127.0.0.1:{self.ports[name][1]}{path}", body)
        return status, text

    def status(self, name):
        try:
            return json.loads(self.ask(name)[1])
        except ValueError:
            return {}

    def primary(self):
        """The name of the primary; none while there is none, or two say that they are."""
        names = [name for name in self.ports if self.status(name).get("role") in ("primary", "master")]
        return names[0] if len(names) == 1 else None

    def other(self, name):
        return next(other for other in self.ports if other != name)

    def is_whole(self):
        """One server leads, the other follows it synchronously."""
        primary = self.primary()
        if primary is None:
            return False
        replication = self.status(primary).get("replication", [])
        return [r.get("sync_state") for r in replication] == ["sync"] and self.ask(self.other(primary), path="/sync")[0] == 200

    def end(self):
        for name in self.ports:
            if name in self.servers.processes:
                self.servers.stop(name)


class Steps:
    """What is done to the cluster. Each step leaves it whole."""

    def __init__(self, servers, pair, flags):
        self.servers = servers
        self.pair = pair
        self.flags = flags
        self.setting = 4

    def switchover(self):
        primary = self.pair.primary()
        body = json.dumps({"leader": primary, "candidate": self.pair.other(primary)})
        status, text = self.pair.ask(primary, "POST", "/switchover", body)
        if status != 200:
            raise RuntimeError(f"switchover: {status} {text}")

    def kill_postgres(self):
        """Patroni notices at its next look, and gives the lease up."""
        self.pair.kill_postgres(self.pair.primary())
        wait_until("Patroni notices", lambda: not self.pair.is_whole(), STEP_S)

    def kill_primary(self):
        """PostgreSQL and its Patroni: the lease runs out."""
        primary = self.pair.primary()
        self.pair.kill_all(primary)
        wait_until("the other takes over", lambda: self.pair.primary() == self.pair.other(primary), STEP_S)
        self.pair.start(primary)

    def tern_leader(self):
        for name in (LEADER, "n2", "n3"):
            status, body = request("GET", f"http://127.0.0.1:{self.servers.ports[name][0]}/v2/stats/self")
            if status == 200 and json.loads(body)["state"].endswith(("eader", "Leader")):
                return name
        raise RuntimeError("tern has no leader")

    def kill_tern_leader(self):
        name = self.tern_leader()
        self.servers.stop(name, kill=True)
        time.sleep(10)
        self.servers.start_tern(name, *self.flags)

    def kill_both_leaders(self):
        name = self.tern_leader()
        self.servers.stop(name, kill=True)
        self.kill_postgres()
        time.sleep(10)
        self.servers.start_tern(name, *self.flags)

    def kill_two_of_three(self):
        """Without a majority Patroni cannot renew its lease: the primary stops to take writes."""
        names = [self.tern_leader()]
        names.append(next(name for name in (LEADER, "n2", "n3") if name not in names))
        for name in names:
            self.servers.stop(name, kill=True)
        time.sleep(TTL_S + 5)
        for name in names:
            self.servers.start_tern(name, *self.flags, wait=False)

    def change_config(self):
        self.setting += 1
        body = json.dumps({"postgresql": {"parameters": {"work_mem": f"{self.setting}MB"}}})
        status, text = self.pair.ask(self.pair.primary(), "PATCH", "/config", body)
        if status != 200:
            raise RuntimeError(f"config: {status} {text}")
        wanted = f"{self.setting}MB"
        wait_until("both servers have the setting", lambda: all(
            query(connect(port), "SHOW work_mem") == wanted for port, _ in self.pair.ports.values()), STEP_S)

    def restart_tern(self):
        """One machine after the other, as for an upgrade."""
        for name in (LEADER, "n2", "n3"):
            self.servers.stop(name)
            self.servers.start_tern(name, *self.flags)

    # The steps in order, again from the beginning until there were enough failovers.
    ALL = [switchover, kill_postgres, change_config, kill_primary, kill_tern_leader, kill_both_leaders, restart_tern,
           switchover, kill_two_of_three]


def errors_in(log):
    return len(re.findall(r"^\S+ \S+ (?:ERROR|CRITICAL):", log, re.MULTILINE))


def run_steps(servers, pair, flags, rows, failovers):
    """Yields what each step did: name, changes of the primary, longest gap, errors logged before it began."""
    steps = Steps(servers, pair, flags)
    done = 0
    number = 0
    while done < failovers:
        step = Steps.ALL[number % len(Steps.ALL)]
        number += 1
        quiet = errors_in(servers.log("pg1") + servers.log("pg2"))
        time.sleep(3)
        errors = errors_in(servers.log("pg1") + servers.log("pg2")) - quiet
        before, begin = pair.primary(), time.monotonic()
        step(steps)
        wait_until(f"whole again after {step.__name__}", pair.is_whole, STEP_S)
        changed = pair.primary() != before
        done += changed
        yield step.__name__, changed, rows.longest_gap(begin), errors


def missing_rows(rows, pair):
    """The acknowledged rows that a server lacks."""
    lost = set()
    for name, (port, _) in pair.ports.items():
        with connect(port).cursor() as cursor:
            cursor.execute("SELECT name FROM rows")
            found = {row[0] for row in cursor.fetchall()}
        lost |= {f"{row} on {name}" for row in rows.names - found}
    return lost


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--failovers", type=int, default=20)
    parser.add_argument("--flags", default="-forward", help="tern's flags (default: %(default)s)")
    parser.add_argument("--tern", default=default_tern(), help="the program (default: %(default)s)")
    given = parser.parse_args()
    output, _ = run_bounded(["bash", str(HERE / "patroni-install.sh")], dict(os.environ, CACHE=str(CACHE)))
    if "skipped" in output or not list(BIN.glob("*/bin/initdb")):
        print(output or "skipped: needs PostgreSQL: apt-get install postgresql")
        sys.exit(1 if os.environ.get("TERN_TESTS") == "all" else 0)
    # An exception ends the processes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    flags, rows, faults = given.flags.split(), Rows(), []
    with Servers(str(pathlib.Path(given.tern).resolve())) as servers:
        names = servers.start_cluster(*flags)
        pair = Pair(servers, [f"127.0.0.1:{servers.ports[name][0]}" for name in names])
        pair.start("pg1")
        wait_until("the first server leads", lambda: pair.primary() == "pg1", STEP_S)
        pair.start("pg2")
        wait_until("the pair is whole", pair.is_whole, STEP_S)
        query(connect(pair.ports["pg1"][0]), "CREATE TABLE rows (name text)")
        writers = [Writer(name, port, rows) for name, (port, _) in pair.ports.items()]
        for writer in writers:
            writer.start()
        try:
            for name, changed, gap, errors in run_steps(servers, pair, flags, rows, given.failovers):
                print(f"{name}: {'failover' if changed else 'same primary'}, longest gap {gap:.1f} s", flush=True)
                if errors:
                    faults.append(f"{errors} errors in Patroni's log before {name}, while nothing was wrong")
        except (TimeoutError, RuntimeError) as error:
            faults.append(str(error))
            for name in ("pg1", "pg2"):
                print(servers.log(name)[-3000:])
        for writer in writers:
            writer.stopped = True
            writer.join(30)
        time.sleep(3)
        faults += [f"two primaries: {row}" for row in rows.went_back]
        faults += [f"lost: {row}" for row in sorted(missing_rows(rows, pair))]
        pair.end()
    print(f"{len(rows.names)} rows acknowledged, {len(faults)} faults")
    for fault in faults:
        print(f"FAULT {fault}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
