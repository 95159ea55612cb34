"""A real SLURM of one node on this machine, brought up in a second for the tests that need one."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue")

CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
AccountingStorageType=accounting_storage/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,bf_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=long Nodes={host} Default=YES MaxTime=INFINITE PriorityTier=1 DefMemPerCPU=100
PartitionName=short Nodes={host} MaxTime=60 PriorityTier=10 DefMemPerCPU=100
"""


def missing() -> str:
    """Why there can be no SLURM here; empty where there can."""
    if os.getuid() != 0:
        return "bringing up SLURM needs root"
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    return f"no {', '.join(absent)} here (Debian: slurmctld, slurmd, slurm-client, munge)" if absent else ""


def wait_until(condition, seconds=240.0, what="waited in vain"):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def _alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and that nobody has asked for, as in containers, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Slurm:
    """The daemons, with all that is theirs in one folder. Without accounting; partition `short` preempts `long`, whose
    jobs are queued again; one processor, so one job at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o711)
        (folder / "munge").chmod(0o711)
        key = folder / "munge" / "key"
        key.write_bytes(os.urandom(64))
        key.chmod(0o600)
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(2)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            ports = [each.getsockname()[1] for each in sockets]
        self.sweeps: list[subprocess.Popen[bytes]] = []
        conf = folder / "slurm.conf"
        conf.write_text(CONFIG.format(folder=folder, host=socket.gethostname().partition(".")[0], ports=ports))
        self.env = {**{k: v for k, v in os.environ.items() if not k.startswith("SLURM")}, "SLURM_CONF": str(conf)}

    def up(self) -> None:
        munge = self.folder / "munge"
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self.call("munged", "--force", *(f"--{flag}={munge / name}" for flag, name in files.items()))
        self.call("slurmctld")
        self.call("slurmd")
        wait_until(lambda: "idle" in self.call("sinfo", "--noheader", "--format=%T"), 30, "the node did not come up")

    def down(self) -> None:
        for sweep in self.sweeps:  # of a test that failed
            sweep.kill()
            sweep.wait()
        self.call("scancel", "--me")
        wait_until(lambda: not self.call("squeue", "--me", "--noheader"), 60, "jobs outlive the tests")
        for pid in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
            self.end(pid)

    def end(self, name: str) -> None:
        """End the daemon of a pid file."""
        pid = int((self.folder / name).read_text())
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not _alive(pid), 30, f"{name} did not end")

    def call(self, *words: str) -> str:
        return subprocess.run(
            words, env=self.env, capture_output=True, text=True, check=True, timeout=60, cwd=self.folder
        ).stdout
