"""Sessions of ONNX Runtime on the device that the options name."""

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
from spikgpt.options import EngineOptions
from spikgpt.reference.json_files import parsed

# ONNX Runtime's providers for each device. CUDA runs the operators that TensorRT does not have.
PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider",),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
}
DTYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
REMEDY = "Run `spikgpt doctor`, or pass provider 'cpu' or 'auto'."


class Session:
    """An open graph that runs on ``threads`` threads within a batch.

    ``content`` holds the bytes of the graph. A graph that this library built is ``trusted``. Any other graph is first
    checked by :func:`spikgpt.engines.read_graph.read_graph`. A GraphError is raised if ONNX Runtime is missing,
    installed twice or too old for the graph, or does not support the device.
    """

    def __init__(
        self, content: bytes, options: EngineOptions | None = None, *, threads: int = 1, trusted: bool = False
    ) -> None:
        self.options = options or EngineOptions()
        if not trusted:
            with needs("onnx"):
                from spikgpt.engines.read_graph import read_graph
            read_graph(content)
        self._content, self._threads = content, threads
        self._session, self.provider = _open(content, self.options, threads)
        _SESSIONS.add(self)
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        inputs = [*self._session.get_inputs(), *self._session.get_overridable_initializers()]
        self._dtypes = {node.name: DTYPES.get(node.type) for node in inputs}
        self._outputs = [node.name for node in self._session.get_outputs()]

    @classmethod
    def from_files(
        cls, files: Mapping[str, bytes], name: str, options: EngineOptions | None = None, *, threads: int = 1
    ) -> Session:
        """Open the graph ``name`` among the verified files of a reference.

        A DamagedReference is raised if the metadata of the graph has other labels, thresholds or genes than the files.
        """
        session = cls(files[name], options, threads=threads)
        for file in ("labels.json", "thresholds.json"):
            key = file.removesuffix(".json")
            if parsed(session.metadata.get(key, "null").encode(), name) != parsed(files[file], file):
                msg = f"{name} has other {key} than {file}. Export the reference again."
                raise DamagedReference(msg)
        if session.metadata.get("genes_sha256") != parsed(files["genes.json"], "genes.json")["sha256"]:
            msg = f"{name} was made for other genes, or another order of genes, than genes.json. Export it again."
            raise DamagedReference(msg)
        return session

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Run one batch and return every output by name; several threads may call this method at the same time.

        ``inputs`` maps the names of :mod:`spikgpt.engines.contract` to arrays. Inputs with a default may be left out.
        """
        session = self._usable_session()
        feeds = {name: np.asarray(array, dtype=self._dtypes.get(name), order="C") for name, array in inputs.items()}
        try:
            if self.provider == "cpu" or not self.options.io_binding:
                outputs = session.run(self._outputs, feeds)
            else:
                binding = session.io_binding()
                for name, array in feeds.items():
                    binding.bind_cpu_input(name, array)
                for name in self._outputs:
                    binding.bind_output(name)
                session.run_with_iobinding(binding)
                outputs = binding.copy_outputs_to_cpu()
        except Exception as error:  # noqa: BLE001, onnxruntime's errors share no other base
            msg = (
                f"ONNX Runtime cannot run this batch on {self.provider}: {_one_line(error)}. Try a smaller batch_size, "
                "or run `spikgpt doctor`."
            )
            raise GraphError(msg) from None
        return dict(zip(self._outputs, outputs, strict=True))

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes for a copy or a pickle, without the open session."""
        return vars(self) | {"_session": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy; its graph is opened at the first run."""
        vars(self).update(state)
        _SESSIONS.add(self)

    def _usable_session(self) -> Any:
        """Return the session of onnxruntime; a copy and a forked process open the graph again."""
        if self._session is None:
            with _OPENING:
                if self._session is None:
                    self._session, self.provider = _open(self._content, self.options, self._threads)
        return self._session


def _forget_sessions() -> None:
    """Make a forked process open its graphs again, as the threads of the open sessions stayed in the parent process.

    The old sessions are never freed, because freeing a session waits for its threads for ever.
    """
    global _OPENING
    _OPENING = threading.Lock()
    for session in list(_SESSIONS):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session._session))
        session._session = None


# All sessions of this process, and a lock for opening a session.
_SESSIONS: weakref.WeakSet[Session] = weakref.WeakSet()
_OPENING = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_sessions)


def onnxruntime_module() -> ModuleType:
    """Return the onnxruntime module; raise GraphError for two installed distributions, which break each other."""
    installed = installed_distributions()
    if len(installed) > 1:
        msg = (
            f"{' and '.join(installed)} are both installed, into one folder, and break each other. "
            "Run: pip uninstall -y onnxruntime onnxruntime-gpu, then install one of the two."
        )
        raise GraphError(msg)
    try:
        # Else newer ONNX Runtimes write an identifier of the machine into the home folder and report to Microsoft.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime
    except ImportError as error:
        msg = (
            f"ONNX Runtime cannot be imported ({error}). Run: {install_command('onnxruntime')}, or onnxruntime-gpu, "
            "not both. Or pass engine 'numpy'."
        )
        raise GraphError(msg) from None
    module: ModuleType = onnxruntime
    return module


def installed_distributions() -> list[str]:
    """Return name and version of each installed distribution of ONNX Runtime."""
    installed = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        with suppress(PackageNotFoundError):
            installed.append(f"{name} {version(name)}")
    return installed


def _open(content: bytes, options: EngineOptions, threads: int) -> tuple[Any, str]:
    onnxruntime = onnxruntime_module()
    if options.provider != "auto":
        return _open_on(onnxruntime, content, options, options.provider, threads), options.provider
    try:
        return _open_on(onnxruntime, content, options, "cuda", threads), "cuda"
    except GraphError:
        return _open_on(onnxruntime, content, options, "cpu", threads), "cpu"


def _open_on(onnxruntime: ModuleType, content: bytes, options: EngineOptions, provider: str, threads: int) -> Any:
    """Return a session of onnxruntime on one provider; raise GraphError if the provider does not work here."""
    names = PROVIDERS[provider]
    if names[0] not in onnxruntime.get_available_providers():
        msg = (
            f"{' and '.join(installed_distributions()) or 'This ONNX Runtime'} has no {provider}. "
            f"Run: pip uninstall -y onnxruntime, then {install_command('onnxruntime-gpu')}; "
            "or pass provider 'cpu' or 'auto'."
        )
        raise GraphError(msg)
    settings = onnxruntime.SessionOptions()
    # Only fatal errors are logged, because other errors are raised, and a missing GPU is reported below.
    settings.log_severity_level = 4
    settings.intra_op_num_threads = threads
    settings.enable_cpu_mem_arena = options.memory_arena
    if provider != "cpu" and options.whole_graph:
        # Without this entry, ONNX Runtime silently runs operators that the GPU does not have on the CPU.
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    provider_options: dict[str, Any] = {}
    if provider == "tensorrt" and options.engine_cache is not None:
        provider_options = {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(options.engine_cache)}
    try:
        providers = [(names[0], provider_options), *((name, {}) for name in names[1:])]
        # Graphs that name other files have been refused already. As a second guard, versions of ONNX Runtime with
        # this setting look for the named files in an empty folder, not in the working directory.
        with tempfile.TemporaryDirectory() as empty:
            settings.add_session_config_entry(EXTERNAL_FOLDER, empty)
            session = onnxruntime.InferenceSession(content, settings, providers)
    except Exception as error:  # noqa: BLE001, onnxruntime's errors share no other base
        remedy = "Update onnxruntime, or export the reference again." if provider == "cpu" else REMEDY
        library = f"onnxruntime {onnxruntime.__version__}"
        msg = f"The graph cannot be run on {provider} by {library}: {_one_line(error)}. {remedy}"
        raise GraphError(msg) from None
    if (used := session.get_providers()[0]) != names[0]:
        msg = (
            f"ONNX Runtime took {used} instead of {provider}: there is no such device, or its driver, CUDA or cuDNN "
            f"is missing. {REMEDY}"
        )
        raise GraphError(msg)
    return session


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
