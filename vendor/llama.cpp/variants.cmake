# The CPU backend in a build for any CPU: upstream's sources, compiled once per variant, all of them
# in the module. Each variant becomes one relocatable object whose symbols are its own, so that the
# linker can never mix the code of two; csrc/variants chooses one when a model is first run.
#
# Variants are those of upstream's GGML_CPU_ALL_VARIANTS (ggml/src/CMakeLists.txt) that are faster than
# their neighbours on processors in use: on x86-64 AVX2 (Intel since 2013, AMD since 2015), its VNNI
# (Intel's desktops since 2021), AVX-512 (servers since 2017), its VNNI (2019) and BF16 (2020, AMD
# since 2022), and AMX (2023). Upstream's code makes no use of VBMI: no icelake, no zen4. The first
# runs on all.

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|amd64")
  set(apex_arch x86)
  set(avx2 SSE42 AVX F16C FMA AVX2 BMI2)
  set(all x64 haswell alderlake skylakex cascadelake cooperlake sapphirerapids) # widest last
  set(x64)
  set(haswell ${avx2})
  set(alderlake ${avx2} AVX_VNNI)
  set(skylakex ${avx2} AVX512)
  set(cascadelake ${skylakex} AVX512_VNNI)
  set(cooperlake ${cascadelake} AVX512_BF16)
  set(sapphirerapids ${cooperlake} AVX512_VBMI AMX_TILE AMX_INT8)
  foreach(feature AVX F16C FMA AVX2 BMI2 AVX_VNNI AVX512_VNNI AVX512_BF16 AVX512_VBMI)
    string(TOLOWER "-m${feature}" flag)
    string(REPLACE "_" "" flags_of_${feature} "${flag}")
  endforeach()
  set(flags_of_SSE42 -msse4.2)
  set(flags_of_AVX512 -mavx512f -mavx512cd -mavx512vl -mavx512dq -mavx512bw)
  set(flags_of_AMX_TILE -mamx-tile)
  set(flags_of_AMX_INT8 -mamx-int8)
  set(definition_prefix GGML_)
else()
  set(apex_arch arm)
  set(all armv8_0 armv8_2 armv8_6 armv8_6_sve2)
  set(armv8_0)
  set(armv8_2 DOTPROD FP16_VECTOR_ARITHMETIC) # Neoverse N1, Cortex-A76
  set(armv8_6 ${armv8_2} SVE MATMUL_INT8) # Neoverse V1
  set(armv8_6_sve2 ${armv8_6} SVE2) # Neoverse V2, N2
  set(base_armv8_0 -march=armv8-a)
  set(base_armv8_2 -march=armv8.2-a+dotprod+fp16)
  set(base_armv8_6 -march=armv8.6-a+dotprod+fp16+sve+i8mm)
  set(base_armv8_6_sve2 ${base_armv8_6}+sve2)
  set(definition_prefix GGML_USE_)
endif()

set(APEX_VARIANTS "${all}" CACHE STRING "Of the CPU backend in a build for any CPU; fewer to try it")

# All that is called by other names than through the backend's table.
set(entry_points ggml_backend_cpu_reg ggml_backend_score ggml_threadpool_new ggml_threadpool_free
  ggml_threadpool_pause)

set(ggml_src ${CMAKE_CURRENT_SOURCE_DIR}/ggml/src)
get_target_property(cpu_sources ggml-cpu SOURCES)
list(TRANSFORM cpu_sources PREPEND ${ggml_src}/ REGEX "^[^/]")
get_directory_property(cpu_definitions DIRECTORY ${ggml_src} COMPILE_DEFINITIONS)
get_target_property(more_definitions ggml-cpu COMPILE_DEFINITIONS)
list(APPEND cpu_definitions ${more_definitions})
get_target_property(cpu_includes ggml-cpu INCLUDE_DIRECTORIES)

include(CheckCXXCompilerFlag)
function(apex_add_variant name)
  set(flags ${base_${name}})
  foreach(feature ${${name}})
    list(APPEND flags ${flags_of_${feature}})
  endforeach()
  list(JOIN flags " " words)
  check_cxx_compiler_flag("${words}" apex_can_compile_${name})
  if(NOT apex_can_compile_${name})
    message(WARNING "The compiler knows no ${words}: there will be no variant ${name}")
    return()
  endif()
  set(features ${${name}})
  list(TRANSFORM features PREPEND ${definition_prefix})

  add_library(cpu-${name} OBJECT EXCLUDE_FROM_ALL ${cpu_sources})
  target_compile_definitions(cpu-${name} PRIVATE ${cpu_definitions} ${features})
  target_compile_options(cpu-${name} PRIVATE ${flags}
    $<$<COMPILE_LANG_AND_ID:CXX,GNU>:-fno-gnu-unique>) # unique symbols cannot be made local
  # Asks the CPU what it has, on any of them: none of the flags.
  add_library(cpu-${name}-score OBJECT EXCLUDE_FROM_ALL
    ${ggml_src}/ggml-cpu/arch/${apex_arch}/cpu-feats.cpp)
  target_compile_definitions(cpu-${name}-score PRIVATE ${cpu_definitions} ${features} GGML_BACKEND_DL)
  foreach(target cpu-${name} cpu-${name}-score)
    target_include_directories(${target} PRIVATE ${cpu_includes} ${ggml_src}/../include)
    set_target_properties(${target} PROPERTIES C_STANDARD 11 C_EXTENSIONS ON CXX_STANDARD 17)
  endforeach()

  set(object ${CMAKE_CURRENT_BINARY_DIR}/cpu-${name}.o)
  set(keep ${entry_points})
  list(TRANSFORM keep PREPEND --keep-global-symbol=)
  set(rename ${entry_points})
  list(TRANSFORM rename REPLACE "(.+)" "--redefine-sym=\\1=${name}_\\1")
  add_custom_command(OUTPUT ${object}
    COMMAND ${CMAKE_LINKER} -r --force-group-allocation -o ${object}
      $<TARGET_OBJECTS:cpu-${name}> $<TARGET_OBJECTS:cpu-${name}-score>
    COMMAND ${CMAKE_OBJCOPY} ${keep} ${object}
    COMMAND ${CMAKE_OBJCOPY} ${rename} ${object}
    DEPENDS $<TARGET_OBJECTS:cpu-${name}> $<TARGET_OBJECTS:cpu-${name}-score>
    COMMAND_EXPAND_LISTS VERBATIM)
  set(variant_objects ${variant_objects} ${object} PARENT_SCOPE)
  set(registers sse2)
  if(AVX512 IN_LIST ${name})
    set(registers avx512f)
  elseif(AVX IN_LIST ${name})
    set(registers avx)
  endif()
  set(variant_list "${variant_list}VARIANT(${name}, ${registers})\n" PARENT_SCOPE)
endfunction()

set(variant_objects)
set(variant_list)
foreach(name ${APEX_VARIANTS})
  apex_add_variant(${name})
endforeach()
file(CONFIGURE OUTPUT ${CMAKE_CURRENT_BINARY_DIR}/variants/variants.inc CONTENT "${variant_list}")
set(apex_variants_folder ${CMAKE_CURRENT_BINARY_DIR}/variants PARENT_SCOPE)

# They take the place of upstream's one backend.
add_custom_target(cpu-variants DEPENDS ${variant_objects})
add_dependencies(ggml-cpu cpu-variants)
set_source_files_properties(${variant_objects} TARGET_DIRECTORY ggml-cpu
  PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
set_target_properties(ggml-cpu PROPERTIES SOURCES "${variant_objects}" LINKER_LANGUAGE CXX)
