"""``allgrad run --debug --schedule 1:200``: one seed after the other, until one fails.

Each seed is a job in a child of this process, which has imported the libraries but run nothing: so
no seed sees what another one has left in a module, and starting one takes milliseconds.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time

from allgrad.launch.outcome import signal_name
from allgrad.launch.spec import LaunchSpec


def run_seeds(spec: LaunchSpec, options: argparse.Namespace) -> int:
    """Run the job under each seed; return the exit code of the first that fails, or 0.

    Output of seeds that pass is not shown; that of the one that fails is.
    """
    from allgrad.launch import debug_host  # noqa: F401, PLC0415 - before the fork, for all seeds
    from allgrad.nn import functional  # noqa: F401, PLC0415 - as above

    # its prompt would not be seen; a seed that fails can be had again with a prompt
    os.environ["PYTHONBREAKPOINT"] = "0"
    begin = time.monotonic()
    for count, seed in enumerate(options.schedule, 1):
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            code = _in_child(spec, options, seed, out.fileno(), err.fileno())
            if code != 0:
                for kept, stream in ((out, sys.stdout), (err, sys.stderr)):
                    kept.seek(0)
                    stream.flush()
                    shutil.copyfileobj(kept, stream.buffer)
                    stream.buffer.flush()
                if code < 128 or code == 128 + signal.SIGABRT:
                    sys.stderr.write(_replay(options, seed, count, code))
                return code
    seconds = time.monotonic() - begin
    seeds = options.schedule
    sys.stderr.write(
        f"allgrad: {len(seeds)} schedules passed, seeds {seeds[0]} to {seeds[-1]}, in "
        f"{seconds:.1f} s\n"
    )
    return 0


def _in_child(spec: LaunchSpec, options: argparse.Namespace, seed: int, out: int, err: int) -> int:
    from allgrad.launch.debug_host import run_job  # noqa: PLC0415 - imported before

    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(out, 1)
            os.dup2(err, 2)
            code = run_job(spec, options, seed)
            sys.__stdout__.flush()  # type: ignore[union-attr]
            sys.__stderr__.flush()  # type: ignore[union-attr]
        except BaseException:  # noqa: BLE001 - whatever it is, the child must not go on here
            sys.excepthook(*sys.exc_info())
            os._exit(70)
        os._exit(code)
    while True:
        try:
            _, status = os.waitpid(child, 0)
        except KeyboardInterrupt:  # the child has had it, too, and ends by itself
            continue
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code


def _replay(options: argparse.Namespace, seed: int, count: int, code: int) -> str:
    argv = list(options.argv)
    place = next(i for i, part in enumerate(argv) if part.startswith("--schedule"))
    if "=" in argv[place]:
        argv[place] = f"--schedule={seed}"
    else:
        argv[place + 1] = str(seed)
    how = f"exit code {code}" if code < 128 else signal_name(code - 128)
    return (
        f"allgrad: seed {seed} failed ({how}), the {_ordinal(count)} tried; again: "
        f"{shlex.join(['allgrad', *argv])}\n"
    )


def _ordinal(number: int) -> str:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{'th' if 10 <= number % 100 <= 20 else ending}"
