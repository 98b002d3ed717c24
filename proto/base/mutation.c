#include "proto/base/mutation.h"

#ifdef MAILRAFT_MUTATIONS
enum mr_mutation mr_mutation = MUTANT_NONE;
#else
typedef int mutations_are_not_built_in; /* a file must hold something */
#endif
