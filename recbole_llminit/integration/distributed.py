"""What RecBole 1.2.1 needs to train in several processes: one function per ailment, as in `compat`.

A run of one process is left as it is. `apply` runs all of them.
"""

from __future__ import annotations

import datetime
import functools
import importlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Tensor
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from recbole_llminit.errors import LLMInitError
from recbole_llminit.files import is_file
from recbole_llminit.integration import checkpoint
from recbole_llminit.processes import TIMEOUT

_PER_EVALUATION = ("rec.items", "rec.topk", "rec.meanrank", "rec.score", "data.label")

_runs = itertools.count()
# The group on the CPU of the run that this process has joined.
_joined: list[Any] = []
# A host that goes without a word is missed at the next step; one process may write a checkpoint while the others wait.
_TRAINING_TIMEOUT = datetime.timedelta(hours=6)
_MODULES_WITH_ENSURE_DIR = (
    "recbole.utils",
    "recbole.utils.utils",
    "recbole.utils.logger",
    "recbole.data.utils",
    "recbole.data.dataset.dataset",
    "recbole.trainer.trainer",
)


def apply() -> None:
    """Mend RecBole in this process; calling it again does nothing more."""
    from recbole.config import Config
    from recbole.data.dataloader import FullSortEvalDataLoader, NegSampleEvalDataLoader
    from recbole.data.dataloader.abstract_dataloader import AbstractDataLoader
    from recbole.data.dataset import Dataset
    from recbole.evaluator import Collector
    from recbole.trainer.trainer import AbstractTrainer, PretrainTrainer, Trainer

    _replace(Config, "_init_device", join_on_any_device)
    _replace(AbstractTrainer, "__init__", train_on_any_device)
    _replace(Trainer, "__init__", name_one_checkpoint)
    _replace(Trainer, "evaluate", wait_for_the_checkpoint)
    _replace(AbstractDataLoader, "__init__", draw_in_workers_apart)
    for loader in (FullSortEvalDataLoader, NegSampleEvalDataLoader):
        _replace(loader, "__init__", deal_out_each_sample_once)
    _replace(Trainer, "_save_checkpoint", save_once)
    _replace(PretrainTrainer, "save_pretrained_model", save_pretrained_once)
    _replace(Dataset, "_download", download_without_waiting)
    _replace(Collector, "get_data_struct", evaluate_as_one_process)
    _replace(Trainer, "_map_reduce", keep_whole_results)
    for name in _MODULES_WITH_ENSURE_DIR:
        importlib.import_module(name).ensure_dir = make_folder  # type: ignore[attr-defined]


