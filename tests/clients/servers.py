"""The servers under test: processes in temporary directories, ended by their process ids.

`COLUMNS` maps each column of the table to a function that starts its server, given the flags of followers
and standbys, and returns the port that the client is pointed at.
"""
import contextlib
import itertools
import os
import pathlib
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

# How long a server or a cluster may take until it serves, in seconds. Longer than on any machine.
READY_S = 120

# Scripts expect one leader from beginning to end: an election timeout that a busy processor does not reach.
# A machine joins until it is admitted.
CALM = ["-peer-election-timeout", "1000", "-max-retry-attempts", "0", "-retry-interval", "0.2"]

# The name of the first machine: what etcd is named without flags, and a test of the crate etcd asserts.
LEADER = "default"


# The ports of servers. They are below those that the system gives to connections and for port 0, so no other socket
# takes a port whose server does not listen yet. Processes that run side by side begin at different ones.
PORTS = range(10_000, 32_000)
PLACES = itertools.count(os.getpid() * 7_919)


def is_free(port):
    with contextlib.closing(socket.socket()) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_ports(count):
    """Ports that are free and were not handed out before, in order."""
    places = (PORTS[place % len(PORTS)] for place in PLACES)
    return sorted(itertools.islice(filter(is_free, places), count))


def request(method, url, body=None, timeout=5):
    """The status and the body of an answer; status 0 where there is none."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"} if body else {}
    asked = urllib.request.Request(url, method=method, data=body and body.encode(), headers=headers)
    try:
        with urllib.request.urlopen(asked, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def wait_until(what, holds, seconds=READY_S):
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(0.05)


class Servers:
    """Processes that end with the block: `with Servers(tern, etcd) as servers`."""

    def __init__(self, tern, etcd=None):
        self.tern = tern
        self.etcd = etcd
        self.folder = None
        self.processes = {}
        # The client port and the peer port of each machine that was started.
        self.ports = {}
        # Servers list machines by URL: the first of them has the lowest port, so that lists are the same each time.
        self.free = free_ports(10)

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="tern-clients-"))
        return self

    def __exit__(self, *_):
        for name in list(self.processes):
            self.stop(name)
        subprocess.run(["rm", "-rf", str(self.folder)], check=False)

    def start(self, name, command):
        """Starts a process; what it prints goes to NAME.log in the folder."""
        with open(self.folder / f"{name}.log", "ab") as log:
            # Settings of the caller's environment are not those of the server.
            keep = {k: v for k, v in os.environ.items() if not k.startswith(("ETCD_", "TERN_"))}
            self.processes[name] = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder, env=keep)

    def stop(self, name, kill=False):
        """Ends a process: with SIGTERM, and with SIGKILL if that takes more than 10 s."""
        process = self.processes.pop(name)
        if kill:
            process.kill()
        else:
            process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def log(self, name):
        with contextlib.suppress(OSError):
            return (self.folder / f"{name}.log").read_text(errors="replace")
        return ""

    def ports_of(self, name):
        if name not in self.ports:
            self.ports[name] = (self.free.pop(0), self.free.pop(0))
        return self.ports[name]

    def start_tern(self, name, *flags, peers=(), wait=True):
        """Starts one tern, under the ports it had before if it ran already."""
        client, peer = self.ports_of(name)
        command = [self.tern, "-name", name, "-data-dir", name, *CALM, *flags]
        command += ["-addr", f"127.0.0.1:{client}", "-peer-addr", f"127.0.0.1:{peer}"]
        if peers:
            command += ["-peers", ",".join(f"127.0.0.1:{self.ports[p][1]}" for p in peers)]
        self.start(name, command)
        if wait:
            wait_until(f"{name} serves", lambda: self.can_write(name))
        return client

    def can_write(self, name):
        if self.processes[name].poll() is not None:
            raise RuntimeError(f"{name} ended: {self.log(name)}")
        url = f"http://127.0.0.1:{self.ports[name][0]}/v2/keys/ready"
        status = request("PUT", url, "value=1")[0]
        # Without -forward a follower names the leader.
        if status == 307:
            return True
        return status in (200, 201) and request("DELETE", url)[0] == 200

    def start_cluster(self, *flags, size=3):
        """Starts the members LEADER, n2, n3, …; the first is the leader."""
        names = [LEADER] + [f"n{number}" for number in range(2, size + 1)]
        for index, name in enumerate(names):
            self.start_tern(name, *flags, peers=names[:index])
        wait_until("all are members", lambda: self.voters() == size)
        return names

    def leader_peer_port(self):
        return self.ports[LEADER][1]

    def voters(self):
        url = f"http://127.0.0.1:{self.ports[LEADER][0]}/v2/members"
        status, body = request("GET", url)
        return body.count('"clientURLs":["http') if status == 200 else 0


def machine(servers, _):
    return servers.start_tern(LEADER)


def compat(servers, _):
    return servers.start_tern(LEADER, "-compat", "2")


def follower(servers, flags):
    servers.start_cluster(*flags)
    return servers.ports["n2"][0]


def standby(servers, flags):
    flags = (*flags, "-cluster-active-size", "3")
    names = servers.start_cluster(*flags)
    return servers.start_tern("n4", *flags, peers=names)


def reference(servers, _):
    client, peer = servers.ports_of(LEADER)
    url, peer_url = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    servers.start(LEADER, [
        servers.etcd, "--enable-v2", "--name", LEADER, "--data-dir", "etcd",
        "--listen-client-urls", url, "--advertise-client-urls", url,
        "--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url,
        "--initial-cluster", f"{LEADER}={peer_url}"])
    wait_until("etcd serves", lambda: servers.can_write(LEADER))
    return client


COLUMNS = {
    "one machine": machine,
    "`-compat 2`": compat,
    "follower": follower,
    "standby": standby,
    "etcd 3.4": reference,
}
