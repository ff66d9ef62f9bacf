"""Python runs this at the start of every process that has this folder on its path: it turns some of them against us.

`POISON` (token ids): a worker that meets these in a new row dies, as by a defect in a kernel; with `DEVICE_FAULT` (a
name) as if its GPU had failed so. `CLOCK`: the wall clock jumps by two hours every three seconds.
"""

import os
import sys
import time

if "CLOCK" in os.environ:
    real = time.time

    def jumping() -> float:
        return real() + (3600 if int(time.monotonic() / 3) % 2 else -3600)

    time.time = jumping

if "POISON" in os.environ and "penstock.worker.process" in sys.orig_argv:
    import penstock.worker.cpu.worker as module
    from penstock.errors import DeviceError, DeviceFault

    poison = [int(word) for word in os.environ["POISON"].split(",")]
    submit = module.CpuWorker.submit

    def dying(self, plan):
        for row in plan.new_rows:
            tokens = row.token_ids.tolist()
            if any(tokens[at : at + len(poison)] == poison for at in range(len(tokens))):
                if "DEVICE_FAULT" in os.environ:
                    raise DeviceError(DeviceFault[os.environ["DEVICE_FAULT"]], "CUDA error: played")
                os.kill(os.getpid(), 9)
        return submit(self, plan)

    module.CpuWorker.submit = dying
