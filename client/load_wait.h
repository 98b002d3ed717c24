/* load_wait.h - waiting for the moment to begin: a file that appears, or nodes that greet. Thread: any; blocks. */
#ifndef MR_CLIENT_LOAD_WAIT_H
#define MR_CLIENT_LOAD_WAIT_H

#include "client/load_options.h"

/* 0; MR_TIMEOUT after give_up_s, said on stderr. */
int load_wait(const struct load_options *options);

#endif
