"""The patches that RecBole 1.2.1 needs to train in several processes: one function per bug, as in `compat`.

A run of one process stays as it is. `apply` runs all of them.
"""

from __future__ import annotations

import datetime
import importlib
import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import is_file
from recbole_llminit.integration.checkpoints.trust import adopt
from recbole_llminit.integration.patches.evaluation_sampler import EachSampleOnce, give_sampler
from recbole_llminit.integration.patches.patching import Patches
from recbole_llminit.processes import TIMEOUT

_COLLECTED = ("rec.items", "rec.topk", "rec.meanrank", "rec.score", "data.label")
# A host that vanishes without closing its connection is missed at the next step of the training; one process may write
# a checkpoint while the others wait.
_TRAINING_TIMEOUT = datetime.timedelta(hours=6)
_MODULES_WITH_ENSURE_DIR = (
    "recbole.utils",
    "recbole.utils.utils",
    "recbole.utils.logger",
    "recbole.data.utils",
    "recbole.data.dataset.dataset",
    "recbole.trainer.trainer",
)

_patches = Patches()
_runs = itertools.count()
# The gloo group of the run that this process has joined, if there is one.
_joined: list[Any] = []


def apply() -> None:
    """Patch RecBole in this process; a second call changes nothing."""
    from recbole.config import Config
    from recbole.data.dataloader import FullSortEvalDataLoader, NegSampleEvalDataLoader
    from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
    from recbole.data.dataset import Dataset
    from recbole.evaluator import Collector
    from recbole.trainer.trainer import AbstractTrainer, PretrainTrainer, Trainer

    _patches.wrap(Config, "_init_device", join_on_any_device)
    _patches.wrap(AbstractTrainer, "__init__", train_on_any_device)
    _patches.wrap(Trainer, "__init__", name_one_checkpoint)
    _patches.wrap(Trainer, "evaluate", wait_for_the_checkpoint)
    _patches.wrap(AbstractDataLoader, "__init__", draw_in_workers_apart)
    for loader in (FullSortEvalDataLoader, NegSampleEvalDataLoader):
        _patches.wrap(loader, "__init__", evaluate_each_sample_once)
    _patches.wrap(Trainer, "_save_checkpoint", save_once)
    _patches.wrap(PretrainTrainer, "save_pretrained_model", save_pretrained_once)
    _patches.wrap(Dataset, "_download", download_without_waiting)
    _patches.wrap(Collector, "get_data_struct", evaluate_as_one_process)
    _patches.wrap(Trainer, "_map_reduce", keep_whole_results)
    for name in _MODULES_WITH_ENSURE_DIR:
        _patches.replace(importlib.import_module(name), "ensure_dir", make_folder)


def group_of_run(config: Any) -> Any | None:
    """Return the gloo group of a run's processes, in which they exchange CPU memory; None for a run of one process."""
    return None if config["single_spec"] else _joined[0]


def join_on_any_device(init_device: Callable[[Any], None]) -> Callable[[Any], None]:
    """Let processes meet without GPUs, and under torchrun.

    Where: ``recbole/config/configurator.py:476-516``.
    Bug: the backend is always NCCL, also where there is no GPU; and ``CUDA_VISIBLE_DEVICES`` becomes ``gpu_id``, by
    default "0", so that a second process has no GPU of its own. Where ``gpu_id`` is not given, this uses all GPUs of
    the host.
    """

    def joining(self: Any) -> None:
        settings = self.final_config_dict
        if "local_rank" not in settings:
            init_device(self)
            return
        local_rank = settings["local_rank"]
        n_gpus = _count_gpus(settings, self.external_config_dict.get("gpu_id"))
        _open_groups(settings, "nccl" if n_gpus else "gloo")
        settings["single_spec"] = False
        if n_gpus:
            settings["device"] = torch.device("cuda", local_rank)
            torch.cuda.set_device(local_rank)
        else:
            settings["device"] = torch.device("cpu")
        if local_rank + settings["offset"] != 0:
            settings.update(state="error", show_progress=False, verbose=False)

    return joining


