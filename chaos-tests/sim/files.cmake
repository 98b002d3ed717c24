# The calls of POSIX that sim_files.c answers for code that runs in a node, as options of the linker: each program with
# the simulation's objects takes ${SIM_FILES_LINK_OPTIONS}.
set(SIM_WRAPPED_FILES open close pread pwrite preadv preadv2 pwritev fsync fdatasync ftruncate fallocate posix_fallocate fstat
    stat access unlink rename mkdir opendir readdir closedir statvfs flock lseek syscall)
set(SIM_FILES_LINK_OPTIONS)
foreach(name ${SIM_WRAPPED_FILES})
    list(APPEND SIM_FILES_LINK_OPTIONS -Wl,--wrap=${name})
endforeach()