def _replace(owner: type, name: str, mend: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    stock = getattr(owner, name)
    if not hasattr(stock, "mended"):
        mended: Any = functools.wraps(stock)(mend(stock))
        mended.mended = True
        setattr(owner, name, mended)


def group_of_run(config: Any) -> Any | None:
    """Return the gloo group of a run's processes, in which they exchange what lies in memory; None for a run of one."""
    return None if config["single_spec"] else _joined[0]


def join_on_any_device(init_device: Callable[[Any], None]) -> Callable[[Any], None]:
    """Let processes meet without GPUs, and under torchrun.

    Where: ``recbole/config/configurator.py:476-516``.
    Ailment: the backend is always NCCL, also where there is no GPU; and ``CUDA_VISIBLE_DEVICES`` becomes ``gpu_id``, by
    default "0", so that a second process has no GPU of its own. Where ``gpu_id`` is not given, all GPUs of the host are
    used here.
    """

    def joining(self: Any) -> None:
        settings = self.final_config_dict
        if "local_rank" not in settings:
            init_device(self)
            return
        local_rank, nproc = settings["local_rank"], settings["nproc"]
        given = self.external_config_dict.get("gpu_id")
        if given is not None:
            ids = ",".join(str(number) for number in given) if isinstance(given, tuple | list) else str(given)
            settings["gpu_id"] = os.environ["CUDA_VISIBLE_DEVICES"] = ids
        gpus = 0 if given == "" else torch.cuda.device_count()
        if 0 < gpus < nproc:
            raise LLMInitError(
                f"nproc is {nproc}, and this process sees {gpus} GPUs (gpu_id: {given}, CUDA_VISIBLE_DEVICES: "
                f"{os.environ.get('CUDA_VISIBLE_DEVICES')}): start as many processes as GPUs, name more in gpu_id, or "
                f"train on the CPU with gpu_id: ''"
            )
        if _joined and torch.distributed.is_initialized():
            # What a run that failed has left.
            torch.distributed.destroy_process_group()
        rank, world = local_rank + settings["offset"], settings["world_size"]
        by_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
        place = "env://" if by_torchrun else f"tcp://{settings['ip']}:{settings['port']}"
        store, _, _ = next(rendezvous(place, rank, world))
        # Processes that torchrun started may do several runs: what one left in the store would mislead the next.
        store = torch.distributed.distributed_c10d.PrefixStore(f"run {next(_runs)}", store)
        torch.distributed.init_process_group(
            "nccl" if gpus else "gloo", store=store, rank=rank, world_size=world, timeout=_TRAINING_TIMEOUT
        )
        # NCCL knows no tensors on the CPU.
        _joined[:] = [torch.distributed.new_group(backend="gloo", timeout=TIMEOUT)]
        settings["device"] = torch.device("cuda", local_rank) if gpus else torch.device("cpu")
        settings["single_spec"] = False
        if gpus:
            torch.cuda.set_device(local_rank)
        if local_rank + settings["offset"] != 0:
            settings["state"] = "error"
            settings["show_progress"] = False
            settings["verbose"] = False

    return joining


def train_on_any_device(construct: Callable[..., None]) -> Callable[..., None]:
    """Let a trainer wrap a model that is on the CPU.

    Where: ``recbole/trainer/trainer.py:57-65``.
    Ailment: ``DistributedDataParallel`` refuses ``device_ids`` for it, and torch has no SyncBatchNorm on the CPU: there
    each process normalises its own part of a batch.
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
    Ailment: each process puts its own time into the name; only the first one writes, and all read.
    """

    def constructing(self: Any, config: Any, model: Any) -> None:
        construct(self, config, model)
        if not config["single_spec"]:
            names = [self.saved_model_file]
            torch.distributed.broadcast_object_list(names, src=0, group=_joined[0])
            self.saved_model_file = names[0]

    return constructing


def save_once(save: Callable[..., None]) -> Callable[..., None]:
    """Let the first process of all hosts alone write the checkpoint.

    Where: ``recbole/trainer/trainer.py:296``.
    Ailment: the first process of each host writes, and hosts that share a file system write into the same file at once.
    """

    def saving(self: Any, epoch: int, verbose: bool = True, **options: Any) -> None:
        if self.config["single_spec"] or torch.distributed.get_rank() == 0:
            save(self, epoch, verbose, **options)

    return saving


def save_pretrained_once(save: Callable[[Any, int, str], None]) -> Callable[[Any, int, str], None]:
    """Let the first process alone write what S3Rec and RaCT have pre-trained.

    Where: ``recbole/trainer/trainer.py:755-771``.
    Ailment: all processes write into the same file at once, and it cannot be read.
    """

    def saving(self: Any, epoch: int, saved_model_file: str) -> None:
        if self.config["single_spec"] or torch.distributed.get_rank() == 0:
            save(self, epoch, saved_model_file)
        self.saved_model_file = saved_model_file

    return saving


def wait_for_the_checkpoint(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """Let no process read the checkpoint before the first one has written it.

    Where: ``recbole/trainer/trainer.py:581-590``.
    """

    def evaluating(self: Any, eval_data: Any, load_best_model: bool = True, *others: Any, **options: Any) -> Any:
        if load_best_model and not self.config["single_spec"]:
            torch.distributed.barrier(_joined[0])
            if is_file(self.saved_model_file):
                # The first process has written it.
                checkpoint.adopt(self.saved_model_file)
        return evaluate(self, eval_data, load_best_model, *others, **options)

    return evaluating


def deal_out_each_sample_once(construct: Callable[..., None]) -> Callable[..., None]:
    """Evaluate each user in one process only.

    Where: ``recbole/data/dataloader/abstract_dataloader.py:60-64``.
    Ailment: the sampler repeats users until all processes have as many, and they count twice. Training needs that;
    evaluation, where the processes do not wait for each other, does not.
    """

    def constructing(self: Any, config: Any, dataset: Any, sampler: Any, shuffle: bool = False) -> None:
        construct(self, config, dataset, sampler, shuffle)
        if not config["single_spec"]:
            dealt = self.sampler
            if self.sample_size < dealt.num_replicas:
                raise LLMInitError(
                    f"there are {self.sample_size} users or interactions to evaluate, and {dealt.num_replicas} "
                    f"processes: set nproc (or world_size) to no more, or split the data otherwise"
                )
            dealt.drop_last, dealt.total_size = True, self.sample_size
            dealt.num_samples = len(range(dealt.rank, self.sample_size, dealt.num_replicas))

    return constructing


def draw_in_workers_apart(construct: Callable[..., None]) -> Callable[..., None]:
    """Let the workers of different processes (``worker: 1``) draw different negatives.

    Where: ``recbole/data/dataloader/abstract_dataloader.py:57-58``.
    Ailment: torch seeds the workers by the loader's generator, which has the same seed in each process.
    """

    def constructing(self: Any, config: Any, *others: Any, **options: Any) -> None:
        construct(self, config, *others, **options)
        if not config["single_spec"]:
            self.generator.manual_seed(config["seed"] + torch.distributed.get_rank())

    return constructing


def evaluate_as_one_process(collect: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Give the evaluator what all processes have collected, in the order of one process.

    Where: ``recbole/evaluator/collector.py:218``, ``recbole/trainer/trainer.py:627``.
    Ailment: each process computes and rounds its own metrics, and the mean over processes weighs them by four times
    their batches, not by their users. Some metrics (coverage, Gini) are no mean over users at all.
    """

    def collecting(self: Any) -> Any:
        collected = collect(self)
        if self.config["single_spec"]:
            return collected
        own = {key: collected.get(key) for key in _PER_EVALUATION if key in collected}
        parts: list[dict[str, Tensor]] = [{}] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, own, group=_joined[0])
        for key in {key for part in parts for key in part}:
            collected.set(key, _in_order([part[key] for part in parts if key in part]))
        return collected

    return collecting


def _in_order(parts: list[Tensor]) -> Tensor:
    """Join what was dealt out in turn; what has several rows per sample stays in the order of the processes."""
    whole = torch.cat(parts)
    if [len(part) for part in parts] == [len(range(rank, len(whole), len(parts))) for rank in range(len(parts))]:
        for rank, part in enumerate(parts):
            whole[rank :: len(parts)] = part
    return whole


def download_without_waiting(download: Callable[[Any], None]) -> Callable[[Any], None]:
    """Download a dataset without waiting for others.

    Where: ``recbole/data/dataset/dataset.py:229-254``.
    Ailment: it ends in a barrier, which raises in a run of one process; of several, the first one downloads here before
    the others look.
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
    """Take the metrics as they are, since every process has evaluated all users: `evaluate_as_one_process`."""
    return lambda self, result, num_sample: result


def make_folder(dir_path: str) -> None:
    """Make a folder where there is none.

    Where: ``recbole/utils/utils.py:45-53``.
    Ailment: RecBole looks first and makes it then; of two processes that do so at once, one dies.
    """
    Path(dir_path).mkdir(parents=True, exist_ok=True)
