"""Tokens of etcd-discovery, and two tern that begin a cluster with one."""
import os

from calls import HOST, PORT, run
from servers import LEADER, Servers, free_ports, request, wait_until

URL = f"http://127.0.0.1:{free_ports(1)[0]}"


def new_token():
    status, body = request("GET", f"{URL}/new?size=3")
    assert status == 200 and body.startswith(URL), (status, body)
    return body.strip()


def make_a_token():
    new_token()


def register():
    token = new_token()
    status, body = request("PUT", f"{token}/machine", "value=http://127.0.0.1:7001")
    assert status == 201, (status, body)
    status, body = request("GET", token)
    assert status == 200 and "http://127.0.0.1:7001" in body, (status, body)


def size_of_the_cluster():
    status, body = request("GET", f"{new_token()}/_config/size")
    assert status == 200 and '"value":"3"' in body, (status, body)


def two_machines_find_each_other():
    with Servers(os.environ["TERN"]) as servers:
        token = new_token()
        servers.start_tern(LEADER, "-discovery", token)
        servers.start_tern("n2", "-forward", "-discovery", token)
        wait_until("both are members", lambda: servers.voters() == 2, 15)


with Servers(os.environ["TERN"]) as service:
    (service.folder / "etcd-discovery.conf").write_text(
        f"[server]\nprefix_url={URL}\nweb_service_address={URL.removeprefix('http://')}\n"
        f"[etcd]\nendpoint_location=http://{HOST}:{PORT}\n")
    service.start("discovery", [os.environ["DISCOVERY"]])
    wait_until("the service answers", lambda: request("GET", f"{URL}/new?size=1")[0] == 200)
    run([make_a_token, register, size_of_the_cluster, two_machines_find_each_other])
