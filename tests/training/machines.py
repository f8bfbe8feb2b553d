"""Two machines that train together, as processes of this one: torchrun's agents, or Slurm's tasks."""

import json
import os
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from cli.processes import FORKS, start_wsol
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from wsol_ext.cli import main


def torchrun(folder: Path, command: Sequence[str], dies: bool = False) -> list[int | None]:
    """`torchrun --nnodes 2 --nproc-per-node 1 -m wsol_ext.cli COMMAND` on two machines; how the agents ended.

    Args:
        folder: where each process notes the images of its training steps: `steps-RANK.jsonl`.
        command: the arguments.
        dies: whether the second machine's process does, in the second epoch.
    """
    given = (folder, command, dies, _free_port())
    agents = [FORKS.Process(target=_agent, args=given) for _ in range(2)]
    for agent in agents:
        agent.start()
    return _ends_of(agents)


def on_two_machines(
    folder: Path, commands: Sequence[Sequence[str]], launcher: Callable[[int], dict[str, str]]
) -> tuple[list[int | None], list[str]]:
    """A command on each of two machines; how they ended, and what they said.

    Args:
        folder: where they say it.
        commands: the arguments of each.
        launcher: what it sets in the environment of a process, by its rank: `of_slurm` or `of_torchrun`.
    """
    said = [folder / f"said-{rank}.txt" for rank in range(2)]
    port = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    processes = [
        start_wsol(command, say_into_file, SAID=str(said[rank]), **port, **launcher(rank))
        for rank, command in enumerate(commands)
    ]
    return _ends_of(processes), [path.read_text() for path in said]


def of_slurm(rank: int) -> dict[str, str]:
    """`srun --nodes 2 --ntasks-per-node 1`."""
    job = {"SLURM_JOB_ID": "71", "SLURM_JOB_NAME": "birds", "SLURM_NODELIST": "127.0.0.1"}
    job |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2"}
    return job | {"SLURM_LOCALID": "0", "SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)}


def of_torchrun(rank: int) -> dict[str, str]:
    """`torchrun --nnodes 2 --nproc-per-node 1`."""
    return {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": "0"}


def say_into_file() -> None:
    """Send standard error where `SAID` says."""
    sys.stderr = open(os.environ["SAID"], "w", buffering=1)  # noqa: SIM115


def _ends_of(processes: Sequence[BaseProcess]) -> list[int | None]:
    for process in processes:
        process.join(120)
        process.kill()  # where it hangs
    return [process.exitcode for process in processes]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _agent(folder: Path, command: Sequence[str], dies: bool, port: int) -> None:
    config = LaunchConfig(
        min_nodes=2,
        max_nodes=2,
        nproc_per_node=1,
        run_id="birds",
        rdzv_backend="c10d",
        rdzv_endpoint=f"127.0.0.1:{port}",
        max_restarts=0,
        monitor_interval=0.05,
        start_method="fork",
    )
    with open(folder / "agents.txt", "a") as said:
        os.dup2(said.fileno(), 2)  # what the agent tells of a worker that dies, and the worker
    try:
        elastic_launch(config, _worker)(folder, command, dies)
    except ChildFailedError:
        sys.exit(1)


def _worker(folder: Path, command: Sequence[str], dies: bool) -> None:
    rank = int(os.environ["RANK"])
    _note_steps(folder / f"steps-{rank}.jsonl", dies and rank == 1)
    sys.exit(main(command))


def _note_steps(path: Path, dies: bool) -> None:
    from wsol_ext.training.module import Localizer

    step = Localizer.training_step

    def noted(self, batch, batch_index):
        if dies and self.current_epoch == 1:
            os._exit(1)
        with open(path, "a") as file:
            print(json.dumps([self.current_epoch, batch["indices"].tolist()]), file=file)
        return step(self, batch, batch_index)

    Localizer.training_step = noted
