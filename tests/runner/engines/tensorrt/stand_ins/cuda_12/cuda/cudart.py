"""The same module where it stood before cuda-python 12.8."""

from edgevit.runner.engines.tensorrt.cuda_library import CudaLibrary

_library = CudaLibrary()


def __getattr__(name):
    return getattr(_library, name)
