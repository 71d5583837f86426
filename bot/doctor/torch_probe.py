"""Probe torch and the GPU in a one-shot process; `python -m bot.doctor.torch_probe` prints the result as JSON.

The doctor's process never imports torch. Any failure of torch or a driver, a crash included, becomes a sentence in
`Torch.trouble`.
"""

import asyncio
import contextlib
import ctypes
import gc
import json
import sys
import warnings
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from bot.models.hardware import Hardware, child_environment, detect


@dataclass(frozen=True, slots=True)
class Torch:
    """The installed torch. cuda: the CUDA version of its build, '' for none. driver_cuda: the newest CUDA version that
    the driver supports, '' without a driver. gpus: names. trouble: why torch or the GPU cannot be used, or ''."""

    version: str = ""
    cuda: str = ""
    driver_cuda: str = ""
    gpus: tuple[str, ...] = ()
    trouble: str = ""
    hardware: Hardware | None = None

    @property
    def built_for(self) -> str:
        """The platform of the build with its version, such as 'CUDA 12.4' or 'ROCm 6.2'."""
        return self.cuda if self.cuda.startswith("ROCm") else f"CUDA {self.cuda}"


async def run_probe(cache_dir: Path | None = None) -> Torch:
    """Run the probe in a one-shot process. Takes some seconds; cancelling kills the process. cache_dir: of `detect`."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "bot.doctor.torch_probe", *([] if cache_dir is None else [str(cache_dir)]))
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=child_environment())
    try:
        printed, errors = await process.communicate()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    lines = printed.decode(errors="replace").splitlines()
    if process.returncode or not lines:
        last = (errors.decode(errors="replace").strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        return Torch(trouble=last)
    found = json.loads(lines[-1])
    hardware = Hardware.from_data(found.pop("hardware"))
    return Torch(**{**found, "gpus": tuple(found["gpus"])}, hardware=hardware)


def probe(cache_dir: Path | None = None) -> Torch:
    """Probe torch in this process, which imports it."""
    import torch

    cuda = torch.version.cuda or (f"ROCm {torch.version.hip}" if torch.version.hip else "")
    gpus: list[str] = []
    trouble = ""
    if cuda:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.cuda.init()  # unlike is_available(), it raises with the reason
                gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
                torch.ones(1, device="cuda").add(1).item()  # a build without kernels for this GPU only fails here
        except Exception as error:
            trouble = str(error).strip().partition("\n")[0]
    hardware = detect("cpu" if trouble else "auto", cache_dir=cache_dir)
    return Torch(str(torch.__version__), cuda, driver_cuda(), tuple(gpus), trouble, hardware)


def driver_cuda() -> str:
    """The newest CUDA version that NVIDIA's driver supports, such as '12.4'; '' without a driver."""
    try:
        number = ctypes.c_int()
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(number)):
            return ""
    except (OSError, AttributeError):
        return ""
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


if __name__ == "__main__":
    gc.disable()  # a quarter of the time of importing torch
    found = probe(*map(Path, sys.argv[1:]))
    print(json.dumps({field.name: getattr(found, field.name) for field in fields(found)}, default=asdict))
