"""The processes of one launch, before they can speak to each other."""

import os


def first_of_launch() -> bool:
    """Is this the process that writes for all of its launch? It can be asked before they can speak to each other."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return int(next((os.environ[name] for name in names if name in os.environ), "0")) == 0


def launch_name(own: str) -> str:
    """A name that all processes of one launch share, before they can speak to each other; alone, it is `own`.

    Under torchrun it is `own` of the process that asks first, kept in the agents' store; in a SLURM step of several
    tasks it is the id of the step.
    """
    place = os.environ
    if place.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        from torch.distributed import TCPStore  # here, because torch takes seconds

        store = TCPStore(place["MASTER_ADDR"], int(place["MASTER_PORT"]), wait_for_workers=False)
        return store.compare_set(f"launch_name/{place['TORCHELASTIC_RESTART_COUNT']}", "", own).decode()
    if int(place.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
        return "-".join(["slurm", *(place[name] for name in names if name in place)])
    return own
