"""Memory of a stage in a process that keeps what it frees."""

import os
import subprocess
import sys

from rlm.launch import KEEP_FREED_MEMORY

MEASURE = """
import numpy
from rlm.config import Runtime
from rlm.stages.cost import Meter

kept = [numpy.ones(2**20) for _ in range(60)]
del kept
with Meter(Runtime()) as meter:
    pass
print(meter.cost()["peak_memory_bytes"])
"""


def test_meter__does_not_count_what_the_stage_before_freed() -> None:
    environment = {**os.environ, **KEEP_FREED_MEMORY}
    done = subprocess.run([sys.executable, "-c", MEASURE], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200e6 < 60 * 2**23