def _count_gpus(settings: dict[str, Any], given: Any) -> int:
    """Return how many GPUs this process sees, after the ``gpu_id`` given; 0 for a run on the CPU.

    Raises
    ------
    LLMInitError
        If there are some, but fewer than processes.
    """
    if given is not None:
        ids = ",".join(str(number) for number in given) if isinstance(given, tuple | list) else str(given)
        settings["gpu_id"] = os.environ["CUDA_VISIBLE_DEVICES"] = ids
    n_gpus = 0 if given == "" else torch.cuda.device_count()
    if 0 < n_gpus < settings["nproc"]:
        raise LLMInitError(
            f"nproc is {settings['nproc']}, and this process sees {n_gpus} GPUs (gpu_id: {given}, "
            f"CUDA_VISIBLE_DEVICES: {os.environ.get('CUDA_VISIBLE_DEVICES')}): start as many processes as GPUs, name "
            f"more in gpu_id, or train on the CPU with gpu_id: ''"
        )
    return n_gpus


def _open_groups(settings: Mapping[str, Any], backend: str) -> None:
    """Open the process group of a run, in which it trains, and the gloo group, since NCCL has no tensors on the CPU."""
    if _joined and torch.distributed.is_initialized():
        # A run that failed has left its group open.
        torch.distributed.destroy_process_group()
    rank, world_size = settings["local_rank"] + settings["offset"], settings["world_size"]
    by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    address = "env://" if by_torchrun else f"tcp://{settings['ip']}:{settings['port']}"
    store, _, _ = next(rendezvous(address, rank, world_size))
    # Processes that torchrun started may do several runs: what one run left in the store would mislead the next.
    store = torch.distributed.distributed_c10d.PrefixStore(f"run {next(_runs)}", store)
    torch.distributed.init_process_group(
        backend, store=store, rank=rank, world_size=world_size, timeout=_TRAINING_TIMEOUT
    )
    _joined[:] = [torch.distributed.new_group(backend="gloo", timeout=TIMEOUT)]


def train_on_any_device(construct: Callable[..., None]) -> Callable[..., None]:
    """Let a trainer wrap a model that is on the CPU.

    Where: ``recbole/trainer/trainer.py:57-65``.
    Bug: ``DistributedDataParallel`` refuses ``device_ids`` for it, and torch has no SyncBatchNorm on the CPU: there
    each process normalizes its own part of a batch.
    """

    def constructing(self: Any, config: Any, model: Any) -> None:
        if config["single_spec"] or config["device"].type == "cuda":
            construct(self, config, model)
            return
        if not any(parameter.requires_grad for parameter in model.parameters()):
            raise LLMInitError(f"{config['model']} has nothing to train in several processes: leave out nproc")
        self.config, self.model = config, model
        self.distributed_model = DistributedDataParallel(model)

    return constructing


def name_one_checkpoint(construct: Callable[..., None]) -> Callable[..., None]:
    """Give the checkpoint the same name in all processes.

    Where: ``recbole/trainer/trainer.py:130``.
    Bug: each process puts its own time into the name, but only the first one writes the file that all of them read.
    """

    def constructing(self: Any, config: Any, model: Any) -> None:
        construct(self, config, model)
        if not config["single_spec"]:
            names = [self.saved_model_file]
            torch.distributed.broadcast_object_list(names, src=0, group=_joined[0])
            self.saved_model_file = names[0]

    return constructing


def save_once(save: Callable[..., None]) -> Callable[..., None]:
    """Let only the first process of all hosts write the checkpoint.

    Where: ``recbole/trainer/trainer.py:296``.
    Bug: the first process of each host writes, and hosts that share a file system write into the same file at once.
    """

    def saving(self: Any, epoch: int, verbose: bool = True, **options: Any) -> None:
        if self.config["single_spec"] or torch.distributed.get_rank() == 0:
            save(self, epoch, verbose, **options)

    return saving


def save_pretrained_once(save: Callable[[Any, int, str], None]) -> Callable[[Any, int, str], None]:
    """Let only the first process write what S3Rec and RaCT have pre-trained.

    Where: ``recbole/trainer/trainer.py:755-771``.
    Bug: all processes write into the same file at once, and it cannot be read.
    """

    def saving(self: Any, epoch: int, saved_model_file: str) -> None:
        if self.config["single_spec"] or torch.distributed.get_rank() == 0:
            save(self, epoch, saved_model_file)
        self.saved_model_file = saved_model_file

    return saving


