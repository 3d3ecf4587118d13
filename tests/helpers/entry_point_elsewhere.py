"""An entry point where `trainer.accelerator` may name the other device: `… src/NAME.py [override …]`."""

import runpy
import sys
from pathlib import Path

from lightning.pytorch.accelerators import AcceleratorRegistry

from a2tgpo.system import process
from a2tgpo.system.limit_table import LIMITS
from tests.helpers import other_device

if __name__ == "__main__":
    other_device.register()
    AcceleratorRegistry.register(other_device.NAME, other_device.OtherAccelerator)
    process.device_of = lambda accelerator: accelerator
    LIMITS["trainer.accelerator"] = lambda value: None
    script = Path(sys.argv[1]).resolve()
    sys.argv = [str(script), *sys.argv[2:]]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
