#include "proto/base/error.h"

const char *mr_strerror(int code)
{
    switch (code) {
#define MR_ERROR_CASE(name, value, text)                                                                               \
    case name:                                                                                                         \
        return text;
        MR_ERROR_MAP(MR_ERROR_CASE)
#undef MR_ERROR_CASE
    default:
        return "unknown error";
    }
}
