"""A graph in ONNX Runtime, where it was asked to run, and nowhere else without a word."""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
import weakref
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from spikgpt.errors import DamagedReference, GraphError, install_command, needs
from spikgpt.options import EngineOptions, cores
from spikgpt.reference.json_files import parsed

# What ONNX Runtime calls each kind of device. TensorRT hands CUDA what it cannot run.
PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}
DTYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
ELSEWHERE = "session.model_external_initializers_file_folder_path"
SMALLER = "Try a smaller batch_size, or run `spikgpt doctor`."
REMEDY = "Run `spikgpt doctor`, or take provider 'cpu' or 'auto'."


def workers(options: EngineOptions) -> int:
    """Return how many batches to run at a time on a CPU."""
    return cores() if options.threads is None else options.threads


class Session:
    """A graph, ready to run, on a number of threads within a batch.

    ``content`` is the graph itself, which :mod:`spikgpt_onnx.reading` reads first, unless it is ``known`` to be one of
    this library's own. Where ONNX Runtime is missing, installed twice, too old for the graph, or has no such device, a
    GraphError says so.
    """

    def __init__(
        self, content: bytes, options: EngineOptions | None = None, *, threads: int = 1, known: bool = False
    ) -> None:
        self.options = options or EngineOptions()
        if not known:
            with needs("onnx"):
                from spikgpt_onnx.reading import read
            read(content)
        self._content, self._threads = content, threads
        self._session, self.provider = _opened(content, self.options, threads)
        _SESSIONS.add(self)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        taken = [*self._session.get_inputs(), *self._session.get_overridable_initializers()]
        self._dtypes = {node.name: DTYPES.get(node.type) for node in taken}
        self._outputs = [node.name for node in self._session.get_outputs()]

    @classmethod
    def of(
        cls, files: Mapping[str, bytes], name: str, options: EngineOptions | None = None, *, threads: int = 1
    ) -> Session:
        """Open one graph of a reference, whose files were verified.

        One that carries other labels, thresholds or genes than the files beside it is a DamagedReference.
        """
        if name not in files:
            raise missing(name)
        session = cls(files[name], options, threads=threads)
        for file in ("labels.json", "thresholds.json"):
            what = file.removesuffix(".json")
            if parsed(session.metadata.get(what, "null").encode(), name) != parsed(files[file], file):
                msg = f"{name} carries other {what} than {file}. Export the reference again."
                raise DamagedReference(msg)
        if session.metadata.get("genes_sha256") != parsed(files["genes.json"], "genes.json")["sha256"]:
            msg = f"{name} was made for other genes, or another order of them, than genes.json. Export it again."
            raise DamagedReference(msg)
        return session

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run one batch, and return every output by name; several threads may do so at a time.

        Inputs are arrays by name, as :mod:`spikgpt_onnx.contract` has them; those with a default may be left out.
        """
        session = self._usable_session()
        feeds = {name: np.asarray(array, dtype=self._dtypes.get(name), order="C") for name, array in inputs.items()}
        try:
            if self.provider == "cpu" or not self.options.io_binding:
                found = session.run(self._outputs, feeds)
            else:
                binding = session.io_binding()
                for name, array in feeds.items():
                    binding.bind_cpu_input(name, array)
                for name in self._outputs:
                    binding.bind_output(name)
                session.run_with_iobinding(binding)
                found = binding.copy_outputs_to_cpu()
        except Exception as error:  # noqa: BLE001, onnxruntime's errors share no other base
            msg = f"ONNX Runtime cannot run this batch on {self.provider}: {_one_line(error)}. {SMALLER}"
            raise GraphError(msg) from None
        return dict(zip(self._outputs, found, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: the graph, and not the open session."""
        return vars(self) | {"_session": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of another session; the graph is opened when it is first run."""
        vars(self).update(state)
        _SESSIONS.add(self)

    def _usable_session(self) -> Any:
        """Return the session of onnxruntime, opened again in a copy and in a forked process."""
        if self._session is None:
            with _OPENING:
                if self._session is None:
                    self._session, self.provider = _opened(self._content, self.options, self._threads)
        return self._session


def _forget_sessions() -> None:
    """Let a forked process open its graphs anew: the threads of the open sessions stayed in the other process.

    These sessions are never freed, as that would wait for their threads for ever.
    """
    global _OPENING
    _OPENING = threading.Lock()
    for session in list(_SESSIONS):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session._session))
        session._session = None


# Sessions that are open, and what a thread holds that opens one.
_SESSIONS: weakref.WeakSet[Session] = weakref.WeakSet()
_OPENING = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_sessions)


def missing(name: str) -> GraphError:
    """Return the error of a reference that has no such graph."""
    return GraphError(f"This reference has no {name}; make it with: spikgpt export MODEL --out FOLDER")


def onnxruntime_module() -> ModuleType:
    """Return the onnxruntime module; where two distributions of it are installed, they break each other."""
    installed = installed_distributions()
    if len(installed) > 1:
        msg = (
            f"{' and '.join(installed)} are both installed, into one folder, and break each other. "
            "Run: pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them."
        )
        raise GraphError(msg)
    try:
        # Else newer versions write an identifier of the machine into the home folder, and report to its maker.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime
    except ImportError as error:
        remedy = f"Run: {install_command('onnxruntime')}, or onnxruntime-gpu, not both."
        msg = f"ONNX Runtime cannot be imported ({error}). {remedy}"
        raise GraphError(msg) from None
    module: ModuleType = onnxruntime
    return module


def installed_distributions() -> list[str]:
    """Return the names and versions of the distributions of ONNX Runtime that are installed."""
    found = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return found


def _opened(content: bytes, options: EngineOptions, threads: int) -> tuple[Any, str]:
    """Return a session of onnxruntime, and the provider that it runs on."""
    onnxruntime = onnxruntime_module()
    if options.provider != "auto":
        return _session(onnxruntime, content, options, options.provider, threads), options.provider
    try:
        return _session(onnxruntime, content, options, "cuda", threads), "cuda"
    except GraphError:
        return _session(onnxruntime, content, options, "cpu", threads), "cpu"


def _session(onnxruntime: ModuleType, content: bytes, options: EngineOptions, provider: str, threads: int) -> Any:
    """Return a session on one provider, or say why there is none."""
    wanted = PROVIDERS[provider]
    if wanted[0] not in onnxruntime.get_available_providers():
        msg = (
            f"{' and '.join(installed_distributions()) or 'This ONNX Runtime'} has no {provider}. "
            f"Run: pip uninstall -y onnxruntime, then {install_command('onnxruntime-gpu')}; "
            "or take provider 'cpu' or 'auto'."
        )
        raise GraphError(msg)
    settings = onnxruntime.SessionOptions()
    # Errors alone, and those are raised: that a GPU is missing is told below.
    settings.log_severity_level = 4
    settings.intra_op_num_threads = threads
    settings.enable_cpu_mem_arena = options.memory_arena
    if provider != "cpu" and options.whole_graph:
        # Else ONNX Runtime runs on the CPU what the GPU cannot, without a word.
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    engines: dict[str, Any] = {}
    if provider == "tensorrt" and options.engine_cache is not None:
        engines = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(options.engine_cache)}
    try:
        providers = [(wanted[0], engines), *((name, {}) for name in wanted[1:])]
        # Graphs that name other files are refused before. Should one not be, this is where such files are sought, by
        # versions of ONNX Runtime that know the setting, and not in the working directory.
        with tempfile.TemporaryDirectory() as empty:
            settings.add_session_config_entry(ELSEWHERE, empty)
            session = onnxruntime.InferenceSession(content, settings, providers)
    except Exception as error:  # noqa: BLE001, onnxruntime's errors share no other base
        remedy = "Update onnxruntime, or export the reference again." if provider == "cpu" else REMEDY
        by = f"onnxruntime {onnxruntime.__version__}"
        msg = f"The graph cannot be run on {provider} by {by}: {_one_line(error)}. {remedy}"
        raise GraphError(msg) from None
    if (taken := session.get_providers()[0]) != wanted[0]:
        msg = (
            f"ONNX Runtime took {taken} instead of {provider}: there is no such device, or its driver, CUDA or cuDNN "
            f"is missing. {REMEDY}"
        )
        raise GraphError(msg)
    return session


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
