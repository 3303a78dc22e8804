"""What floor.c does, in Python: the least that an aggregator in this language can cost.

    launcher.py ROOMS PYTHONPATH adjust.d/01one adjust.d/02two ...

If ROOMS is not empty but the path of a checkout, all that the aggregator imports for a query is imported
before, and not used.
"""

import os
import select
import sys

rooms, python_path, *drivers = sys.argv[1:]
if rooms:
    sys.path.append(rooms)
    import servo_agg.cli
    import servo_agg.running  # noqa: F401 - its import is what is measured

os.environ["PYTHONPATH"] = python_path
os.environ["PYTHONUNBUFFERED"] = "1"
pids = []
waiting = select.poll()
left = 0
for path in drivers:
    theirs = [(os.open(os.devnull, os.O_RDONLY), 0)]
    for stream in (1, 2):
        read_end, write_end = os.pipe()
        theirs.append((write_end, stream))
        waiting.register(read_end, select.POLLIN)
        left += 1
    actions = [(os.POSIX_SPAWN_DUP2, end, stream) for end, stream in theirs]
    pids.append(os.posix_spawn(path, [path, "--query", "app"], os.environ, file_actions=actions, setsid=True))
    for end, _ in theirs:
        os.close(end)
while left:
    for pipe, _ in waiting.poll():
        if not os.read(pipe, 1 << 16):
            waiting.unregister(pipe)
            left -= 1
os._exit(any([os.waitpid(pid, 0)[1] for pid in pids]))  # noqa: C419 - all of them, not until the first
