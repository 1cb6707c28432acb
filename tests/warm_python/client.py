# Copyright (c) mtkdrl_mm contributors. All rights reserved.
"""Stands in for the interpreter: client.py FOLDER OWNER PYTHON [Python's command line].

FOLDER holds the servers' sockets, OWNER is the process id of the test session, and PYTHON the real
interpreter, which takes over wherever a server cannot do the same.
"""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
SERVERS = 2
# Seconds in which a server has imported everything, even on a busy machine.
PATIENCE = 300


def main() -> None:
    """Run the command in a server's fork, or else in the real interpreter."""
    folder, owner, python, *arguments = sys.argv[1:]
    kind, _ = split(arguments)
    if kind is None or os.environ.get('OMP_NUM_THREADS', '1') != '1' or elsewhere(owner):
        os.execv(python, [python, *arguments])
    # A signal that arrives before there is a process to forward it to has to wait.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    try:
        connection = connect(folder, owner, python)
    except OSError:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        os.execv(python, [python, *arguments])
    request = dict(
        arguments=arguments,
        executable=os.path.join(folder, 'python'),
        environment=dict(os.environ),
        folder=os.getcwd(),
    )
    data = json.dumps(request).encode()
    socket.send_fds(connection, [len(data).to_bytes(8, 'big')], [0, 1, 2])
    connection.sendall(data)
    answers = connection.makefile()
    pid = int(answers.readline())
    for number in FORWARDED:
        signal.signal(number, lambda number, _: os.kill(pid, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    answer = answers.readline()
    if not answer:
        sys.exit('The test session has ended, and with it this process.')
    code = int(answer)
    if code >= 0:
        os._exit(code)
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)


def split(arguments: list[str]) -> 'tuple[str | None, list[str]]':
    """Split Python's command line.

    Returns:
        tuple: ``'file'``, ``'-c'`` or ``'-m'``, and what follows; None and nothing for a command
        line that only the real interpreter understands.
    """
    rest = arguments[1:] if arguments[:1] == ['-u'] else arguments
    if rest and not rest[0].startswith('-'):
        return 'file', rest
    if len(rest) > 1 and rest[0] in ('-c', '-m'):
        return rest[0], rest[1:]
    return None, []


def elsewhere(owner: str) -> bool:
    """Whether this process has another network than the session, as if on another machine."""
    here, there = (os.stat(f'/proc/{pid}/ns/net').st_ino for pid in ('self', owner))
    return here != there


def connect(folder: str, owner: str, python: str) -> socket.socket:
    """Connect to one of the servers; start it if it does not run yet."""
    number = os.getpid() % SERVERS
    path = os.path.join(folder, f'socket{number}')
    with open(os.path.join(folder, f'lock{number}'), 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(path):
            with open(os.path.join(folder, f'log{number}'), 'w') as log:
                server = subprocess.Popen(
                    [python, os.path.join(os.path.dirname(__file__), 'server.py'), path, owner],
                    env={
                        **{k: v for k, v in os.environ.items() if k != 'PYTHONPATH'},
                        'OMP_NUM_THREADS': '1',
                        'PYTHONHASHSEED': 'random',
                        # Whether there are GPUs can be found without a driver that a fork breaks.
                        'PYTORCH_NVML_BASED_CUDA_CHECK': '1',
                    },
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            end = time.monotonic() + PATIENCE
            while not os.path.exists(path):
                if server.poll() is not None or time.monotonic() > end:
                    raise ConnectionError('the server does not start')
                time.sleep(0.05)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection


if __name__ == '__main__':
    main()
