"""cuda-python's module of the CUDA runtime, its functions called in the stub of libcudart."""

from edgevit.runner.engines.tensorrt.cuda_library import CudaLibrary

_library = CudaLibrary()


def __getattr__(name):
    return getattr(_library, name)
