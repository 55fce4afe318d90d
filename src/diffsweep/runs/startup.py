"""Start a command as its script does, and print the time of each phase as JSON, for ``benchmark.py parts=[startup]``.

``python -m diffsweep.runs.startup BEGIN COMMAND WORD ...``, where BEGIN is the Unix time at which the process was
started, ends at the first optimizer step of ``train``, or at the first call of the network of another command.
"""

import gc
import json
import os
import sys
import time
from typing import Any


def main() -> None:
    """Run the command of the arguments up to its first step, and print the seconds of each phase.

    The line has for each phase the seconds that passed and those of the processor. The phases are ``interpreter``
    (Python itself), ``command line`` (the imports that read the words), ``composition``, ``imports`` (torch, Lightning
    and the modules of the command), ``checks``, ``building`` (data, model, Trainer, up to the first call of the
    network) and, of ``train``, ``first step``.
    """
    begin, command, *words = sys.argv[1:]
    phases: dict[str, tuple[float, float]] = {}
    before = (float(begin), 0.0)

    def end_of(phase: str) -> None:
        nonlocal before
        now = (time.time(), time.process_time())
        phases[phase] = (now[0] - before[0], now[1] - before[1])
        before = now

    def finish() -> None:
        print(json.dumps(phases), flush=True)
        os._exit(0)  # nothing is kept

    end_of("interpreter")
    from diffsweep.configuration.compose import compose_job
    from diffsweep.runs import functions
    from diffsweep.runs.cli import YOUNG, import_for

    gc.set_threshold(YOUNG)
    end_of("command line")
    job = compose_job(command, words)
    end_of("composition")
    import_for(command, checks=True)
    end_of("imports")
    from torch.nn.modules.module import register_module_forward_pre_hook
    from torch.optim.optimizer import register_optimizer_step_post_hook

    from diffsweep.backbones.base import Backbone
    from diffsweep.configuration.preflight import preflight

    preflight(job.cfg)
    end_of("checks")

    def before_call(module: Any, _: Any) -> None:
        if "building" in phases or not isinstance(module, Backbone) or next(module.parameters()).is_meta:
            return
        end_of("building")
        if command != "train":
            finish()

    def after_step(*_: Any) -> None:
        end_of("first step")
        finish()

    register_module_forward_pre_hook(before_call)
    register_optimizer_step_post_hook(after_step)
    functions.start(job)


if __name__ == "__main__":
    main()
