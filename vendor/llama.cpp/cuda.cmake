# Prepares the build of upstream's CUDA backend: the toolkit, the architectures, the language.

find_package(CUDAToolkit REQUIRED)
if(NOT TARGET CUDA::cublas OR NOT TARGET CUDA::cudart_static)
  message(FATAL_ERROR "The CUDA toolkit in ${CUDAToolkit_LIBRARY_DIR} has no cuBLAS or no static "
    "runtime; install them, or leave out APEX_GGML_CUDA")
endif()

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND NOT DEFINED ENV{CUDAARCHS})
  set(gpus)
  if(APEX_NATIVE)
    execute_process(COMMAND nvidia-smi --list-gpus
      OUTPUT_VARIABLE gpus ERROR_QUIET RESULT_VARIABLE failed)
  endif()
  if(gpus AND NOT failed)
    set(CMAKE_CUDA_ARCHITECTURES native)
  else() # upstream's list for other machines: where there is no GPU it takes "native" nevertheless
    set(CMAKE_CUDA_ARCHITECTURES 75-virtual 80-virtual 86-real 89-real 90-virtual)
    if(CUDAToolkit_VERSION VERSION_LESS 13)
      list(PREPEND CMAKE_CUDA_ARCHITECTURES 50-virtual 61-virtual 70-virtual)
    endif()
    if(CUDAToolkit_VERSION VERSION_GREATER_EQUAL 12.8)
      list(APPEND CMAKE_CUDA_ARCHITECTURES 120a-real)
    endif()
    if(CUDAToolkit_VERSION VERSION_GREATER_EQUAL 12.9)
      list(APPEND CMAKE_CUDA_ARCHITECTURES 121a-real)
    endif()
  endif()
endif()

set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
enable_language(CUDA)