def wait_for_the_checkpoint(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """Let no process read the checkpoint before the first one has written it.

    Where: ``recbole/trainer/trainer.py:581-590``.
    Bug: a process that is ahead of the first one reads an older checkpoint, or half of one.
    """

    def evaluating(self: Any, eval_data: Any, load_best_model: bool = True, *others: Any, **options: Any) -> Any:
        if load_best_model and not self.config["single_spec"]:
            torch.distributed.barrier(_joined[0])
            if is_file(self.saved_model_file):
                # The first process of this run has written it.
                adopt(self.saved_model_file)
        return evaluate(self, eval_data, load_best_model, *others, **options)

    return evaluating


def evaluate_each_sample_once(construct: Callable[..., None]) -> Callable[..., None]:
    """Evaluate each user in one process only.

    Where: ``recbole/data/dataloader/abstract_dataloader.py:60-64``.
    Bug: the sampler repeats users until all processes have as many, and they count twice. Training needs that;
    evaluation, where the processes do not wait for each other, does not.
    """

    def constructing(self: Any, config: Any, dataset: Any, sampler: Any, shuffle: bool = False) -> None:
        construct(self, config, dataset, sampler, shuffle)
        if config["single_spec"]:
            return
        rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        if self.sample_size < world_size:
            raise LLMInitError(
                f"there are {self.sample_size} users or interactions to evaluate, and {world_size} processes: set "
                f"nproc (or world_size) to no more, or split the data otherwise"
            )
        give_sampler(self, EachSampleOnce(self.sample_size, rank, world_size))

    return constructing


def draw_in_workers_apart(construct: Callable[..., None]) -> Callable[..., None]:
    """Let the workers of different processes (``worker: 1``) draw different negatives.

    Where: ``recbole/data/dataloader/abstract_dataloader.py:57-58``.
    Bug: torch seeds the workers by the loader's generator, which has the same seed in each process.
    """

    def constructing(self: Any, config: Any, *others: Any, **options: Any) -> None:
        construct(self, config, *others, **options)
        if not config["single_spec"]:
            self.generator.manual_seed(config["seed"] + torch.distributed.get_rank())

    return constructing


def evaluate_as_one_process(collect: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Give the evaluator of each process what all processes have collected, in the order of one process.

    Where: ``recbole/evaluator/collector.py:218``, ``recbole/trainer/trainer.py:627``.
    Bug: each process computes and rounds its own metrics, and RecBole takes the mean over processes, weighted by four
    times their batches instead of their users. Some metrics (coverage, Gini) are no mean over users at all.
    """

    def collecting(self: Any) -> Any:
        collected = collect(self)
        if self.config["single_spec"]:
            return collected
        own = {key: collected.get(key) for key in _COLLECTED if key in collected}
        parts: list[dict[str, Tensor]] = [{}] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, own, group=_joined[0])
        for key in {key for part in parts for key in part}:
            collected.set(key, _in_order([part[key] for part in parts if key in part]))
        return collected

    return collecting


def _in_order(parts: list[Tensor]) -> Tensor:
    """Join parts that were dealt out in turn; parts with several rows per sample stay in the order of the processes."""
    whole = torch.cat(parts)
    if [len(part) for part in parts] == [len(range(rank, len(whole), len(parts))) for rank in range(len(parts))]:
        for rank, part in enumerate(parts):
            whole[rank :: len(parts)] = part
    return whole


def download_without_waiting(download: Callable[[Any], None]) -> Callable[[Any], None]:
    """Download a dataset without waiting for others.

    Where: ``recbole/data/dataset/dataset.py:229-254``.
    Bug: the download ends in a barrier, which raises in a run of one process. In a run of several processes, this
    package lets the first one download before the others look.
    """

    def downloading(self: Any) -> None:
        barrier: Any = torch.distributed.barrier
        torch.distributed.barrier = lambda *_, **__: None
        try:
            download(self)
        finally:
            torch.distributed.barrier = barrier

    return downloading


def keep_whole_results(reduce: Callable[..., Any]) -> Callable[..., Any]:
    """Take the metrics as they are, without a mean over processes.

    Where: ``recbole/trainer/trainer.py:628,632-643``.
    Bug: the mean is over parts of the users; here every process has evaluated all of them (`evaluate_as_one_process`).
    """
    return lambda self, result, num_sample: result


def make_folder(dir_path: str) -> None:
    """Make a folder, or leave it where there is one.

    Where: ``recbole/utils/utils.py:45-53``.
    Bug: RecBole first looks and then makes the folder; where two processes do so at once, one dies.
    """
    Path(dir_path).mkdir(parents=True, exist_ok=True)
