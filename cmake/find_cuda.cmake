# Finds the CUDA compiler that WSOL_CUDA asks for, before `enable_language(CUDA)`.
#
#   AUTO  the one on PATH or in CUDACXX, where there is one
#   ON    the same, and an error where there is none
#   PIP   NVIDIA's compiler as a Python package: cuda-toolkit[nvcc,cudart,cccl], which `WSOL_CUDA=PIP pip install .`
#         brings into the build by itself (see pyproject.toml)
#   OFF   none
#
# Sets WSOL_WITHOUT_CUDA: why the kernels are not built, for `wsol info`; empty where they are. And WSOL_NVCC_RELEASE: the
# compiler's, as 12.8; empty where it does not say.

# The folder nvidia/cu* of the environment's packages that holds an nvcc; empty where none does.
function(wsol_find_packaged_toolkit result)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c "import nvidia, pathlib
for folder in nvidia.__path__:
    for nvcc in sorted(pathlib.Path(folder).glob('cu*/bin/nvcc'), reverse=True):
        print(nvcc.parents[1])"
    OUTPUT_VARIABLE found ERROR_QUIET)
  string(REGEX MATCH "^[^\n]*" first "${found}")
  set(${result} "${first}" PARENT_SCOPE)
endfunction()

set(WSOL_WITHOUT_CUDA "WSOL_CUDA was OFF at installation")
if(WSOL_CUDA STREQUAL "OFF")
  return()
endif()

if(WSOL_CUDA STREQUAL "PIP")
  wsol_find_packaged_toolkit(WSOL_PACKAGED_TOOLKIT)
  if(NOT WSOL_PACKAGED_TOOLKIT)
    message(FATAL_ERROR "WSOL_CUDA=PIP, but this Python environment has no nvcc: pip install 'cuda-toolkit[nvcc,cudart,cccl]'")
  endif()
  set(CMAKE_CUDA_COMPILER "${WSOL_PACKAGED_TOOLKIT}/bin/nvcc")
  # nvcc looks for its libraries in lib64, the package has them in lib. LIBRARY_PATH serves CMake's own trials, the
  # module's link line gets the folder below.
  set(ENV{LIBRARY_PATH} "${WSOL_PACKAGED_TOOLKIT}/lib:$ENV{LIBRARY_PATH}")
  link_directories("${WSOL_PACKAGED_TOOLKIT}/lib")
elseif(NOT CMAKE_CUDA_COMPILER OR NOT EXISTS "${CMAKE_CUDA_COMPILER}")
  unset(CMAKE_CUDA_COMPILER CACHE)  # what was not found the last time may be there now, and the other way round
endif()

set(WSOL_WITHOUT_CUDA "")
set(WSOL_NVCC_RELEASE "")
include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  execute_process(COMMAND "${CMAKE_CUDA_COMPILER}" --version OUTPUT_VARIABLE WSOL_NVCC_SAYS ERROR_QUIET)
  if(WSOL_NVCC_SAYS MATCHES "release ([0-9]+\\.[0-9]+)")
    set(WSOL_NVCC_RELEASE "${CMAKE_MATCH_1}")
    if(WSOL_NVCC_RELEASE VERSION_LESS 12)
      set(WSOL_WITHOUT_CUDA "${CMAKE_CUDA_COMPILER} is of CUDA ${WSOL_NVCC_RELEASE}, which is older than 12")
    endif()
  endif()
else()
  set(WSOL_WITHOUT_CUDA "no CUDA compiler was found at installation")
  if(DEFINED ENV{CUDACXX})
    set(WSOL_NVCC "$ENV{CUDACXX}")
  else()
    find_program(WSOL_NVCC nvcc PATHS ENV PATH NO_DEFAULT_PATH NO_CACHE)
  endif()
  if(EXISTS "${WSOL_NVCC}")
    set(WSOL_WITHOUT_CUDA "${WSOL_NVCC} compiles nothing here (it may be too old for this C++ compiler)")
  endif()
endif()
if(WSOL_WITHOUT_CUDA AND NOT WSOL_CUDA STREQUAL "AUTO")
  message(FATAL_ERROR "WSOL_CUDA=${WSOL_CUDA}, but ${WSOL_WITHOUT_CUDA}: install the CUDA toolkit (12 or newer) and put nvcc "
                      "on PATH, or set CUDACXX to it, or say WSOL_CUDA=PIP; CUDAHOSTCXX chooses the C++ compiler it works with")
endif()
