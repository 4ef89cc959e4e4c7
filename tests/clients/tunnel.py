"""Passes connections on: from a port, or a socket in a file, to another.

    python3 tunnel.py LISTEN CONNECT    each 127.0.0.1:PORT, or the path of a socket
"""
import socket
import sys
import threading


def opened(address, listens):
    if "/" in address:
        made, where = socket.socket(socket.AF_UNIX), address
    else:
        host, port = address.split(":")
        made, where = socket.socket(), (host, int(port))
    if listens:
        made.bind(where)
        made.listen()
    else:
        made.connect(where)
    return made


def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        source.close()
        sink.close()


listener = opened(sys.argv[1], True)
while True:
    client = listener.accept()[0]
    server = opened(sys.argv[2], False)
    threading.Thread(target=pump, args=(client, server), daemon=True).start()
    threading.Thread(target=pump, args=(server, client), daemon=True).start()
